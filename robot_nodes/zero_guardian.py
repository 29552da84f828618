"""The node's side of the process that commands zeros when the node cannot (robot_nodes/zero_sender.py)."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import time

from robot_nodes.zero_sender import ALIVE, GOODBYE, HEARD, IDLE, SEEN, TRIPPED

logger = logging.getLogger(__name__)

_START_S = 20.0  # for the process to start, on a busy machine
_SILENCE_S = 2.0  # without an answer, at least
_END_S = 2.0


class ZeroGuardian:
    """Starts the process, feeds it, and knows what it says.

    guardian = ZeroGuardian(topic, joints=7, rate_hz=20, hang_s=1.0, domain=0, name=…, namespace=…)
    every guardian.period_s, from the loop that is watched over:  guardian.feed(on_duty=active)
    before each command:  if guardian.problem: command zero, latch
    guardian.close()                                             # after the last zero command

    Attributes:
        problem: Why commands other than zero must not be sent, until `renew`; empty when all is well.
        ready: The process runs and a controller hears its publisher.
    """

    def __init__(
        self, topic: str, joints: int, rate_hz: float, hang_s: float, domain: int, name: str, namespace: str
    ) -> None:
        """Start the process; `topic` as the node's publisher has it resolved."""
        self._arguments = [topic, *map(str, (joints, rate_hz, hang_s, domain)), name, namespace]
        self._hang_s = hang_s
        self.period_s = min(0.5, hang_s / 5)
        self._start()

    def _start(self) -> None:
        self._link, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            command = [sys.executable, "-m", "robot_nodes.zero_sender", str(other.fileno())]
            self._process = subprocess.Popen(
                [*command, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(other.fileno(),),
                start_new_session=True,  # what ends the node's process group must not end this one
            )
        self._link.setblocking(False)
        self._fed_s = self._started_s = time.monotonic()
        self._gap_s = 0.0  # between the newest two feeds
        self._answered_s: float | None = None
        self._lost = False  # the process died or is frozen: `renew` needs another one
        self.problem = ""
        self.ready = False

    @property
    def pid(self) -> int:
        """Process id of the zero sender."""
        return self._process.pid

    def feed(self, *, on_duty: bool) -> None:
        """Show that the loop runs; on duty, its silence from now on means zeros."""
        self.look()
        self._send(ALIVE if on_duty else IDLE)
        now_s = time.monotonic()
        self._gap_s, self._fed_s = now_s - self._fed_s, now_s
        if not self.problem:
            since_s = self._started_s if self._answered_s is None else self._answered_s
            limit_s = _START_S if self._answered_s is None else max(_SILENCE_S, 2 * self._hang_s)
            if now_s - since_s > limit_s:
                self._lost = True
                self.problem = (
                    f"the process that commands zeros has not answered for {now_s - since_s:.1f} s "
                    f"(limit {limit_s:g} s): it is frozen or this computer is overloaded"
                )

    def look(self) -> None:
        """Read without blocking what the process has said: one system call when it has said nothing."""
        while True:
            try:
                said = self._link.recv(1)
            except BlockingIOError:
                return
            except OSError:
                said = b""
            if not said:
                self._died()
                return
            self._answered_s = time.monotonic()
            self.ready = said == HEARD
            if said == TRIPPED and not self.problem:
                stood_s = max(self._answered_s - self._fed_s, self._gap_s)  # it may just have been fed again
                self.problem = (
                    f"the control loop stood still for {stood_s:.1f} s "
                    f"(limit {self._hang_s:g} s), zeros were commanded from outside: "
                    "was the process stopped, or is this computer overloaded?"
                )

    def acknowledge(self) -> None:
        """The node commands zeros itself again: the process may stop to."""
        self._send(SEEN)

    def renew(self) -> None:
        """A person lets the robot go on: clear the problem, with a new process if the old one died."""
        self.look()
        if self._lost:
            self._process.kill()
            self._end()
            self._start()
        self.problem = ""

    def close(self) -> None:
        """Say goodbye: the process ends without commanding anything."""
        self._send(GOODBYE)
        self._end()

    def _send(self, what: bytes) -> None:
        with contextlib.suppress(OSError):  # it died or does not read: `look` and `feed` find out
            self._link.send(what)

    def _died(self) -> None:
        self.ready, self._lost = False, True
        if not self.problem:
            self.problem = (
                "the process that commands zeros when this one cannot has died: resume to start a new one"
            )

    def _end(self) -> None:
        self._link.close()
        try:
            status = self._process.wait(_END_S)
            if status:
                logger.warning("the process that commands zeros has ended with status %d", status)
        except subprocess.TimeoutExpired:
            logger.error("the process that commands zeros did not end: killed")
            self._process.kill()
            self._process.wait()
