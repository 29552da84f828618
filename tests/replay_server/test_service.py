from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fleet.codec import decode, encode
from fleet.config import ReplayServerConfig
from fleet.messages import (
    Ack,
    CommandReceipt,
    FleetCommand,
    Heartbeat,
    Hello,
    Message,
    Refusal,
    SampleReply,
    SampleRequest,
    Status,
    StatusRequest,
    TailReply,
    TailRequest,
    Transitions,
    Welcome,
)
from fleet.spaces import Space, SpaceSpec
from replay_server.episode_store import EpisodeStore, list_episodes
from replay_server.service import ReplayService

A, B, ASKER = b"arm1:b0", b"arm2:b0", b"asker"


@pytest.fixture
def start(tmp_path: Path, make_spec) -> Iterator[Callable[..., Any]]:
    """`it = start()`; `it.say(identity, message)` gives the replies, all of them encodable."""
    stores: list[EpisodeStore] = []
    services: list[ReplayService] = []

    def stop() -> None:
        while stores:
            stores.pop().close()
            services.pop().close()

    def start_(**settings: Any) -> SimpleNamespace:
        stop()
        store = EpisodeStore(tmp_path)
        stores.append(store)
        time = SimpleNamespace(now_s=1000.0)
        config = ReplayServerConfig(**{"sample_min_rows": 1, "capacity_rows": 1000, **settings})
        committed = threading.Event()
        service = ReplayService(
            config,
            "run1",
            store,
            clock=lambda: time.now_s,
            wall_ns=lambda: 7,
            rng=np.random.default_rng(0),
            on_commit=committed.set,
        )
        services.append(service)

        def say(identity: bytes, message: Message) -> list[tuple[bytes, Message]]:
            replies = [*service.handle(identity, message, encode(message)), *service.settle()]
            while service.log is not None and service.log.waiting:
                assert committed.wait(10)
                committed.clear()
                replies += service.settle()
            return [(to, decode(encode(reply))) for to, reply in replies]

        def hello(identity: bytes = A, spec: Any = None, **fields: Any) -> Message:
            robot_id, _, boot_id = identity.decode().partition(":")
            values = {
                "process_id": robot_id,
                "boot_id": boot_id,
                "spec": (spec or make_spec()).to_json(),
                **fields,
            }
            (_, reply), *_ = say(identity, Hello(role="robot", **values))
            return reply

        def ask(identity: bytes, message: Message) -> Message:
            ((to, reply),) = say(identity, message)
            assert to == identity
            return reply

        return SimpleNamespace(service=service, say=say, ask=ask, hello=hello, time=time, store=store)

    yield start_
    stop()


def refusal(message: Message) -> str:
    assert isinstance(message, Refusal), message
    return message.reason


def test_the_first_robot_pins_the_spec_for_the_run_also_over_a_restart(start, make_spec) -> None:
    it = start()
    welcome = it.hello(A)
    assert isinstance(welcome, Welcome)
    assert (welcome.run_id, welcome.spec, welcome.durable_seq) == ("run1", make_spec().to_json(), -1)
    other = make_spec(low=-2.0)
    assert "observation.low[0] (a) is -1.0 here and -2.0 there" in refusal(it.hello(B, spec=other))
    boot = welcome.server_boot_id
    it = start()
    assert "observation.low[0] (a) is -1.0 here and -2.0 there" in refusal(it.hello(B, spec=other))
    welcome = it.hello(B)
    assert isinstance(welcome, Welcome) and welcome.server_boot_id != boot


def test_an_arm_with_another_number_of_joints_is_told_to_use_a_fleet_of_its_own(start, make_spec) -> None:
    def arm(joints: int) -> SpaceSpec:
        names = tuple(f"joint_{i}/velocity_command" for i in range(joints))
        action = Space(names=names, units=("1",) * joints, low=(-1.0,) * joints, high=(1.0,) * joints)
        return SpaceSpec(observation=make_spec().observation, action=action)

    it = start()
    assert isinstance(it.hello(A, spec=arm(7)), Welcome)
    assert refusal(it.hello(B, spec=arm(6))) == (
        "robot arm2 has 6 joints, this run's robots have 7: arms with different numbers of joints cannot "
        "share one policy; start it in a fleet of its own"
    )


