from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from fleet.codec import decode, encode
from fleet.messages import FleetCommand, Refusal, Status, StatusRequest, TailReply, row_dtype
from fleet.sockets import bind_router
from replay_server.client import ReplayClient, ReplayError, ReplayRefused, ReplayTimeout


@pytest.fixture
def connect(context: zmq.Context) -> Iterator[Callable[..., ReplayClient]]:
    clients: list[ReplayClient] = []

    def make(endpoint: str, **settings: Any) -> ReplayClient:
        clients.append(ReplayClient(endpoint, "learner", "learner", context=context, **settings))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


class FakeServer:
    """A ROUTER whose answers the test writes."""

    def __init__(self, context: zmq.Context, endpoint: str) -> None:
        self.socket = bind_router(context, endpoint)

    def receive(self) -> tuple[bytes, Any]:
        assert self.socket.poll(10_000)
        identity, frame = self.socket.recv_multipart()
        return identity, decode(frame)

    def send(self, identity: bytes, message: Any) -> None:
        self.socket.send_multipart([identity, encode(message)])


@pytest.fixture
def fake(context: zmq.Context, free_endpoint: str) -> FakeServer:
    return FakeServer(context, free_endpoint)


def test_a_learner_follows_samples_and_reports(fleet, connect, make_batch, make_spec) -> None:
    with fleet(sample_min_rows=20) as it:
        client = connect(it.endpoint)
        assert client.hello().spec == {}
        robot = it.peer()
        robot.hello()
        assert client.hello().spec == make_spec().to_json()
        robot.ask(make_batch(15, 0))
        with pytest.raises(ReplayRefused, match="15 of 20 rows are here"):
            client.sample(1, 4)
        robot.ask(make_batch(15, 15))
        assert client.sample(2, 8).rows == 16
        assert client.sample(2, 8, demonstration_fraction=1.0).intervened.all()
        cursor, rewards = 0, []
        while (reply := client.tail(cursor, 12)).rows:
            rewards += reply.reward.tolist()
            cursor = reply.next_cursor
        assert rewards == list(range(30))
        client.heartbeat("running", {"learner/updates": 7})
        status = client.status()
        assert [(p["process_id"], p["stats"]) for p in status.processes] == [
            ("learner", {"learner/updates": 7})
        ]


def test_a_command_reaches_the_robot(fleet, connect) -> None:
    with fleet() as it:
        client = connect(it.endpoint)
        assert client.command("pause").delivered_to == []
        with pytest.raises(ReplayRefused, match="no robot 'arm1'; robots that said hello: none"):
            client.command("pause", "arm1")
        robot = it.peer()
        robot.hello()
        assert client.command("estop", "arm1", "smoke").delivered_to == ["arm1"]
        assert robot.receive() == FleetCommand(kind="pause"), "who comes after a pause is told of it"
        assert robot.receive() == FleetCommand(kind="estop", target="arm1", reason="smoke")


def test_a_tail_in_flight_does_not_block_and_survives_other_requests(fleet, connect, make_batch) -> None:
    with fleet() as it:
        robot = it.peer()
        robot.hello()
        robot.ask(make_batch(6, 0))
        client = connect(it.endpoint)
        client.begin_tail(2, 3)
        assert client.status().stats["replay/rows_inserted"] == 6
        begun = time.monotonic()
        reply = client.poll_tail(wait_s=5.0)
        assert time.monotonic() - begun < 2.0, "a reply that is here already is not waited for"
        assert reply is not None, "it came while status was waited for: answers come in order"
        assert reply.reward.tolist() == [2, 3, 4]
        with pytest.raises(ReplayError, match="begin_tail first"):
            client.poll_tail()
        client.begin_tail(-1, 3)
        with pytest.raises(ReplayRefused, match="cursor ≥ 0"):
            client.poll_tail(wait_s=10.0)
        client.begin_tail(0, 6)
        with pytest.raises(ReplayError, match="in flight already"):
            client.begin_tail(0, 6)


