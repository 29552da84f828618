"""A replay server and a learner's policy socket in processes of their own, beside those who mean harm.

No keys: whoever can reach loopback can do all of this. Throughout, a well-behaved client must be
answered, and the process must neither grow beyond what its bounds say nor keep file descriptors.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import secrets
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from fleet.codec import decode, encode
from fleet.messages import (
    MAX_FRAME_BYTES,
    Ack,
    FleetCommand,
    Heartbeat,
    Hello,
    PolicyMessage,
    Refusal,
    SampleRequest,
    TransitionBatch,
    row_dtype,
)
from fleet.sockets import connect_dealer, connect_policy_subscriber
from fleet.spaces import Space, SpaceSpec
from replay_server.client import ReplayClient

ROOT = Path(__file__).parents[2]
PATIENCE_S = 5.0
"""What a well-behaved client waits at most; it is told in milliseconds, but these machines are busy."""
SLACK_MIB = 64
"""What a process may grow by in any test: heaps of threads, tables of 1024 peers and 128 processes."""

NX, NU = 30, 7
SPEC = SpaceSpec(
    Space(tuple(f"x{i}" for i in range(NX)), ("1",) * NX, (-1.0,) * NX, (1.0,) * NX),
    Space(tuple(f"u{i}" for i in range(NU)), ("1",) * NU, (-1.0,) * NU, (1.0,) * NU),
)

SERVER = """
import signal, sys, threading
from pathlib import Path
from fleet.config import ReplayServerConfig
from replay_server.server import run_replay_server

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
config = ReplayServerConfig(endpoint=sys.argv[1], capacity_rows=10_000, sample_min_rows=1)
run_replay_server(config, Path(sys.argv[2]), "run", stop, lambda: print("ready", flush=True))
"""

PUBLISHER = """
import signal, sys, time
import zmq
from fleet.sockets import bind_policy_publisher
from learner.publisher import PolicyPublisher
from fuzz_frames import policy

running = True
def stop(*_):
    global running
    running = False
signal.signal(signal.SIGTERM, stop)
context = zmq.Context()
publisher = PolicyPublisher(bind_policy_publisher(context, sys.argv[1]))
longest = next_s = version = 0
print("ready", flush=True)
while running:
    started = time.monotonic()
    publisher.serve()
    longest = max(longest, time.monotonic() - started)
    if started >= next_s:
        next_s, version = started + 0.1, version + 1
        publisher.publish(policy(version=version))
        counts = publisher.subscriptions, publisher.strange_subscriptions, publisher.handshakes.failed
        print(*counts, longest, flush=True)
        longest = 0
    time.sleep(0.002)
publisher.close()
context.term()
"""


class Victim:
    """A process that is attacked."""

    def __init__(self, code: str, endpoint: str, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/fuzz'}"}
        command = [sys.executable, "-c", code, endpoint, *arguments]
        self.endpoint, self.lines = endpoint, [""]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines[0] = line

    def stop(self) -> None:
        assert self.process.stdout is not None
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self._reader.join()
            self.process.stdout.close()
        assert self.process.returncode == 0

    @property
    def mib(self) -> float:
        """Memory that is really there (resident), MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def connect(self) -> socket.socket:
        """A TCP connection that leaves no trace in the kernel when it is closed."""
        made = socket.create_connection(("127.0.0.1", int(self.endpoint.rpartition(":")[2])), timeout=5)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return made

    def greet(self, kind: bytes) -> socket.socket:
        """A connection of which ZeroMQ thinks that a DEALER or SUB is at the other end."""
        made = self.connect()
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
        try:
            made.sendall(greeting + b"\x04" + bytes([len(ready)]) + ready)
            # What is sent before the other side is ready, too, is a breach of the protocol.
            _receive(made, 64)
            _receive(made, _receive(made, 2)[1])
        except OSError:
            made.close()
            raise
        return made


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionResetError("cut off in the handshake")
        received += part
    return received


def zmtp_frame(body: bytes) -> bytes:
    return b"\x02" + struct.pack(">Q", len(body)) + body