def test_an_arm_with_other_sensors_is_told_which(start, make_spec) -> None:
    plain = make_spec()
    observation = Space(
        names=(*plain.observation.names, "door/x"), units=("rad",) * 4, low=(-1.0,) * 4, high=(1.0,) * 4
    )
    it = start()
    it.hello(A)
    reason = refusal(it.hello(B, spec=SpaceSpec(observation=observation, action=plain.action)))
    assert "observation has 3 dimensions here and 4 there; only there: door/x" in reason
    assert "start it with the same fleet YAML as the others (task, robots, limits, sensors)" in reason


def test_others_get_the_spec_once_a_robot_brought_it(start, make_spec) -> None:
    it = start()
    learner = Hello(role="learner", process_id="learner", boot_id="x")
    assert it.ask(ASKER, learner).spec == {}
    it.hello(A)
    assert it.ask(ASKER, learner).spec == make_spec().to_json()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"spec": {}}, "a robot must bring its spec"),
        ({"process_id": "../up"}, "process_id must be 1 to 64 of"),
        ({"boot_id": ""}, "boot_id must be 1 to 64 of"),
        ({"role": "boss"}, "role must be one of robot, learner, monitor, got 'boss'"),
        ({"protocol_version": 1}, "protocol version 1, this server speaks 2"),
    ],
)
def test_a_wrong_hello_says_what_is_wrong(start, make_spec, fields, reason) -> None:
    values = {"role": "robot", "process_id": "arm1", "boot_id": "b0", "spec": make_spec().to_json()}
    assert reason in refusal(start().ask(A, Hello(**{**values, **fields})))


def test_rows_are_acknowledged_and_a_welcome_says_how_far(start, make_batch) -> None:
    it = start()
    it.hello(A)
    ack = it.ask(A, make_batch(3, 0))
    assert ack == Ack(robot_id="arm1", boot_id="b0", durable_seq=2, cursor=3)
    assert (it.hello(A).durable_seq, it.hello(A).cursor) == (2, 3)
    it.service.seal()
    it = start()
    assert (it.hello(A).durable_seq, it.hello(A).cursor) == (2, 3)


def test_who_did_not_say_hello_as_that_robot_stores_nothing(start, make_batch) -> None:
    it = start()
    assert refusal(it.ask(A, make_batch(3, 0))) == "say hello first"
    it.hello(A)
    assert refusal(it.ask(B, make_batch(3, 0))) == "say hello first"
    it.hello(B)
    assert "rows of 'arm1' (boot 'b0') from a connection that said hello as 'arm2'" in refusal(
        it.ask(B, make_batch(3, 0))
    )
    it.ask(ASKER, Hello(role="learner", process_id="arm1", boot_id="b0"))
    assert refusal(it.ask(ASKER, make_batch(3, 0))) == "say hello first"
    assert it.service.stats()["replay/rows_inserted"] == 0
    assert it.service.stats()["replay/refused"] == 4


def with_columns(batch: Any, **columns: Any) -> Any:
    return type(batch)(**{**vars(batch), **columns})


@pytest.mark.parametrize("name", ["observation", "action", "policy_action", "reward", "next_observation"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused_by_name(start, make_batch, name: str, value: float) -> None:
    it = start()
    it.hello(A)
    batch = make_batch(4, 0)
    column = getattr(batch, name).copy()
    column[2] = value
    assert f"{name} of row 2 (seq 2) is not finite" in refusal(
        it.ask(A, with_columns(batch, **{name: column}))
    )
    assert it.service.stats()["replay/rows_inserted"] == 0
    assert it.ask(A, batch).durable_seq == 3, "and the robot may go on"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spec_hash": "0" * 32}, "spec_hash is '00000000000000000000000000000000'"),
        ({"first_seq": -1}, "first_seq must be in"),
        ({"first_seq": 2**63}, "first_seq must be in"),
        ({"episode": -1}, "episode must be in"),
        ({"end": "bored"}, "end must be one of success, failure"),
        ({"metrics": {"return": "high"}}, "metric 'return' must be a number, got str"),
        ({"metrics": {"x" * 65: 1.0}}, "a metric's name must be at most 64 characters"),
        (
            {"action": np.zeros((4, 7), "<f4"), "policy_action": np.zeros((4, 7), "<f4")},
            "rows have observations of 3 and actions of 7 numbers, not 3 and 2",
        ),
        (
            {"observation": np.zeros((4, 1), "<f4"), "next_observation": np.zeros((4, 1), "<f4")},
            "rows have observations of 1 and actions of 2 numbers, not 3 and 2",
        ),
    ],
)
def test_a_wrong_batch_says_what_is_wrong(start, make_batch, change, reason) -> None:
    it = start()
    it.hello(A)
    assert reason in refusal(it.ask(A, with_columns(make_batch(4, 0), **change)))
    assert it.service.stats()["replay/rows_inserted"] == 0


