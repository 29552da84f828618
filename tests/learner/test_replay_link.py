from __future__ import annotations

import logging
from typing import Any

import pytest

from fleet.messages import TailReply, Welcome
from fleet.spaces import SpaceSpec
from learner.replay_link import ReplayLink
from replay_server.client import ReplayRefused, ReplayTimeout


class ScriptedLog:
    """A ReplayLog whose answers are set by the test; an exception is raised."""

    def __init__(self) -> None:
        self.welcome: Welcome | Exception = ReplayTimeout("no answer to Hello from tcp://x:1")
        self.tail_answer: TailReply | Exception | None = None
        self.calls: list[str] = []

    def hello(self, timeout_s: float | None = None) -> Welcome:
        self.calls.append("hello")
        if isinstance(self.welcome, Exception):
            raise self.welcome
        return self.welcome

    def begin_tail(self, cursor: int, max_rows: int, timeout_s: float | None = None) -> None:
        self.calls.append(f"begin_tail {cursor}")

    def poll_tail(self, wait_s: float = 0.0) -> TailReply | None:
        assert wait_s == 0.0
        if isinstance(self.tail_answer, Exception):
            raise self.tail_answer
        return self.tail_answer

    def heartbeat(self, state: str, stats: dict[str, Any]) -> None:
        self.calls.append(f"heartbeat {state}")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log() -> ScriptedLog:
    return ScriptedLog()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def link(log: ScriptedLog, clock: Clock) -> ReplayLink:
    return ReplayLink(log, clock)


def test_says_every_ten_seconds_for_whom_it_waits(
    log: ScriptedLog, link: ReplayLink, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(100):  # 25 s
        assert link.spec() is None
        link.heartbeat("waiting", {})
        clock.now += 0.25
    assert [record.getMessage() for record in caplog.records] == [
        "waiting for the replay server: no answer to Hello from tcp://x:1"
    ] * 3
    assert log.calls == ["hello"] * 25
    caplog.clear()
    log.welcome = Welcome(run_id="r1", server_boot_id="b", spec={})
    clock.now += 10.0
    assert link.spec() is None
    assert "waiting for the first robot" in caplog.text
    link.heartbeat("waiting", {})
    assert log.calls[-1] == "heartbeat waiting"


def test_spec_of_the_first_robot(log: ScriptedLog, link: ReplayLink, spec: SpaceSpec) -> None:
    log.welcome = Welcome(run_id="r1", server_boot_id="b", spec=spec.to_json())
    assert link.spec() == spec
    assert link.run_id == "r1"


def test_one_request_at_a_time_until_its_reply(log: ScriptedLog, link: ReplayLink, make_reply: Any) -> None:
    log.welcome = Welcome(run_id="r1", server_boot_id="b", spec={})
    assert link.poll_tail(0, 10) is None
    assert link.poll_tail(0, 10) is None
    log.tail_answer = make_reply(0, 4, 4)
    assert link.poll_tail(0, 10) is log.tail_answer
    log.tail_answer = None
    assert link.poll_tail(4, 10) is None
    assert log.calls == ["hello", "begin_tail 0", "begin_tail 4"]


@pytest.mark.parametrize(
    "error", [ReplayTimeout("no answer to TailRequest"), ReplayRefused("say hello first")]
)
def test_a_dead_server_costs_one_hello_a_second_and_comes_back(
    log: ScriptedLog, link: ReplayLink, clock: Clock, make_reply: Any, error: Exception
) -> None:
    log.welcome = Welcome(run_id="r1", server_boot_id="b", spec={})
    clock.now += 1.0
    log.tail_answer = error
    assert link.poll_tail(7, 10) is None
    assert not link.connected
    log.welcome = ReplayTimeout("no answer to Hello")
    log.calls.clear()
    clock.now += 1.0
    for _ in range(50):
        assert link.poll_tail(7, 10) is None
    assert log.calls == ["hello"]
    log.welcome, log.tail_answer = Welcome(run_id="r1", server_boot_id="c", spec={}), make_reply(7, 9, 9)
    clock.now += 1.0
    reply = link.poll_tail(7, 10)
    assert reply is not None
    assert reply.first_cursor == 7
    assert log.calls == ["hello", "hello", "begin_tail 7"]


def test_a_server_of_another_run_counts_as_down(
    log: ScriptedLog,
    link: ReplayLink,
    clock: Clock,
    spec: SpaceSpec,
    make_reply: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    log.welcome = Welcome(run_id="r0", server_boot_id="a", spec={})
    assert link.spec() is None  # nothing is known of it yet: another may come
    clock.now += 1.0
    log.welcome = Welcome(run_id="r1", server_boot_id="a", spec=spec.to_json())
    assert link.spec() == spec
    log.tail_answer = ReplayTimeout("no answer to TailRequest")
    assert link.poll_tail(0, 10) is None
    log.welcome, log.tail_answer = Welcome(run_id="r2", server_boot_id="a", spec={}), make_reply(0, 4, 4)
    for _ in range(30):
        clock.now += 1.0
        assert link.poll_tail(0, 10) is None
    assert caplog.text.count("waiting for run 'r1': the replay server now serves run 'r2'") == 3
    assert (link.run_id, link.connected) == ("r1", False)
    log.welcome = Welcome(run_id="r1", server_boot_id="a", spec=spec.to_json())
    clock.now += 1.0
    assert link.poll_tail(0, 10) is not None
