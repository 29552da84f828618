"""Hears the learner of a chaos run: when its heartbeat was seen last, and whether its versions rise."""

from __future__ import annotations

import threading

from fleet.confirmation import PolicyListener
from fleet.sockets import Context

_PERIOD_S = 0.1
_TIMEOUT_S = 0.5


class LearnerWatch:
    """Asks the replay server and listens to the policies, in a thread of its own.

    Attributes:
        heartbeat_ns: Wall time of the learner's newest heartbeat that the server passed on (ns).
        versions: How many different policies were heard.
        newest_version: Version of the newest one; -1 before the first.
        versions_fell: Policies that were older than one heard before.
    """

    def __init__(self, server: str, policy: str) -> None:
        self._server, self._policy = server, policy
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="learner-watch", daemon=True)
        self.heartbeat_ns = self.versions = self.versions_fell = 0
        self.newest_version = -1

    def __enter__(self) -> LearnerWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        from replay_server.client import ReplayClient, ReplayError

        context: Context = Context()
        with (
            PolicyListener(self._policy) as policies,
            ReplayClient(self._server, "monitor", "faults", timeout_s=_TIMEOUT_S, context=context) as client,
        ):
            while not self._stop.wait(_PERIOD_S):
                if (policy := policies.newest()) is not None and policy.version != self.newest_version:
                    self.versions += 1
                    self.versions_fell += policy.version < self.newest_version
                    self.newest_version = policy.version
                try:
                    status = client.status()
                except ReplayError:  # it was killed or stopped, as it should be
                    continue
                for process in status.processes:
                    if process["role"] == "learner":
                        self.heartbeat_ns = max(self.heartbeat_ns, int(process["stamp_ns"]))
        context.term()
