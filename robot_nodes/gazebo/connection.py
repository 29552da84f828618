"""A connection to a world in Gazebo, through our world plugin; the protocol is in docs/gazebo_protocol.md."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import Self

Array = NDArray[np.float64]

PROTOCOL_VERSION = 1

_HEADER = struct.Struct("<IHH")  # payload size, kind, version
_BOUND = struct.Struct("<II")
_STATE = struct.Struct("<QQ")
_MAX_PAYLOAD = 65536
_RECEIVE_BUFFER = 16 * 1024  # small: of a stream, states that nobody reads are dropped, not piled up
_GONE = "its gzserver has ended; start it again and reconnect"


class Kind(IntEnum):
    """Kinds of frames."""

    BIND = 1
    COMMAND = 2
    RESET = 3
    FREE = 4
    HOLD = 5
    STEP = 6
    ERROR = 100
    BOUND = 101
    STATE = 102
    STREAM = 103


class GazeboConnectionError(OSError):
    """The world is gone, does not answer, or refused a request; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The answer to a bind.

    Attributes:
        joints: How many joints are bound: n of every array.
        timestep_ns: Of one physics step (ns).
    """

    joints: int
    timestep_ns: int


@dataclass(frozen=True, slots=True)
class State:
    """The bound joints at the end of a physics step.

    Attributes:
        time_ns: Simulated time (ns).
        iterations: Physics steps since the world started.
        position: [n] (rad).
        velocity: [n] (rad/s).
        effort: Of the motor, or as commanded; 0 of a passive joint [n] (N m).
    """

    time_ns: int
    iterations: int
    position: Array
    velocity: Array
    effort: Array


class GazeboConnection:
    """One client of a world. After an error it is closed: make another one.

        connection = GazeboConnection(port, "world")
        connection.bind(["robot1::joint_1 velocity", "robot1_door::door_hinge passive"])
        connection.hold()
        connection.command([0.5, 0.0])  # in force until the next; of the passive joint ignored
        state = connection.step(50)

    or, in a world that runs on its own, `connection.free(10)` and then `connection.receive()` again and
    again, for a state every 10 steps.
    """

    def __init__(self, port: int, world: str = "world", timeout_s: float = 30.0) -> None:
        """Connect to the plugin on this machine.

        Args:
            port: Where it listens, from the world's server.json.
            world: Its name, for messages.
            timeout_s: How long an answer is waited for (s); other clients that hold the world count.

        Raises:
            GazeboConnectionError: Nothing listens there.
        """
        self._world = world
        self._timeout_s = timeout_s
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        except OSError as error:
            raise GazeboConnectionError(
                f"Gazebo world {world!r}: cannot connect to 127.0.0.1:{port}: {error}; does its gzserver run?"
            ) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._joints = 0

    def bind(self, lines: Sequence[str]) -> Bound:
        """Say which joints this connection is about, and how each is driven; once, and first.

        Args:
            lines: One `<model>::<joint> <velocity|effort|passive>` per joint, in the order of all arrays.

        Raises:
            GazeboConnectionError: There is no such joint, or another client drives it.
        """
        self._send(Kind.BIND, "".join(f"{line}\n" for line in lines).encode())
        bound = Bound(*_BOUND.unpack(self._answer(Kind.BOUND)))
        self._joints = bound.joints
        return bound

    def command(self, values: ArrayLike) -> None:
        """Drive the joints until the next command: velocities (rad/s) or torques (N m) [n]."""
        self._send(Kind.COMMAND, self._row(values))

    def reset(self, position: ArrayLike, velocity: ArrayLike | None = None, seed: int = 0) -> State:
        """Put joints at positions [n] (rad) and velocities [n] (rad/s), by default at rest, commanded to 0.

        Args:
            position: NaN: leave this joint as it is, with its velocity and its command.
            velocity: Ignored where the position is NaN.
            seed: Of the physics solver; 0: leave it alone.
        """
        velocities = np.zeros(self._joints) if velocity is None else velocity
        self._send(Kind.RESET, struct.pack("<I", seed) + self._row(position) + self._row(velocities))
        return self._state(self._answer(Kind.STATE))

    def free(self, every: int) -> State:
        """Let the world run on, and stream a state every so many physics steps: see `receive`."""
        self._send(Kind.FREE, struct.pack("<I", every))
        return self._state(self._answer(Kind.STATE))

    def hold(self) -> State:
        """From now on the world waits for this connection's `step`."""
        self._send(Kind.HOLD, b"")
        return self._state(self._answer(Kind.STATE))

    def step(self, steps: int) -> State:
        """Let the world do this many physics steps; returns the state at the end of the last one."""
        self._send(Kind.STEP, struct.pack("<I", steps))
        return self._state(self._answer(Kind.STATE))

    def receive(self) -> State:
        """The next streamed state, after `free`; waits for it."""
        return self._state(self._answer(Kind.STREAM))

    def readable(self, timeout_s: float = 0.0) -> bool:
        """Whether something arrives within this time (s); of a closed connection: that it is."""
        return self.fileno() < 0 or bool(select.select([self._socket], [], [], timeout_s)[0])

    def fileno(self) -> int:
        """The socket's file descriptor, to wait on: readable when `receive` has something to read."""
        return self._socket.fileno()

    def close(self) -> None:
        """Disconnect: the plugin brakes the joints this connection drove. Can be called twice."""
        self._socket.close()

    def __enter__(self) -> Self:
        """This connection."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Disconnect."""
        self.close()

    def _row(self, values: ArrayLike) -> bytes:
        row = np.asarray(values, "<f8")
        if row.shape != (self._joints,):
            raise ValueError(f"expected [{self._joints}] values, one per bound joint, got shape {row.shape}")
        return row.tobytes()

    def _send(self, kind: Kind, payload: bytes) -> None:
        try:
            self._socket.sendall(_HEADER.pack(len(payload), kind, PROTOCOL_VERSION) + payload)
        except OSError as error:
            self._fail_with_reason(error)

    def _fail_with_reason(self, error: OSError) -> NoReturn:
        """Raise for a failed send: with what the plugin said before it closed, if it did."""
        try:
            self._answer(Kind.ERROR)
        except GazeboConnectionError as said:
            raise said from error
        raise AssertionError("an ERROR is always raised")

    def _answer(self, wanted: Kind) -> bytes:
        """Payload of the next frame of a kind; streamed states before it are dropped."""
        while True:
            size, kind, version = _HEADER.unpack(self._read(_HEADER.size))
            if version != PROTOCOL_VERSION or size > _MAX_PAYLOAD:
                self._fail(f"its plugin speaks version {version}, this client {PROTOCOL_VERSION}")
            payload = self._read(size)
            if kind == Kind.ERROR:
                self._fail(f"refused: {payload.decode(errors='replace')}")
            if kind == wanted:
                return payload
            if kind != Kind.STREAM:
                self._fail(f"sent a frame of kind {kind} instead of {wanted}")

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                part = self._socket.recv(size - len(data), socket.MSG_WAITALL)
            except TimeoutError:
                self._fail(
                    f"no answer within {self._timeout_s:g} s; is it paused, or held by another client?"
                )
            except OSError as error:
                self._fail(f"connection lost ({error}): {_GONE}")
            if not part:
                self._fail(f"connection closed: {_GONE}")
            data += part
        return bytes(data)

    def _fail(self, text: str) -> NoReturn:
        self.close()
        raise GazeboConnectionError(f"Gazebo world {self._world!r}: {text}")

    def _state(self, payload: bytes) -> State:
        time_ns, iterations = _STATE.unpack_from(payload)
        rows = np.frombuffer(payload, "<f8", offset=_STATE.size).reshape(3, self._joints)
        return State(time_ns, iterations, rows[0], rows[1], rows[2])