def hello(process_id: str, role: str = "robot") -> bytes:
    spec = SPEC.to_json() if role == "robot" else {}
    return encode(Hello(role=role, process_id=process_id, boot_id="boot", spec=spec))


def rows(robot_id: str, first_seq: int, count: int = 16) -> bytes:
    packed = np.zeros(count, row_dtype(NX, NU))
    ids = {"robot_id": robot_id, "boot_id": "boot", "spec_hash": SPEC.hash}
    return encode(TransitionBatch.from_packed(packed, first_seq=first_seq, episode=0, **ids))


class Friend:
    """A robot and a learner that do as they should, in a thread, and note how long answers took."""

    def __init__(self, context: zmq.Context, endpoint: str) -> None:
        self.rounds, self.longest_s = 0, 0.0
        self.failure: BaseException | None = None
        self._robot = connect_dealer(context, endpoint, secrets.token_hex(8).encode())
        self._learner = ReplayClient(endpoint, "learner", "friend", context=context, timeout_s=30)
        self._robot_id = f"friend-{secrets.token_hex(4)}"
        self._seq = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Friend:
        self._robot.send(hello(self._robot_id))
        self._round()
        self._learner.sample(1, 400)  # the first large reply starts a thread of pyzmq's, with descriptors
        self.rounds, self.longest_s = 0, 0.0
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._robot.close()
        self._learner.close()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.01):
                self._round()
        except BaseException as error:
            self.failure = error

    def _round(self) -> None:
        started = time.monotonic()
        self._robot.send(rows(self._robot_id, self._seq))
        self._seq += 16
        acked = -1
        while acked < self._seq - 1:
            assert self._robot.poll(30_000), "no ack"
            answer = decode(self._robot.recv())
            if isinstance(answer, Ack):
                acked = answer.durable_seq
            elif isinstance(answer, Refusal):  # its place among the known peers was taken
                self._robot.send(hello(self._robot_id))
                self._robot.send(rows(self._robot_id, self._seq - 16))
        assert self._learner.sample(1, 64).rows == 64
        self._learner.status()
        self.longest_s = max(self.longest_s, time.monotonic() - started)
        self.rounds += 1

    def must_be_well(self) -> None:
        """It got answers, each in time, and gets them now."""
        before = self.rounds
        deadline = time.monotonic() + PATIENCE_S
        while self.rounds < before + 2:
            assert self._thread.is_alive() and time.monotonic() < deadline, f"{self.rounds - before} answers"
            time.sleep(0.005)
        assert self.longest_s < PATIENCE_S


@pytest.fixture(scope="module")
def module_context() -> Iterator[zmq.Context]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    victim = Victim(SERVER, endpoint, str(tmp_path_factory.mktemp("abuse") / "run"))
    yield victim
    victim.stop()


@pytest.fixture
def friend(server: Victim, module_context: zmq.Context) -> Iterator[Friend]:
    with Friend(module_context, server.endpoint) as friend:
        yield friend


@pytest.fixture
def stats(server: Victim, module_context: zmq.Context) -> Iterator[Callable[[str], float]]:
    with ReplayClient(server.endpoint, "monitor", "watcher", context=module_context, timeout_s=30) as client:
        yield lambda name: client.status().stats[f"replay/{name}"]


@pytest.fixture(autouse=True)
def _no_descriptor_is_kept(server: Victim, friend: Friend, wait_until: Any) -> Iterator[None]:
    before = server.descriptors
    yield
    friend.must_be_well()
    # Segments of the journal and episode files come and go.
    wait_until(lambda: server.descriptors <= before + 4, 15, "descriptors are given back")


def attack(made: socket.socket, data: bytes) -> None:
    with made, contextlib.suppress(OSError):
        made.sendall(data)


