"""How many connections a bound socket had, and how many of them never became ZeroMQ's.

ZeroMQ drops strangers (no key, wrong key, random bytes, silence) before the socket's owner hears of
them; only the socket's monitor tells.
"""

from __future__ import annotations

import threading
import uuid

import zmq
from zmq.utils.monitor import recv_monitor_message

from fleet.sockets import Socket


class HandshakeCounter:
    """Counts the connections of one bound socket, in a thread.

    counter = HandshakeCounter(router)
    counter.failed
    counter.close()            # before the socket, and by its thread

    Attributes:
        accepted: Connections so far.
        closed: Those that have ended.
        completed: Those whose handshake succeeded.
    """

    def __init__(self, socket: Socket) -> None:
        """Watch a socket from now on."""
        self.accepted = self.completed = self.closed = 0
        self._socket = socket
        events = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        events |= zmq.EVENT_MONITOR_STOPPED
        # A name of its own: that of an earlier counter of this socket may still be taken.
        self._monitor = socket.get_monitor_socket(events, f"inproc://handshakes-{uuid.uuid4().hex}")
        self._thread = threading.Thread(target=self._run, name="handshakes", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> int:
        """Connections without a handshake, those among them that are still at it."""
        return max(0, self.accepted - self.completed)

    def close(self) -> None:
        """Stop watching."""
        self._socket.disable_monitor()
        self._thread.join()
        self._monitor.close()

    def _run(self) -> None:
        # Never slow, never ending early: ZeroMQ's own thread waits for this one when the queue is full.
        while True:
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_ACCEPTED:
                self.accepted += 1
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.completed += 1
            elif event == zmq.EVENT_DISCONNECTED:
                self.closed += 1
            else:
                return