def test_samples_are_rows_of_the_ring(start, make_batch) -> None:
    it = start(sample_min_rows=10)
    assert "0 of 10 rows are here" in refusal(
        it.ask(ASKER, SampleRequest(request_id=1, batches=1, batch_size=4))
    )
    it.hello(A)
    it.ask(A, make_batch(9, 0))
    assert "9 of 10 rows are here" in refusal(
        it.ask(ASKER, SampleRequest(request_id=1, batches=1, batch_size=4))
    )
    it.ask(A, make_batch(91, 9))
    reply = it.ask(ASKER, SampleRequest(request_id=5, batches=3, batch_size=4))
    assert isinstance(reply, SampleReply)
    assert (reply.request_id, reply.batches, reply.rows) == (5, 3, 12)
    assert len(set(reply.cursor.tolist())) > 6
    np.testing.assert_array_equal(reply.reward, reply.cursor)
    np.testing.assert_array_equal(reply.next_observation[:, 0], reply.cursor + 1)
    assert it.service.stats()["replay/samples"] == 12


@pytest.mark.parametrize(("batches", "batch_size"), [(0, 4), (4, 0), (-1, -4), (2**20, 2**20)])
def test_senseless_sample_sizes_are_refused(start, make_batch, batches: int, batch_size: int) -> None:
    it = start()
    it.hello(A)
    it.ask(A, make_batch(9, 0))
    request = SampleRequest(request_id=1, batches=batches, batch_size=batch_size)
    assert "batches × batch_size must be 1 …" in refusal(it.ask(ASKER, request))


def test_a_share_of_each_minibatch_is_demonstrated(start, make_batch) -> None:
    """Every third of 100 rows is of a person; the last 20 are here again after a restart."""
    it = start(sample_min_rows=10, capacity_rows=20)
    it.hello(A)
    it.ask(A, make_batch(60, 0))
    it.ask(A, make_batch(40, 60))
    assert it.service.stats()["replay/demonstration_rows"] == 7  # 81, 84, …, 99
    request = SampleRequest(request_id=1, batches=50, batch_size=4, demonstration_fraction=0.5)
    for _ in range(2):
        reply = it.ask(ASKER, request)
        assert isinstance(reply, SampleReply)
        shown = reply.cursor.reshape(50, 4)[:, :2]
        assert set(shown.ravel().tolist()) == {81, 84, 87, 90, 93, 96, 99}
        assert reply.intervened.reshape(50, 4)[:, :2].all()
        assert set(reply.cursor.reshape(50, 4)[:, 2:].ravel().tolist()) == set(range(80, 100))
        it = start(sample_min_rows=10, capacity_rows=20)
        assert it.service.stats()["replay/demonstration_rows"] == 7


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_senseless_share_is_refused(start, make_batch, fraction: float) -> None:
    it = start(sample_min_rows=1)
    it.hello(A)
    it.ask(A, make_batch(9, 0))
    request = SampleRequest(request_id=1, batches=1, batch_size=4, demonstration_fraction=fraction)
    assert refusal(it.ask(ASKER, request)) == f"demonstration_fraction must be 0 … 1, got {fraction}"


def test_samples_per_insert_are_kept(start, make_batch) -> None:
    it = start(samples_per_insert=2.0)
    it.hello(A)
    it.ask(A, make_batch(10, 0))
    request = SampleRequest(request_id=1, batches=3, batch_size=5)
    assert isinstance(it.ask(ASKER, request), SampleReply)
    assert "15 rows asked for, 5 allowed now by replay_server.samples_per_insert" in refusal(
        it.ask(ASKER, request)
    )
    it.ask(A, make_batch(5, 10))
    assert isinstance(it.ask(ASKER, request), SampleReply)


