"""The learner's line to the replay server: waits for it, follows the log, survives its death."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from fleet.messages import TailReply, Welcome
from fleet.spaces import SpaceSpec
from replay_server.client import ReplayError

log = logging.getLogger(__name__)

_HELLO_TIMEOUT_S = 0.25
_TAIL_TIMEOUT_S = 2.0
_RETRY_S = 1.0
_REMIND_S = 10.0


class ReplayLog(Protocol):
    """What the learner needs of `replay_server.client.ReplayClient`; see there."""

    def hello(self, timeout_s: float | None = None) -> Welcome:
        """Introduce this process."""

    def begin_tail(self, cursor: int, max_rows: int, timeout_s: float | None = None) -> None:
        """Ask for rows and return at once."""

    def poll_tail(self, wait_s: float = 0.0) -> TailReply | None:
        """The rows asked for, if they are there."""

    def heartbeat(self, state: str, stats: dict[str, Any]) -> None:
        """Report; needs no answer."""


class ReplayLink:
    """A ReplayLog that may be down at any time; no call raises for that, and none waits for rows.

    link = ReplayLink(client, time.monotonic)
    while (spec := link.spec()) is None:
        stop.wait(0.1)
    reply = link.poll_tail(cursor, max_rows)     # None: nothing there yet

    While the server is down, a call costs at most one short hello a second. Once the spec is known,
    a server of another run counts as down: its rows are none of ours.

    Attributes:
        connected: The server answered the last request.
        run_id: The run, as the server named it; it stays once the spec is known.
    """

    def __init__(self, client: ReplayLog, clock: Callable[[], float]) -> None:
        """Wrap a client; `clock` is monotonic (s)."""
        self.connected = False
        self.run_id = ""
        self._client = client
        self._clock = clock
        self._asked = False
        self._follows = False
        self._next_hello = -float("inf")
        self._next_reminder = -float("inf")

    def _hello(self) -> Welcome | None:
        """Say hello, at most once a second; None if it is not time or there is no answer."""
        if self._clock() < self._next_hello:
            return None
        try:
            welcome = self._client.hello(_HELLO_TIMEOUT_S)
        except ReplayError as error:
            self.connected = False
            self._remind(f"waiting for the replay server: {error}")
            return None
        finally:
            self._next_hello = self._clock() + _RETRY_S
        if self._follows and welcome.run_id != self.run_id:
            self.connected = False
            self._remind(
                f"waiting for run {self.run_id!r}: the replay server now serves run {welcome.run_id!r}; "
                "start it with this run's folder, or restart the learner to follow the other run"
            )
            return None
        if not self.connected:
            log.info("connected to the replay server, run %s", welcome.run_id)
        self.connected, self._asked, self.run_id = True, False, welcome.run_id
        return welcome

    def _remind(self, text: str) -> None:
        if self._clock() >= self._next_reminder:
            log.info("%s", text)
            self._next_reminder = self._clock() + _REMIND_S

    def spec(self) -> SpaceSpec | None:
        """The run's spaces, once a robot has told them to the server; None before.

        Raises:
            fleet.spaces.SpaceError: The server's spec is malformed.
        """
        welcome = self._hello()
        if welcome is None:
            return None
        if not welcome.spec:
            self._remind("waiting for the first robot: nobody has told the replay server what a row is")
            return None
        spec = SpaceSpec.from_json(welcome.spec)
        self._follows = True
        return spec

    def poll_tail(self, cursor: int, max_rows: int) -> TailReply | None:
        """Rows from `cursor` on; None if they are not here yet, or the server is down.

        Ask again with the same cursor until the reply is there.
        """
        if not self.connected and self._hello() is None:
            return None
        try:
            if not self._asked:
                self._client.begin_tail(cursor, max_rows, _TAIL_TIMEOUT_S)
                self._asked = True
            reply = self._client.poll_tail()
        except ReplayError as error:
            log.warning("no rows from the replay server: %s; training goes on with those at hand", error)
            self.connected, self._asked = False, False
            self._next_reminder = self._clock() + _REMIND_S
            return None
        if reply is not None:
            self._asked = False
        return reply

    def heartbeat(self, state: str, stats: dict[str, Any]) -> None:
        """Report this process's state, if anybody listens."""
        if self.connected:
            self._client.heartbeat(state, stats)