def test_garbage_before_and_after_the_handshake(server, friend, stats, wait_until) -> None:
    rng, mib = random.Random(0), server.mib
    malformed, failed = stats("malformed_frames"), stats("handshakes_failed")
    for _ in range(150):
        attack(server.connect(), rng.randbytes(rng.randrange(1, 5000)))
        attack(server.greet(b"DEALER"), rng.randbytes(rng.randrange(1, 5000)))
        attack(server.greet(b"DEALER"), zmtp_frame(rng.randbytes(100)) * 3)
    attack(server.connect(), b"GET / HTTP/1.1\r\nHost: replay\r\n\r\n")
    wait_until(lambda: stats("malformed_frames") >= malformed + 100, what="malformed frames are counted")
    wait_until(lambda: stats("handshakes_failed") >= failed + 50, what="failed handshakes are counted")
    friend.must_be_well()
    assert server.mib < mib + SLACK_MIB


@pytest.mark.parametrize("size", [2**63, 2**63 - 1, MAX_FRAME_BYTES + 1])
def test_who_declares_too_much_is_cut_off(server, friend, size: int) -> None:
    mib, held = server.mib, []
    for _ in range(20):
        held.append(server.greet(b"DEALER"))
        held[-1].sendall(b"\x02" + struct.pack(">Q", size) + b"x" * 100)
    for made in held:
        with made, contextlib.suppress(ConnectionResetError):
            while made.recv(4096):  # its greeting, then the end
                pass
    friend.must_be_well()
    assert server.mib < mib + SLACK_MIB


def test_half_a_frame_and_then_silence(server, friend) -> None:
    mib = server.mib
    with contextlib.ExitStack() as held:
        for _ in range(100):
            made = held.enter_context(server.greet(b"DEALER"))
            made.sendall(b"\x02" + struct.pack(">Q", MAX_FRAME_BYTES) + b"x" * 1000)
        friend.must_be_well()
        # 6.4 GB are declared; what was not sent takes no memory.
        assert server.mib < mib + SLACK_MIB


def test_silent_connections_more_than_there_are_descriptors(server, friend, stats, wait_until) -> None:
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    mib, connections, failed = server.mib, stats("connections"), stats("handshakes_failed")
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (1000, limits[1]))
    with contextlib.ExitStack() as held:
        for _ in range(3000):
            made = held.enter_context(socket.socket())
            made.setblocking(False)
            made.connect_ex(("127.0.0.1", int(server.endpoint.rpartition(":")[2])))
        wait_until(lambda: server.descriptors > 900, what="the descriptors run out")
        friend.must_be_well()
        # Each is cut off after 5 s, and those that waited get their turn.
        wait_until(lambda: stats("handshakes_failed") >= failed + 1000, 20, "silent connections are counted")
        friend.must_be_well()
        assert server.mib < mib + SLACK_MIB
    assert stats("connections") >= connections + 1000
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)


def test_ten_thousand_connects(server, friend, stats, wait_until) -> None:
    mib, connections, disconnects = server.mib, stats("connections"), stats("disconnects")
    beginnings = (b"", b"hello", b"\xff" + bytes(8) + b"\x7f\x03")
    for i in range(10_000):
        with server.connect() as made:
            made.send(beginnings[i % 3])
    # Those that were reset before the server looked are never accepted.
    wait_until(lambda: stats("connections") >= connections + 5000, 20, "connections are counted")
    wait_until(lambda: stats("disconnects") >= disconnects + 5000, 20, "their ends are counted")
    friend.must_be_well()
    assert server.mib < mib + SLACK_MIB


def test_a_client_that_asks_for_ever_and_never_reads(server, friend) -> None:
    mib = server.mib
    request = zmtp_frame(encode(SampleRequest(request_id=1, batches=50, batch_size=200)))
    with server.greet(b"DEALER") as greedy:
        greedy.settimeout(0.1)
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                greedy.send(request * 100)
        friend.must_be_well()
        # 32 replies wait for it, each of 4 MiB at most, one more is under way.
        assert server.mib < mib + 33 * 4 + SLACK_MIB
    friend.must_be_well()


def test_a_client_that_leaves_while_its_requests_wait(server, friend) -> None:
    """ZeroMQ's heartbeats would abort the server here, some seconds later."""
    request = zmtp_frame(encode(SampleRequest(request_id=1, batches=50, batch_size=200)))
    for _ in range(5):
        leaving = server.greet(b"DEALER")
        leaving.settimeout(1.0)
        attack(leaving, request * 2000)
    friend.must_be_well()
    assert server.process.poll() is None