def test_a_tail_follows_the_log(start, make_batch) -> None:
    it = start(capacity_rows=10)
    nothing = it.ask(ASKER, TailRequest(request_id=1, cursor=0, max_rows=5))
    assert isinstance(nothing, TailReply)
    assert (nothing.first_cursor, nothing.next_cursor, nothing.end_cursor, nothing.rows) == (0, 0, 0, 0)
    it.hello(A)
    it.ask(A, make_batch(14, 0))
    reply = it.ask(ASKER, TailRequest(request_id=2, cursor=1, max_rows=3))
    assert (reply.first_cursor, reply.next_cursor, reply.end_cursor) == (4, 7, 14)
    assert reply.reward.tolist() == [4, 5, 6]
    reply = it.ask(ASKER, TailRequest(request_id=3, cursor=12, max_rows=3))
    assert (reply.next_cursor, reply.reward.tolist()) == (14, [12, 13])
    reply = it.ask(ASKER, TailRequest(request_id=4, cursor=99, max_rows=3))
    assert (reply.first_cursor, reply.next_cursor, reply.rows) == (14, 14, 0)
    assert "cursor ≥ 0 and max_rows ≥ 1" in refusal(
        it.ask(ASKER, TailRequest(request_id=5, cursor=-1, max_rows=3))
    )


def test_a_large_tail_is_cut_to_what_one_frame_holds(start, make_batch) -> None:
    it = start(capacity_rows=400_000)
    it.hello(A)
    for i in range(2):
        it.ask(A, make_batch(150_000, 150_000 * i, i, end="time_limit"))
    replies = it.say(ASKER, TailRequest(request_id=1, cursor=0, max_rows=10**9))
    (reply,) = (
        reply for to, reply in replies if to == ASKER
    )  # A may hear meanwhile that its rows are sealed
    assert 40_000 < reply.rows < 80_000, "4 MiB of 64 bytes each"


def test_heartbeats_are_shown_with_their_age(start) -> None:
    it = start()
    beat = Heartbeat(
        role="robot", process_id="arm1", boot_id="b0", state="running", stamp_ns=1, stats={"a/b": 2}
    )
    assert it.say(A, beat) == []
    it.time.now_s += 2.5
    status = it.ask(ASKER, StatusRequest(request_id=9))
    assert isinstance(status, Status)
    assert (status.request_id, status.run_id) == (9, "run1")
    (process,) = status.processes
    assert process["age_s"] == 2.5
    assert process["state"] == "running" and process["stats"] == {"a/b": 2}


def test_heartbeats_are_bounded(start) -> None:
    it = start()
    for i in range(300):
        it.time.now_s += 1
        it.say(A, Heartbeat(role="robot", process_id=f"arm{i}", boot_id="b", state="running", stamp_ns=1))
    names = {p["process_id"] for p in it.ask(ASKER, StatusRequest(request_id=1)).processes}
    assert len(names) == 128 and "arm299" in names and "arm0" not in names
    for stats in ({"a": [1]}, {"a": {"b": 1}}, {"a": "x" * 5000}):
        beat = Heartbeat(role="robot", process_id="arm1", boot_id="b0", state="x", stamp_ns=1, stats=stats)
        assert "stats" in refusal(it.ask(A, beat))


def test_commands_reach_the_robots_they_are_for(start) -> None:
    it = start()
    it.hello(A)
    it.hello(B)
    stop = FleetCommand(kind="stop", reason="lunch")
    assert it.say(ASKER, stop) == [
        (A, stop),
        (B, stop),
        (ASKER, CommandReceipt(kind="stop", delivered_to=["arm1", "arm2"])),
    ]
    pause = FleetCommand(kind="pause", target="arm2")
    assert it.say(ASKER, pause) == [(B, pause), (ASKER, CommandReceipt(kind="pause", delivered_to=["arm2"]))]
    assert it.ask(ASKER, StatusRequest(request_id=1)).last_command == "pause"
    unknown = FleetCommand(kind="pause", target="arm9")
    assert refusal(it.ask(ASKER, unknown)) == "no robot 'arm9'; robots that said hello: arm1, arm2"
    assert "kind must be one of pause, resume, stop, estop" in refusal(
        it.ask(ASKER, FleetCommand(kind="dance"))
    )


def test_nobody_is_told_that_a_silent_robot_got_a_command(start) -> None:
    it = start()
    it.hello(A)
    it.time.now_s += 60
    it.hello(B)
    estop = FleetCommand(kind="estop")
    assert it.say(ASKER, estop) == [
        (A, estop),
        (B, estop),
        (ASKER, CommandReceipt(kind="estop", delivered_to=["arm2"])),
    ]
    alone = FleetCommand(kind="estop", target="arm1")
    (to, sent), (_, answer) = it.say(ASKER, alone)
    assert (to, sent) == (A, alone)
    assert "arm1 is silent for 60 s" in refusal(answer)