def test_poll_tail_says_not_yet(fake: FakeServer, free_endpoint: str, connect) -> None:
    client = connect(free_endpoint)
    client.begin_tail(0, 3)
    identity, request = fake.receive()
    assert client.poll_tail() is None
    reply = TailReply.from_packed(
        np.zeros(0, row_dtype(3, 2)),
        request_id=request.request_id,
        first_cursor=0,
        next_cursor=0,
        end_cursor=0,
    )
    fake.send(identity, reply)
    assert client.poll_tail(wait_s=10.0) is not None


def test_a_tail_that_ended_in_a_malformed_frame_can_be_begun_again(
    fake: FakeServer, free_endpoint: str, connect
) -> None:
    client = connect(free_endpoint)
    client.begin_tail(0, 3, timeout_s=1.0)
    identity, _ = fake.receive()
    fake.socket.send_multipart([identity, b"nonsense"])
    with pytest.raises(ReplayError, match="something else than this version's messages"):
        client.poll_tail(wait_s=10.0)
    deadline = time.monotonic() + 10.0
    while True:
        try:
            client.begin_tail(0, 3)
            break
        except ReplayError:
            assert time.monotonic() < deadline


def test_an_absent_server_is_named_and_not_waited_for_longer_than_asked(free_endpoint: str, connect) -> None:
    client = connect(free_endpoint, timeout_s=0.05)
    begun = time.monotonic()
    for ask in (client.hello, client.status, lambda: client.sample(1, 1), lambda: client.tail(0, 1)):
        with pytest.raises(ReplayTimeout, match=f"from {free_endpoint}: is the replay server running"):
            ask()
    client.begin_tail(0, 1)
    with pytest.raises(ReplayTimeout, match="no answer to TailRequest"):
        client.poll_tail(wait_s=10.0)
    for _ in range(3000):
        client.heartbeat("waiting")  # far more than the queue holds
    assert time.monotonic() - begun < 5.0
    assert issubclass(ReplayTimeout, TimeoutError)


def test_a_server_that_comes_later_is_found(fleet, free_endpoint: str, connect) -> None:
    client = connect(free_endpoint, timeout_s=0.05)
    with pytest.raises(ReplayTimeout):
        client.hello()
    with fleet():
        assert client.hello(timeout_s=10.0).run_id == "run1"
    with pytest.raises(ReplayTimeout):
        client.hello()
    with fleet():
        assert client.hello(timeout_s=10.0).run_id == "run1"


def status(request_id: int) -> Status:
    return Status(request_id=request_id, run_id=f"for {request_id}", stats={}, processes=[], evaluations=[])


def test_a_late_answer_is_not_taken_for_a_newer_one(fake: FakeServer, free_endpoint: str, connect) -> None:
    client = connect(free_endpoint, timeout_s=10.0)
    with pytest.raises(ReplayTimeout):
        client.status(timeout_s=0.2)
    late, first = fake.receive()
    client.begin_tail(0, 1)  # only to have something on the way while answers come out of turn
    identity, _ = fake.receive()
    assert identity != late, "a new socket, so that the late answer goes nowhere"
    fake.send(late, status(first.request_id + 1))
    fake.send(identity, status(first.request_id))
    fake.send(identity, Refusal(request="SampleRequest", reason="for somebody else"))
    fake.send(identity, status(first.request_id + 2))
    assert client.status().run_id == f"for {first.request_id + 2}"


def test_another_protocol_version_is_said(fake: FakeServer, free_endpoint: str, connect) -> None:
    client = connect(free_endpoint)
    client.begin_tail(0, 1)
    identity, _ = fake.receive()
    frame = bytearray(encode(StatusRequest(request_id=1)))
    frame[4] = 9
    fake.socket.send_multipart([identity, bytes(frame)])
    with pytest.raises(ReplayError, match="protocol version 9, this side speaks 2"):
        client.status()
