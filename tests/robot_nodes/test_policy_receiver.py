"""Which policies a robot takes from the learner, and that it is always the newest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zmq

from fleet.codec import decode, encode
from fleet.messages import PolicyMessage, StatusRequest, policy_checksum
from fleet.sockets import bind_policy_publisher
from fleet.spaces import Space, SpaceSpec
from robot_nodes.policy_receiver import PolicyReceiver

SPEC = SpaceSpec(
    observation=Space(("a", "b"), ("1", "1"), (-1.0, -1.0), (1.0, 1.0)),
    action=Space(("u",), ("1",), (-1.0,), (1.0,)),
)
WaitUntil = Callable[..., None]


def make_policy(version: int = 0, run_id: str = "run1", **changes: Any) -> PolicyMessage:
    """nx 2, nu 1, no hidden layer; the bias is version / 100."""
    arrays = {
        "parameters": np.array([0.0, 0.0, version / 100], "<f4"),
        "observation_mean": np.zeros(2, "<f4"),
        "observation_scale": np.ones(2, "<f4"),
    }
    arrays.update({key: changes.pop(key) for key in list(changes) if key in arrays})
    message = PolicyMessage(
        run_id=run_id,
        version=version,
        learner_step=10 * version,
        spec_hash=SPEC.hash,
        layer_sizes=[2, 1],
        exploration_std=0.3,
        exploration_correlation=0.0,
        published_ns=time.time_ns(),
        checksum=policy_checksum(*arrays.values()),
        **arrays,
    )
    return replace(message, **changes)


@pytest.fixture
def receiver() -> PolicyReceiver:
    return PolicyReceiver("tcp://127.0.0.1:1", SPEC)  # never started: `offer` needs no socket


def version_of(receiver: PolicyReceiver) -> int:
    return receiver.newest.policy.version if receiver.newest else -1


# Which are taken -----------------------------------------------------------------------------


def test_a_newer_one_is_taken(receiver: PolicyReceiver) -> None:
    assert receiver.newest is None
    before_s = time.monotonic()
    assert receiver.offer(encode(make_policy(0)))
    first = receiver.newest
    assert first is not None and before_s <= first.received_s <= time.monotonic()
    assert receiver.offer(encode(make_policy(7)))
    assert version_of(receiver) == 7
    assert receiver.newest is not None
    assert receiver.newest.policy.mean_action([1.0, 1.0]) == pytest.approx(np.tanh([0.07]), abs=1e-6)
    assert first.policy.version == 0, "a tick that holds the old one keeps it whole"
    assert (receiver.swaps, receiver.refused) == (2, 0)


def test_the_same_version_again_is_not_swapped_in_but_is_not_old(receiver: PolicyReceiver) -> None:
    receiver.offer(encode(make_policy(3)))
    held = receiver.newest
    assert not receiver.offer(encode(make_policy(3)))
    assert held is not None and receiver.newest is not None
    assert receiver.newest.policy is held.policy
    assert receiver.newest.received_s > held.received_s
    assert (receiver.swaps, receiver.refused) == (1, 0)


def test_an_older_version_of_the_same_run_is_refused(
    receiver: PolicyReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.offer(encode(make_policy(5)))
    assert not receiver.offer(encode(make_policy(4)))
    assert (version_of(receiver), receiver.refused) == (5, 1)
    assert "version 4 is older than 5 of the same run run1" in caplog.text


def test_a_new_run_may_begin_at_a_lower_version(receiver: PolicyReceiver) -> None:
    receiver.offer(encode(make_policy(500, "run1")))
    assert receiver.offer(encode(make_policy(2, "run2")))
    assert (version_of(receiver), receiver.refused) == (2, 0)
    assert receiver.newest is not None and receiver.newest.policy.run_id == "run2"
    assert not receiver.offer(encode(make_policy(1, "run2")))


def test_latency_is_measured_once_the_run_is_known(receiver: PolicyReceiver) -> None:
    receiver.offer(
        encode(make_policy(0, published_ns=time.time_ns() - 3600 * 10**9))
    )  # a last value, sent again
    assert list(receiver.latencies_ms) == []
    receiver.offer(encode(make_policy(1, published_ns=time.time_ns() - 5 * 10**6)))
    assert len(receiver.latencies_ms) == 1
    assert 5.0 <= receiver.latencies_ms[0] < 1000.0


NOT_FOR_THIS_ROBOT: dict[str, tuple[Callable[[], bytes], str]] = {
    "another spec": (lambda: encode(make_policy(2, spec_hash="0ther")), "is for other spaces"),
    "not a number": (lambda: encode(make_policy(2, parameters=np.full(3, np.nan, "<f4"))), "not finite"),
    "bad checksum": (lambda: encode(make_policy(2, checksum="0" * 32)), "damaged"),
    "changed on the way": (lambda: encode(make_policy(2))[:-1] + b"\x41", "damaged"),
    "cut off": (lambda: encode(make_policy(2))[:-4], "bytes declared"),
    "no policy": (lambda: encode(StatusRequest(request_id=1)), "expected a policy, got a StatusRequest"),
    "garbage": (lambda: b"\x00garbage" * 10, "not a parallel-naf frame"),
    "empty": (lambda: b"", "frame of 0 bytes"),
    "sizes do not add up": (lambda: encode(make_policy(2, layer_sizes=[2, 4, 1])), "take 17 parameters"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_FOR_THIS_ROBOT)
@pytest.mark.parametrize("holds_one", [False, True])
def test_what_is_refused_leaves_the_old_policy(
    receiver: PolicyReceiver, caplog: pytest.LogCaptureFixture, case: str, holds_one: bool
) -> None:
    make_frame, reason = NOT_FOR_THIS_ROBOT[case]
    if holds_one:
        receiver.offer(encode(make_policy(1)))
    held = receiver.newest
    assert not receiver.offer(make_frame())
    assert receiver.newest is held
    assert receiver.refused == 1
    assert reason in caplog.text and "tcp://127.0.0.1:1" in caplog.text
    assert receiver.offer(encode(make_policy(3))), "and the next good one is taken"


def test_the_same_refusal_is_logged_once_but_counted_each_time(
    receiver: PolicyReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    frame = encode(make_policy(2, spec_hash="0ther"))
    with caplog.at_level(logging.ERROR):
        for _ in range(10):
            receiver.offer(frame)
        receiver.offer(b"garbage, something else")
    assert receiver.refused == 11
    assert len(caplog.records) == 2


# Real sockets --------------------------------------------------------------------------------


@pytest.fixture
def bind(free_endpoint: str) -> Iterator[Callable[[], zmq.Socket[bytes]]]:
    """`bind()` is the learner's socket."""
    context: Any = zmq.Context()
    sockets: list[zmq.Socket[bytes]] = []

    def make() -> zmq.Socket[bytes]:
        sockets.append(bind_policy_publisher(context, free_endpoint))
        return sockets[-1]

    yield make
    for socket in sockets:
        socket.close(linger=0)
    context.term()