@pytest.fixture
def robot(start, make_spec) -> Any:
    """arm1 under an operator's commands: what it is told at its hellos, in which state it reports to be."""
    it = start()

    def hello(boot_id: str = "b0") -> list[FleetCommand]:
        message = Hello(role="robot", process_id="arm1", boot_id=boot_id, spec=make_spec().to_json())
        (_, welcome), *told = it.say(f"arm1:{boot_id}".encode(), message)
        assert isinstance(welcome, Welcome)
        return [command for _, command in told]

    def beat(state: str, boot_id: str = "b0") -> None:
        message = Heartbeat(role="robot", process_id="arm1", boot_id=boot_id, state=state, stamp_ns=0)
        assert it.say(f"arm1:{boot_id}".encode(), message) == []

    def command(kind: str, target: str = "*") -> Message:
        """The answer to the operator."""
        *_, (to, answer) = it.say(ASKER, FleetCommand(kind=kind, target=target, reason=f"{kind} it"))
        assert to == ASKER
        return answer

    assert hello() == []
    beat("episode")
    return SimpleNamespace(hello=hello, beat=beat, command=command, say=it.say)


ESTOP = FleetCommand(kind="estop", reason="estop it")
PAUSE = FleetCommand(kind="pause", reason="pause it")


@pytest.mark.parametrize("commands", [["pause"], ["resume"], ["stop"], ["pause", "resume", "resume"]])
@pytest.mark.parametrize("target", ["*", "arm1"])
def test_an_estop_stands_over_crashes_whatever_else_is_commanded(robot, commands: list[str], target) -> None:
    robot.command("estop")
    robot.beat("estopped")
    for kind in commands:
        robot.command(kind, target)
    for boot_id in ("b1", "b2"):
        assert robot.hello(boot_id) == [ESTOP], "nobody has reset it"
        robot.beat("waiting", boot_id)  # on its way still
        robot.command("resume")
        assert robot.hello(boot_id) == [ESTOP]
        robot.beat("estopped", boot_id)
        assert robot.hello(boot_id) == []


def test_an_estop_ends_with_a_reset_and_a_resume(robot) -> None:
    robot.command("estop", "arm1")
    robot.beat("estopped")
    assert "arm1: e-stopped; reset it at the robot" in refusal(robot.command("resume", "arm1"))
    robot.beat("paused")  # as a reset leaves it
    assert robot.hello() == [], "and it may stay so"
    assert len(robot.hello("b1")) == 1, "a reset is not a resume yet"
    robot.beat("estopped", "b1")
    robot.beat("paused", "b1")
    assert robot.command("resume", "arm1") == CommandReceipt(kind="resume", delivered_to=["arm1"])
    robot.beat("waiting", "b1")
    assert robot.hello("b1") == robot.hello("b2") == []


def test_an_estop_that_did_not_come_from_here_keeps_a_resume_back_until_it_is_reset(robot) -> None:
    robot.beat("estopped")  # a button at the robot
    for target in ("arm1", "*"):
        said = robot.command("resume", target)
        text = said.note if isinstance(said, CommandReceipt) else refusal(said)
        assert "arm1: e-stopped; reset it at the robot" in text
        assert getattr(said, "delivered_to", []) == []
    robot.beat("paused")
    assert robot.command("resume", "arm1") == CommandReceipt(kind="resume", delivered_to=["arm1"])


def test_a_resume_of_all_leaves_out_who_is_estopped_and_says_so(robot, make_spec) -> None:
    robot.say(B, Hello(role="robot", process_id="arm2", boot_id="b0", spec=make_spec().to_json()))
    robot.command("estop", "arm1")
    resume = FleetCommand(kind="resume")
    (to, sent), (_, receipt) = robot.say(ASKER, resume)
    assert (to, sent) == (B, resume)
    assert receipt.delivered_to == ["arm2"]
    assert receipt.note == "arm1: e-stopped; reset it at the robot (service ~/reset_estop), then resume again"


def test_an_estop_of_all_holds_for_a_robot_that_comes_later_until_all_are_resumed(robot, make_spec) -> None:
    def newcomer(robot_id: str) -> list[Message]:
        hello = Hello(role="robot", process_id=robot_id, boot_id="b0", spec=make_spec().to_json())
        return [reply for _, reply in robot.say(robot_id.encode(), hello)][1:]

    robot.command("estop")
    assert newcomer("arm3") == [ESTOP]
    robot.command("resume")
    assert newcomer("arm3") == [ESTOP], "it was told, and nobody has reset it"
    assert newcomer("arm4") == []


