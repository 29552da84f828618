"""Who may connect and who is who: the allow-list, asked by ZeroMQ for every new connection (ZAP).

with Gatekeeper(context, credentials) as gatekeeper:
    router = bind_router(context, endpoint, credentials)
    frame = router.recv_multipart(copy=False)[-1]
    sender = gatekeeper.who(frame.get("User-Id"))       # None: not, or no longer, allowed
    if gatekeeper.revoked():
        drop_connections(router)
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from zmq.auth.thread import ThreadAuthenticator

from fleet.config import ConfigError
from fleet.key_files import AllowedKey, KeyFolder, Role, fingerprint, read_allowed
from fleet.keys import Credentials
from fleet.sockets import POLICY_DOMAIN, REPLAY_DOMAIN, Context

logger = logging.getLogger(__name__)

_DOORS: dict[str, tuple[Role, ...]] = {
    REPLAY_DOMAIN: ("robot", "learner", "operator", "monitor"),
    POLICY_DOMAIN: ("robot", "operator"),
}
_LOOK_PERIOD_S = 1.0
_LOG_PERIOD_S = 10.0

_Signature = tuple[tuple[str, int, int, int], ...]


class AllowList:
    """The keys of `allowed/` as they are now: a change is seen within a second.

    Threads may share it: they only ever replace whole dictionaries.
    """

    def __init__(self, folder: KeyFolder, clock: Callable[[], float] = time.monotonic) -> None:
        """Read it once; `clock` is monotonic (s).

        Raises:
            ConfigError: A file is damaged. Later such a file only means that its key is not allowed.
        """
        folder.allowed()
        self._folder, self._clock = folder, clock
        self._seen: _Signature | None = None
        self._keys: dict[str, AllowedKey] = {}
        self._next_look_s = -float("inf")
        self._look()

    def get(self, public: str) -> AllowedKey | None:
        """The allowed key with these 40 characters; None if there is none."""
        if self._clock() >= self._next_look_s:
            self._look()
        return self._keys.get(public)

    def keys(self) -> dict[str, AllowedKey]:
        """All of them, by their 40 characters."""
        if self._clock() >= self._next_look_s:
            self._look()
        return self._keys

    def _look(self) -> None:
        self._next_look_s = self._clock() + _LOOK_PERIOD_S
        try:
            if (signature := self._signature()) != self._seen:
                self._keys, self._seen = self._read(), signature
        except OSError as error:
            if self._keys:
                logger.error("%s cannot be read, nobody is let in: %s", self._folder.allowed_path, error)
            self._keys, self._seen = {}, None

    def _signature(self) -> _Signature:
        """Changes with every file that comes, goes or is written, also in place."""
        with os.scandir(self._folder.allowed_path) as entries:
            files = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(".pub")]
        return tuple(sorted((name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in files))

    def _read(self) -> dict[str, AllowedKey]:
        keys: dict[str, AllowedKey] = {}
        ambiguous: set[str] = set()
        for path in sorted(self._folder.allowed_path.glob("*.pub")):
            try:
                key = read_allowed(path)
            except ConfigError as error:
                logger.error("ignored: %s", error)
                continue
            if key.public in keys:
                logger.error("%s: the same key as %s; neither is let in", path, keys[key.public].name)
                ambiguous.add(key.public)
            keys[key.public] = key
        return {public: key for public, key in keys.items() if public not in ambiguous}


class _PatientAuthenticator(ThreadAuthenticator):
    """Refuses "for now" instead of for good, after which a client would never try again.

    So a robot that was started before its key was allowed gets in when it is, by itself.
    """

    def _send_zap_reply(
        self, request_id: bytes, status_code: bytes, status_text: bytes, user_id: str = "anonymous"
    ) -> None:
        status_code = b"200" if status_code == b"200" else b"300"
        super()._send_zap_reply(request_id, status_code, status_text, user_id)


class Gatekeeper:
    """Answers for all sockets of one context that were bound with credentials.

    Attributes:
        denied: Connections whose key is not allowed, or has a role that has no business there.
    """

    def __init__(
        self, context: Context, credentials: Credentials, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start to answer; a context can have one, once.

        Raises:
            ConfigError: The allow-list is damaged.
        """
        self.denied = 0
        self._clock = clock
        self._allowed = AllowList(credentials.folder, clock)
        self._known = self._allowed.keys()
        self._next_log_s = -float("inf")
        self._authenticator = _PatientAuthenticator(context)
        for domain in _DOORS:
            self._authenticator.configure_curve_callback(domain, self)
        self._authenticator.start()

    def __enter__(self) -> Gatekeeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread; connections that are there stay."""
        self._authenticator.stop()

    def who(self, user_id: str) -> AllowedKey | None:
        """Whose frame it is, by its "User-Id"; None if the key is not, or no longer, allowed."""
        return self._allowed.get(user_id)

    def revoked(self) -> list[str]:
        """Names of the keys that were revoked or replaced since the last call."""
        if (keys := self._allowed.keys()) is self._known:
            return []
        gone = [key.name for public, key in self._known.items() if keys.get(public) != key]
        self._known = keys
        if gone:
            logger.warning("no longer allowed as before: %s", ", ".join(gone))
        return gone

    def stats(self) -> dict[str, float]:
        """Flat slash keys."""
        return {"security/keys_allowed": len(self._allowed.keys()), "security/handshakes_denied": self.denied}

    def callback(self, domain: str, public: bytes) -> bool:
        """Whether this key may connect; ZeroMQ asks, in the authenticator's thread."""
        key = self._allowed.get(text := public.decode("ascii"))
        if key is not None and key.role in _DOORS[domain]:
            return True
        self.denied += 1
        if self._clock() >= self._next_log_s:  # whoever is refused tries again for ever
            self._next_log_s = self._clock() + _LOG_PERIOD_S
            if key is None:
                logger.warning("refused a key that is not allowed, fingerprint %s", fingerprint(text))
            else:
                logger.warning("refused %s at the %s socket: its role is %s", key.name, domain, key.role)
        return False