def test_a_robot_that_never_reads_its_acks(server, friend, stats, wait_until) -> None:
    mib = server.mib
    with server.greet(b"DEALER") as deaf:
        deaf.sendall(zmtp_frame(hello("deaf")))
        for seq in range(0, 4000):
            deaf.sendall(zmtp_frame(rows("deaf", seq, 1)))
        wait_until(lambda: stats("rows/deaf") == 4000, 20, "its rows are stored all the same")
        friend.must_be_well()
    assert server.mib < mib + SLACK_MIB


def test_floods_of_identities_ids_and_heartbeats(server, friend, module_context) -> None:
    mib = server.mib
    with server.greet(b"DEALER") as one:
        one.settimeout(10.0)
        for i in range(3000):
            beat = Heartbeat(
                role="robot",
                process_id=f"process-{i}",
                boot_id="boot",
                state="running",
                stamp_ns=i,
                stats={f"key{j}": "x" * 30 for j in range(50)},
            )
            command = FleetCommand(kind="pause", target=f"robot-{i}", reason="x" * 1000)
            one.sendall(
                zmtp_frame(hello(f"robot-{i}")) + zmtp_frame(encode(beat)) + zmtp_frame(encode(command))
            )
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.recv(2**20)
            one.settimeout(10.0)
    for i in range(1500):  # more than the server remembers
        with contextlib.closing(server.greet(b"DEALER")) as made:
            made.sendall(zmtp_frame(hello(f"another-{i}", "monitor")))
    friend.must_be_well()
    with ReplayClient(server.endpoint, "monitor", "m", context=module_context, timeout_s=30) as client:
        assert len(client.status().processes) <= 128
    assert server.mib < mib + SLACK_MIB


def test_the_policy_socket_goes_on(make_endpoint, module_context, wait_until) -> None:
    publisher = Victim(PUBLISHER, make_endpoint())

    def counts() -> list[float]:
        return [float(number) for number in publisher.lines[0].split()]

    def hears_policies() -> bool:
        for _ in range(2):  # the one that waited, and one that is new
            wait_until(lambda: robot.poll(0), PATIENCE_S, "the next policy")
            newest = decode(robot.recv())
        return isinstance(newest, PolicyMessage)

    robot = connect_policy_subscriber(module_context, publisher.endpoint)
    wait_until(lambda: robot.poll(0), what="the first policy")
    mib, descriptors = publisher.mib, publisher.descriptors
    try:
        rng = random.Random(0)
        for _ in range(60):
            with contextlib.suppress(ConnectionError):  # of the strangest garbage, all are cut off
                attack(publisher.connect(), rng.randbytes(500))
                attack(publisher.greet(b"SUB"), b"\x02" + struct.pack(">Q", 2**63) + b"\x01")
                attack(publisher.greet(b"SUB"), zmtp_frame(b"\x01" + bytes(2**20)))
        assert hears_policies()
        for topic in (lambda: b"\x01", lambda: b"\x01" + rng.randbytes(200)):
            flood = b"".join(zmtp_frame(topic()) for _ in range(20_000))
            with contextlib.suppress(ConnectionError), publisher.greet(b"SUB") as subscriber:
                subscriber.sendall(flood)
                assert hears_policies()
            assert hears_policies()
            # The trainer is kept no longer than it takes to read some hundred subscriptions.
            assert counts()[3] < 1.0
        wait_until(lambda: counts()[1] >= 16, what="subscriptions to other topics are counted")
        failed = counts()[2]
        for _ in range(50):
            publisher.connect().close()
        wait_until(lambda: counts()[2] >= failed + 25, what="failed handshakes are counted")
        # Of the 4 MB of topics ZeroMQ would make 150 MiB: the connections are cut at the 16th.
        assert publisher.mib < mib + SLACK_MIB
        wait_until(lambda: publisher.descriptors <= descriptors, 15, "descriptors are given back")
    finally:
        robot.close()
        publisher.stop()