@pytest.mark.parametrize("state", ["episode", "resetting", "waiting"])
@pytest.mark.parametrize("again", [PAUSE, ESTOP])
def test_a_command_lost_on_the_way_is_sent_again_with_each_hello(robot, state: str, again) -> None:
    robot.command(again.kind)
    robot.beat(state)
    assert robot.hello() == robot.hello() == [again]
    robot.beat("paused" if again is PAUSE else "estopped")
    assert robot.hello() == []
    robot.beat(state)
    assert robot.hello() == [again]


def test_a_pause_does_not_pass_for_an_estop_that_was_lost(robot) -> None:
    robot.command("estop")
    robot.beat("paused")
    robot.command("resume")
    assert robot.hello() == [ESTOP], "it was never seen e-stopped, so it was never reset"


def test_a_second_estop_is_not_taken_for_reset_by_what_came_before(robot) -> None:
    robot.command("estop")
    robot.beat("estopped")
    robot.beat("paused")
    robot.command("estop")  # lost
    assert robot.hello() == [ESTOP]


def test_a_pause_stands_over_crashes_until_a_resume_or_a_stop(robot) -> None:
    for i, end in enumerate(("resume", "stop")):
        robot.command("pause")
        robot.beat("paused", f"b{i}")
        assert robot.hello(f"b{i + 1}") == [PAUSE]
        robot.beat("fault", f"b{i + 1}")
        assert robot.hello(f"b{i + 1}") == [], "it stands still as it is"
        robot.command(end)
        robot.beat("waiting", f"b{i + 1}")
        assert robot.hello(f"b{i + 1}") == robot.hello(f"c{i}") == []


def test_messages_that_only_a_server_sends_are_refused(start) -> None:
    ack = Ack(robot_id="arm1", boot_id="b0", durable_seq=3)
    assert refusal(start().ask(A, ack)) == "a replay server does not take a Ack"


def test_rows_that_a_robot_no_longer_has_are_counted_as_lost(start, make_batch) -> None:
    it = start()
    it.hello(A)
    it.ask(A, make_batch(3, 0))
    welcome = it.hello(A, oldest_seq=10)
    assert welcome.durable_seq == 2, "nothing is given up before rows behind the gap are here"
    assert it.ask(A, make_batch(2, 10)).durable_seq == 11
    assert it.service.stats()["replay/rows_lost"] == 7


def test_stats_count_what_happened(start, make_batch) -> None:
    it = start(capacity_rows=6)
    it.hello(A)
    it.hello(B)
    it.ask(A, make_batch(5, 0))
    it.ask(A, make_batch(5, 2))
    it.ask(A, make_batch(5, 50))
    it.ask(B, make_batch(4, 0, robot_id="arm2", end="time_limit"))
    it.service.malformed(A, "no")
    stats = it.service.stats()
    expected = {
        "rows_inserted": 11,
        "rows_in_ring": 6,
        "end_cursor": 11,
        "duplicates_dropped": 3,
        "gaps": 1,
        "refused": 0,
        "malformed_frames": 1,
        "robots": 2,
        "rows/arm1": 7,
        "rows/arm2": 4,
        "rows_per_s": 11.0,
    }
    assert {key: stats[f"replay/{key}"] for key in expected} == expected
    it.service.seal()
    it.store.close()
    assert it.service.stats()["replay/episodes_stored"] == 2
    assert len(list_episodes(it.store.run_dir)) == 2


def test_every_reply_carries_every_column(start, make_batch) -> None:
    it = start()
    it.hello(A)
    batch = make_batch(9, 0)
    it.ask(A, batch)
    reply = it.ask(ASKER, TailRequest(request_id=1, cursor=0, max_rows=9))
    for name in Transitions.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(reply, name), getattr(batch, name), err_msg=name)


def test_a_run_has_so_many_robots_and_no_more(start, make_batch, monkeypatch) -> None:
    monkeypatch.setattr("replay_server.service._MAX_ROBOTS", 1)
    it = start()
    it.hello(A)
    it.hello(B)
    it.ask(A, make_batch(3, 0))
    assert "has rows of 1 robots: start a new run" in refusal(it.ask(B, make_batch(3, 0, robot_id="arm2")))
    assert it.ask(A, make_batch(3, 3)).durable_seq == 5