@pytest.fixture
def listen(free_endpoint: str) -> Iterator[Callable[..., PolicyReceiver]]:
    made: list[PolicyReceiver] = []

    def start(**attributes: Any) -> PolicyReceiver:
        made.append(PolicyReceiver(free_endpoint, SPEC))
        for name, value in attributes.items():
            setattr(made[-1], name, value)
        made[-1].start()
        return made[-1]

    yield start
    for receiver in made:
        receiver.close()


def await_subscriber(publisher: zmq.Socket[bytes]) -> None:
    assert publisher.poll(10_000) and publisher.recv() == b"\x01"


def test_robots_that_listen_hear_each_one(
    bind: Callable[[], Any], listen: Callable[..., PolicyReceiver], wait_until: WaitUntil
) -> None:
    publisher = bind()
    robots = [listen(), listen()]
    for _ in robots:
        await_subscriber(publisher)
    for version in range(3):
        publisher.send(encode(make_policy(version)))
        for robot in robots:
            wait_until(lambda robot=robot, version=version: version_of(robot) == version)
    assert [robot.swaps for robot in robots] == [3, 3]
    assert [robot.refused for robot in robots] == [0, 0]


def test_a_robot_that_was_busy_gets_the_newest_only(
    bind: Callable[[], Any], listen: Callable[..., PolicyReceiver], wait_until: WaitUntil
) -> None:
    heard: list[int] = []
    busy, may_go_on = threading.Event(), threading.Event()

    def slow_offer(frame: bytes) -> bool:
        heard.append(decode(frame).version)  # type: ignore[union-attr]
        busy.set()
        return may_go_on.wait(10)

    publisher = bind()
    witness = listen()
    await_subscriber(publisher)
    robot = listen(offer=slow_offer)
    await_subscriber(publisher)
    publisher.send(encode(make_policy(0)))
    assert busy.wait(10)
    for version in range(1, 21):
        publisher.send(encode(make_policy(version)))
        wait_until(lambda version=version: version_of(witness) == version)
    may_go_on.set()

    def has_the_last() -> bool:
        publisher.send(encode(make_policy(20)))  # again: the short queue may have dropped it for a slow robot
        return heard[-1] == 20

    wait_until(has_the_last)
    robot.close()
    earlier = [version for version in heard if version < 20]
    assert earlier[0] == 0 and len(earlier) <= 4, "what came meanwhile is not played in order"


def test_it_may_listen_before_the_learner_is_there(
    bind: Callable[[], Any], listen: Callable[..., PolicyReceiver], wait_until: WaitUntil
) -> None:
    robot = listen()
    publisher = bind()
    await_subscriber(publisher)
    publisher.send(encode(make_policy(4)))
    wait_until(lambda: version_of(robot) == 4)


def test_closing_is_prompt_also_without_a_learner(listen: Callable[..., PolicyReceiver]) -> None:
    robot = listen()
    started = time.monotonic()
    robot.close()
    robot.close()
    assert time.monotonic() - started < 2
    PolicyReceiver("tcp://127.0.0.1:1", SPEC).close()  # one that never started
