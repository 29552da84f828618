"""Commands zeros when the robot node cannot: a process of its own that the node starts.

    python -m robot_nodes.zero_sender FD TOPIC JOINTS RATE_HZ HANG_S DOMAIN NAME NAMESPACE

A forward command controller keeps the last command for ever, so a node that was killed, or whose loop
hangs, leaves the arm moving. This process holds the other end of a socket pair (FD) and a publisher of its
own on the same command topic:

    node ── alive | idle | seen | goodbye ──▶ here
    node ◀── heard | unheard | tripped ────── here

`alive` puts it on duty. If the node then dies (the socket closes without a goodbye), it commands zeros for
a second and until they are acknowledged, and ends. If nothing comes for HANG_S, it says `tripped` first,
then commands zeros at RATE_HZ until the node says that it has `seen` it, or dies. Signals do not end it:
it ends by itself, with its node. Only rclpy, std_msgs and the standard library: small, and quick to start.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import time

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Float64MultiArray

ALIVE, IDLE, SEEN, GOODBYE = b"a", b"i", b"s", b"g"
"""From the node: on duty; not on duty; I know that you tripped; I end in order."""
HEARD, UNHEARD, TRIPPED = b"h", b"u", b"t"
"""To the node: a controller hears my publisher; none does; your loop stood still, I command zeros."""

_SEARCH_S = 0.1  # how often to look for the controller while there is none
_FAREWELL_S, _LONGEST_FAREWELL_S = 1.0, 5.0  # zeros for a dead node: at least, and at most if nobody answers


class ZeroSender:
    """This process's end of the socket pair, and its publisher."""

    def __init__(self, node: Node, link: socket.socket, topic: str, joints: int, period_s: float) -> None:
        self._link, self._period_s = link, period_s
        self._publisher = node.create_publisher(Float64MultiArray, topic, 1)
        self._zero = Float64MultiArray(data=[0.0] * joints)
        self._on_duty = self._heard = self._tripped = False

    def run(self, hang_s: float) -> None:
        """Watch over the node until it is gone."""
        heard_s = time.monotonic()
        self._tell(UNHEARD)
        while True:
            # Before it looks: a message that came while this process itself had to wait for a core counts.
            overdue = time.monotonic() >= heard_s + hang_s
            message = self._receive(self._patience(heard_s + hang_s))
            if message == GOODBYE:
                return
            if message == b"":
                if self._on_duty:
                    self._say_farewell()
                return
            if message is not None:
                heard_s = time.monotonic()
                self._on_duty = message != IDLE
                self._tripped = self._tripped and message != SEEN
                self._look(answer=True)
            elif self._on_duty and not self._tripped and overdue:
                self._tripped = True
                self._tell(TRIPPED)  # before the first zero: a node that wakes up finds it
            if self._tripped:
                self._publisher.publish(self._zero)
            elif not self._heard:
                self._look(answer=False)

    def _patience(self, hangs_at_s: float) -> float:
        """How long to wait for the next message (s)."""
        if self._tripped:
            return self._period_s
        left_s = max(0.0, hangs_at_s - time.monotonic()) if self._on_duty else 1.0
        return left_s if self._heard else min(left_s, _SEARCH_S)

    def _receive(self, timeout_s: float) -> bytes | None:
        """The next message; empty when the node has gone, None after the timeout."""
        self._link.settimeout(max(1e-4, timeout_s))
        try:
            return self._link.recv(1)
        except TimeoutError:
            return None
        except ConnectionResetError:  # it left without reading us; a goodbye may still be in the queue
            return self._receive(timeout_s)

    def _look(self, *, answer: bool) -> None:
        heard = self._publisher.get_subscription_count() > 0
        if answer or heard != self._heard:
            self._heard = heard
            self._tell(TRIPPED if self._tripped else HEARD if heard else UNHEARD)

    def _tell(self, what: bytes) -> None:
        self._link.settimeout(0)
        with contextlib.suppress(OSError):  # gone, or it has not read for long: recv will tell
            self._link.send(what)

    def _say_farewell(self) -> None:
        """Zeros for a node that died without stopping the arm."""
        died_s = time.monotonic()
        while (age_s := time.monotonic() - died_s) < _LONGEST_FAREWELL_S:
            self._publisher.publish(self._zero)
            if age_s < _FAREWELL_S or self._publisher.get_subscription_count() == 0:
                time.sleep(self._period_s)
            elif self._publisher.wait_for_all_acked(Duration(seconds=0.2)):
                return


def main() -> None:
    """Run until the node that started this process is gone."""
    descriptor, topic, joints, rate_hz, hang_s, domain, name, namespace = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    rclpy.init(args=[], domain_id=int(domain), signal_handler_options=SignalHandlerOptions.NO)
    node = Node(
        name,
        namespace=namespace,
        enable_rosout=False,
        start_parameter_services=False,
        use_global_arguments=False,
    )
    with socket.socket(fileno=int(descriptor)) as link:
        ZeroSender(node, link, topic, int(joints), 1.0 / float(rate_hz)).run(float(hang_s))
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
