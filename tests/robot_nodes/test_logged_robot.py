"""One robot of a replay against a server that restarts, forgets, is silent and commands; without sockets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.messages import (
    MAX_BACKLOG,
    Ack,
    Array,
    FleetCommand,
    Heartbeat,
    Hello,
    Message,
    Refusal,
    TransitionBatch,
    Welcome,
    row_dtype,
)
from replay_server.episode_file import EpisodeInfo
from replay_server.episode_store import EpisodeSummary
from replay_server.fleet_commands import FleetCommands
from replay_server.processes import Peer, PeerTable, ProcessTable
from robot_nodes.log_plan import PlannedBoot, PlannedEpisode, RobotPlan
from robot_nodes.logged_robot import LoggedRobot
from robot_nodes.synthetic_rows import SPEC

INFO = EpisodeInfo(
    run_id="", robot_id="robot1", boot_id="b0", episode=0, rows=0, first_seq=0, last_seq=0, first_cursor=0,
    last_cursor=0, received_ns=0, spec_hash="", policy_version=0, evaluation=False, end="time_limit",
    success=False, metrics={"return": 1.5}, complete=True,
)  # fmt: skip


def planned(boots: Sequence[Sequence[int]]) -> RobotPlan:
    """Boots with episodes of so many rows; each episode begins 10 s after the one before."""
    made: list[PlannedBoot] = []
    number = 0
    for index, sizes in enumerate(boots):
        episodes: list[PlannedEpisode] = []
        for episode, rows in enumerate(sizes):
            info = EpisodeInfo(**(vars(INFO) | {"rows": rows, "episode": episode, "success": episode == 0}))
            first_seq = episodes[-1].end_seq if episodes else 0
            episodes.append(PlannedEpisode(EpisodeSummary(Path(str(number)), info), first_seq, 10.0 * number))
            number += 1
        made.append(PlannedBoot("robot1", [f"name{index}", f"former{index}"], episodes))
    return RobotPlan("robot1", made)


def read(episode: PlannedEpisode) -> tuple[Array, Array]:
    """Rows 50 ms apart; row i of episode file n has the reward 1000 n + i."""
    rows = np.zeros(episode.summary.info.rows, row_dtype(3, 2))
    rows["reward"] = 1000 * int(episode.summary.path.name) + np.arange(len(rows))
    rows["policy_version"] = 7
    return rows, episode.start_s + 0.05 * np.arange(len(rows))


def rewards(boots: Sequence[Sequence[int]]) -> list[list[float]]:
    """Of every row of each boot, in order."""
    return [[float(r) for e in boot.episodes for r in read(e)[0]["reward"]] for boot in planned(boots).boots]


def robot(boots: Sequence[Sequence[int]], window: int = 8) -> LoggedRobot:
    return LoggedRobot(planned(boots), SPEC, read, window=window, now_s=0.0, note="a replay")


@dataclass
class Server:
    """What the replay server does with rows: in order, each once, and durable some time later."""

    boot: int = 0
    rows: dict[str, list[float]] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    ends: list[tuple[str, int, str, bool, float]] = field(default_factory=list)
    admitted: frozenset[str] = frozenset()

    def restart(self) -> None:
        """After kill -9: what was not on the disk is gone, and so is whoever said hello."""
        self.boot += 1
        self.rows = {name: rows[: self.durable.get(name, -1) + 1] for name, rows in self.rows.items()}
        self.admitted = frozenset()

    def take(self, message: Message) -> Iterator[Message]:
        if isinstance(message, Hello):
            assert len(message.backlog) <= MAX_BACKLOG
            self.admitted = frozenset(message.backlog)
            reached = {name: [self.durable.get(name, -1), -1] for name in message.backlog}
            yield Welcome(run_id="run2", server_boot_id=f"s{self.boot}", spec={}, backlog=reached)
        elif isinstance(message, TransitionBatch):
            if not self.admitted:
                yield Refusal(request="TransitionBatch", reason="say hello first")
                return
            assert message.boot_id in self.admitted
            rows = self.rows.setdefault(message.boot_id, [])
            if message.first_seq <= len(rows):
                rows += message.reward[len(rows) - message.first_seq :].tolist()
                if message.end:
                    self.ends.append(
                        (
                            message.boot_id,
                            message.episode,
                            message.end,
                            message.success,
                            message.metrics["return"],
                        )
                    )

    def settle(self) -> Iterator[Message]:
        """All rows are on the disk."""
        for name, rows in self.rows.items():
            self.durable[name] = len(rows) - 1
            yield Ack(robot_id="robot1", boot_id=name, durable_seq=len(rows) - 1)


def exchange(player: LoggedRobot, server: Server, now_s: float, log_s: float | None) -> list[Message]:
    """Everything said in one moment, answered at once."""
    said: list[Message] = []
    while True:
        spoken = list(player.speak(now_s, log_s))
        said += spoken
        answers = [answer for message in spoken for answer in server.take(message)]
        before = player.rows_durable
        for answer in (*answers, *server.settle()):
            player.hear(answer, now_s)
        if not answers and player.rows_durable == before:
            return said


def batches(messages: Sequence[Message]) -> list[tuple[str, int, int]]:
    return [(m.boot_id, m.first_seq, m.rows) for m in messages if isinstance(m, TransitionBatch)]


def states(messages: Sequence[Message]) -> list[str]:
    return [m.state for m in messages if isinstance(m, Heartbeat)]


# Pacing -------------------------------------------------------------------------------------


def test_rows_go_when_they_are_due() -> None:
    player, server = robot([[5, 3]]), Server()
    assert batches(exchange(player, server, 0.0, None)) == []  # its clock has not begun
    assert player.located
    assert player.next_due_s == 0.0
    assert batches(exchange(player, server, 0.1, 0.0)) == [("name0", 0, 1)]
    assert batches(exchange(player, server, 0.2, 0.04)) == []
    assert player.wake_s == pytest.approx(0.05)
    assert batches(exchange(player, server, 0.3, 0.12)) == [("name0", 1, 2)]
    assert batches(exchange(player, server, 0.4, 9.9)) == [("name0", 3, 2)]
    assert player.wake_s == 10.0
    assert batches(exchange(player, server, 0.5, 10.05)) == [("name0", 5, 2)]
    assert not player.finished
    assert batches(exchange(player, server, 0.6, 11.0)) == [("name0", 7, 1)]
    assert player.finished
    assert math.isinf(player.wake_s)
    assert server.ends == [
        ("name0", 0, "time_limit", True, 1.5),
        ("name0", 1, "time_limit", False, 1.5),
    ]


def test_without_pacing_batches_are_full_and_end_with_their_episode() -> None:
    player, server = robot([[130, 3], [2]]), Server()
    said = exchange(player, server, 0.0, math.inf)
    assert batches(said) == [
        ("name0", 0, 64), ("name0", 64, 64), ("name0", 128, 2), ("name0", 130, 3), ("name1", 0, 2),
    ]  # fmt: skip
    assert player.finished
    assert [server.rows["name0"], server.rows["name1"]] == rewards([[130, 3], [2]])


def test_no_more_is_under_way_than_the_window() -> None:
    player, server = robot([[640]], window=3), Server()
    for message in player.speak(0.0, None):
        for answer in server.take(message):
            player.hear(answer, 0.0)
    assert len(batches(list(player.speak(0.0, math.inf)))) == 3
    assert batches(list(player.speak(0.1, math.inf))) == []
    assert math.isinf(player.wake_s)  # time alone does not help


# Going on -----------------------------------------------------------------------------------


def test_it_goes_on_where_an_earlier_start_ended() -> None:
    server = Server(rows={"name0": rewards([[5, 3]])[0][:6]}, durable={"name0": 5})
    player = robot([[5, 3], [2]])
    exchange(player, server, 0.0, None)
    assert (player.rows_before, player.rows_durable, player.next_due_s) == (6, 6, pytest.approx(10.05))
    assert batches(exchange(player, server, 0.1, math.inf)) == [("name0", 6, 2), ("name1", 0, 2)]
    assert (player.rows_durable, player.finished) == (10, True)


def test_it_goes_on_under_the_name_that_a_shorter_log_had() -> None:
    server = Server(rows={"former0": rewards([[5]])[0]}, durable={"former0": 4})
    player = robot([[5, 3]])
    assert batches(exchange(player, server, 0.0, math.inf)) == [("former0", 5, 3)]
    assert server.rows == {"former0": rewards([[5, 3]])[0]}


def test_what_is_there_already_is_not_sent() -> None:
    every = rewards([[5], [3]])
    server = Server(rows={"name0": every[0], "name1": every[1]}, durable={"name0": 4, "name1": 2})
    player = robot([[5], [3]])
    said = exchange(player, server, 0.0, math.inf)
    assert (batches(said), player.finished, player.rows_before) == ([], True, 8)


def test_more_boots_than_a_hello_may_name() -> None:
    sizes = [[2]] * 70
    player, server = robot(sizes), Server()
    said = exchange(player, server, 0.0, math.inf)
    assert player.finished
    assert [server.rows[f"name{index}"] for index in range(70)] == rewards(sizes)
    assert sum(isinstance(message, Hello) for message in said) <= math.ceil(140 / 32) + math.ceil(70 / 32)


def test_a_silent_server_is_greeted_again_and_gets_what_it_lacks() -> None:
    player, server = robot([[100]]), Server()
    exchange(player, server, 0.0, None)
    assert batches(list(player.speak(0.1, math.inf))) == [("name0", 0, 64), ("name0", 64, 36)]  # lost
    assert not any(isinstance(m, Hello) for m in player.speak(1.9, math.inf))
    said = exchange(player, server, 2.2, math.inf)
    assert isinstance(said[0], Hello)
    assert batches(said) == [("name0", 0, 64), ("name0", 64, 36)]
    assert player.finished


def test_a_restarted_server_refuses_and_then_gets_what_it_lost() -> None:
    player, server = robot([[100]], window=1), Server()
    exchange(player, server, 0.0, None)
    for message in player.speak(0.1, math.inf):
        list(server.take(message))  # taken, but not on the disk when it is killed
    server.restart()
    player.hear(Refusal(request="TransitionBatch", reason="say hello first"), 0.2)
    exchange(player, server, 1.3, math.inf)
    assert player.finished
    assert server.rows == {"name0": rewards([[100]])[0]}


@settings(max_examples=60)
@given(
    sizes=st.lists(st.lists(st.integers(1, 150), min_size=1, max_size=4), min_size=1, max_size=4),
    window=st.integers(1, 4),
    events=st.lists(
        st.sampled_from(["work", "settle", "lose", "kill server", "kill player", "wait"]), max_size=40
    ),
)
def test_every_row_is_there_once_and_in_order_whatever_is_killed(
    sizes: list[list[int]], window: int, events: list[str]
) -> None:
    server, player, now_s = Server(), robot(sizes, window), 0.0
    for event in [*events, *["wait", "work", "settle"] * (sum(map(sum, sizes)) + 40)]:
        now_s += 0.01
        match event:
            case "work" | "lose":
                for message in player.speak(now_s, math.inf):
                    for answer in server.take(message) if event == "work" else ():
                        player.hear(answer, now_s)
            case "settle":
                for ack in server.settle():
                    player.hear(ack, now_s)
            case "kill server":
                server.restart()
            case "kill player":
                player = robot(sizes, window)
            case "wait":
                now_s += 3.0
        if player.finished:
            break
    assert player.finished
    assert [server.rows[f"name{index}"] for index in range(len(sizes))] == rewards(sizes)
    assert player.rows_durable == player.plan.rows


# Commands -----------------------------------------------------------------------------------


def test_pause_holds_the_rows_and_resume_moves_their_times() -> None:
    player, server = robot([[5]]), Server()
    exchange(player, server, 0.0, None)
    assert batches(exchange(player, server, 0.0, 0.0)) == [("name0", 0, 1)]
    player.hear(FleetCommand(kind="pause"), 0.02)
    assert states(exchange(player, server, 0.02, 0.02)) == ["paused"]
    assert batches(exchange(player, server, 5.0, 5.0)) == []
    assert math.isinf(player.wake_s)
    player.hear(FleetCommand(kind="resume"), 7.02)
    said = exchange(player, server, 7.02, 7.02)
    assert (batches(said), states(said)) == ([], ["running"])
    assert player.next_due_s == pytest.approx(7.05)  # 7 s late
    assert batches(exchange(player, server, 7.11, 7.11)) == [("name0", 1, 2)]


def test_stop_ends_when_nothing_is_under_way() -> None:
    player, server = robot([[100]], window=1), Server()
    exchange(player, server, 0.0, None)
    under_way = [m for m in player.speak(0.1, math.inf) if isinstance(m, TransitionBatch)]
    player.hear(FleetCommand(kind="stop", reason="lunch"), 0.2)
    assert not player.ended
    assert batches(list(player.speak(0.3, math.inf))) == []
    for answer in (*server.take(under_way[0]), *server.settle()):
        player.hear(answer, 0.4)
    assert player.ended
    assert not player.finished
    assert (player.hold.stop_reason, player.rows_durable, player.heartbeat().state) == (
        "lunch",
        64,
        "stopped",
    )


def test_the_server_lets_a_resume_through_after_an_estop() -> None:
    """With the server's own rules: who is e-stopped must have reported it, and then another state."""
    player, server = robot([[5]]), Server()
    peers, processes = PeerTable(), ProcessTable()
    commands = FleetCommands(peers, processes)

    def speak(now_s: float) -> list[str]:
        said = exchange(player, server, now_s, 0.0)
        for message in said:
            if isinstance(message, Hello):
                peers.add(b"it", Peer("robot", "robot1", message.boot_id, now_s))
                if command := commands.standing(message):
                    player.hear(command, now_s)
            elif isinstance(message, Heartbeat):
                processes.add(message, now_s)
                commands.observe(message)
        return states(said)

    speak(0.0)
    commands.deliver(FleetCommand(kind="estop"))
    player.hear(FleetCommand(kind="estop"), 0.1)
    assert speak(0.1) == ["estopped"]
    assert commands.deliver(FleetCommand(kind="resume")).robots == []  # not yet
    assert speak(0.7) == ["paused"]
    assert [speak(now_s) for now_s in (2.1, 4.2)] == [
        ["paused"],
        ["paused"],
    ]  # nor does a hello stop it again
    assert len(commands.deliver(FleetCommand(kind="resume")).robots) == 1
    player.hear(FleetCommand(kind="resume"), 4.3)
    assert speak(4.3) == ["running"]


def test_the_status_shows_how_far_it_is() -> None:
    player, server = robot([[5, 3]]), Server()
    exchange(player, server, 0.0, None)
    exchange(player, server, 0.6, 10.0)
    stats: dict[str, Any] = player.heartbeat().stats
    assert stats == {
        "robot/note": "a replay", "robot/steps": 6, "robot/unacked": 0, "robot/episodes": 1,
        "robot/success_rate": 1.0, "robot/evaluation_success_rate": -1.0, "robot/policy_version": 7,
    }  # fmt: skip


# What does not pass -------------------------------------------------------------------------


@pytest.mark.parametrize("request_name", ["Hello", "TransitionBatch", "frame"])
def test_a_refusal_ends_it_with_the_words_of_the_server(request_name: str) -> None:
    player = robot([[5]])
    player.hear(Refusal(request=request_name, reason="it has another spec"), 0.0)
    assert player.failure == "the replay server refuses robot1: it has another spec"


def test_another_run_under_the_same_address_ends_it() -> None:
    player, server = robot([[5]]), Server()
    exchange(player, server, 0.0, None)
    player.hear(Welcome(run_id="run3", server_boot_id="x", spec={}), 0.1)
    assert "now serves run run3, but this replay began in run run2" in player.failure
