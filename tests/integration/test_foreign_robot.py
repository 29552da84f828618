"""The node against a ros2_control that is not ours: `fake_ros2_control.py`, a process of its own.

All robots live at once, each with its own trouble; what their controllers heard is recorded and judged
afterwards. Commands are judged exactly, by order and value; times have slack for a loaded machine.
"""

from __future__ import annotations

import bisect
import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from command_checks import (
    JOINTS,
    MAX_ACCELERATION,
    MAX_VELOCITY,
    RATE_HZ,
    stop_problems,
    stream_problems,
)
from foreign_world import ACTION, CONFIGS, Robot, Script, Until, World, descendants, lives
from geometry_msgs.msg import TwistStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_msgs.msg import Bool

from replay_server.episode_store import Episode

pytestmark = pytest.mark.timeout(240)  # of the first test, which waits for all scripts

URDF = CONFIGS / "urdf/generic7.urdf"

WATCHDOGS: dict[str, Any] = {
    "state_age": {"limit_s": 1.0, "action": "wait"},
    "state_silence": {"limit_s": 1.5, "action": "wait"},
    "state_order": {"limit": 10, "action": "wait"},
    "bad_states": {"limit": 10, "action": "wait"},
    "non_finite": {"limit": 1, "action": "latch"},
    "tracking": {"window_s": 1.0, "limit_rad": 0.25, "action": "latch"},
    "late_ticks": {"late_s": 0.5, "limit": 10, "action": "wait"},
    "command_subscriber": {"limit_s": 0.5, "action": "wait"},
    "loop_hang_s": 1.5,
    "other_commander": None,
    "effort": "latch",
    "sensor_age": "wait",
    "spool_full": "wait",
    "policy_age": {"limit_s": 60.0, "action": "keep_acting"},
}
SENSORS: list[dict[str, Any]] = [
    {"name": "imu", "type": "sensor_msgs/Imu", "topic": "imu", "field": "orientation"},
    {"name": "object", "type": "geometry_msgs/PoseStamped", "topic": "object_pose", "field": "position"},
    {"name": "force", "type": "std_msgs/Float64MultiArray", "topic": "force", "size": 2, "unit": "N"},
    {"name": "finger", "type": "sensor_msgs/JointState", "topic": "joint_states", "field": "position"}
    | {"joints": ["finger"]},
]
SENSED = [0.0, 0.0, 0.6, 0.8, 0.5, -0.125, 0.75, 1.5, -2.5, 9.0]

# The robots and their troubles --------------------------------------------------------------

HABITS: dict[str, dict[str, Any]] = {
    # Another driver than ours: nothing of this is an error.
    "odd": {
        "published": ["joint_5", "finger", "joint_2", "joint_7", "joint_1", "joint_3", "joint_6", "joint_4"],
        "velocity": "empty",
        "best_effort": True,
        "jitter_s": 0.015,
        "drop_every": 7,
        "rate_hz": 50.0,
        "swap_every": 11,
        "neighbours": ["gripper", "wheel_left"],
        "urdf": str(URDF),
    },
    "waiting": {"velocity": "nan"},  # as joint_state_broadcaster does for an interface that is not there
    "latching": {},
    "stuck": {"published": JOINTS[::-1]},
    "headless": {},
    "hung": {},
    "estopped": {},
    "helped": {"neighbours": ["finger"], "sensors": True},
}
ARMS = {
    name: {"joints": JOINTS, "rate_hz": 25.0, "start_rad": [0.0, 0.3, 0.0, 1.7, 0.0, 1.0, 0.0]} | habits
    for name, habits in HABITS.items()
}

SENSED_ROBOTS = ["helped"]  # the others share a spec without sensors
PLAIN = [name for name in ARMS if name not in SENSED_ROBOTS]

# What each script stops its robot by, and how the episode of that moment must end; "": not asked.
STOPS: dict[str, dict[str, str]] = {
    "odd": {"only a gripper speaks": "fault", "SIGTERM": ""},
    "waiting": {"silence": "fault", "same stamps": "fault", "missing joint": "fault", "SIGINT": "stopped"},
    "latching": {"NaN position": "fault", "NaN velocity": "fault"},
    "stuck": {"stuck joint": "fault", "frozen state": "fault"},
    "headless": {"deactivated": "stopped", "exception": ""},
    "hung": {"SIGSTOP": "fault", "stop button": "fault", "SIGKILL": ""},
    "estopped": {"e-stop service": "fault", "e-stop topic": "fault"},
}

# Runs a robot whose tick callback raises on SIGUSR1.
CRASHING = """
import signal, sys
from pathlib import Path
from fleet.config_file import load_fleet
from robot_nodes.robot_process import run_robot

told = []
signal.signal(signal.SIGUSR1, lambda *_: told.append(1))

def on_tick(node):
    if told:
        raise RuntimeError("a bug in a callback")

run_robot(load_fleet(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), on_tick=on_tick)
"""


def robot_entry(name: str) -> dict[str, Any]:
    """generic7 as real hardware: no `sim`, so wall-clock time and whatever topics there are."""
    robot = yaml.safe_load((CONFIGS / "robots/generic7_sim.yaml").read_text())
    del robot["sim"]
    robot["control_rate_hz"] = RATE_HZ
    robot["urdf"] = {"topic": "robot_description"} if "urdf" in ARMS[name] else str(URDF)
    robot["limits"]["max_joint_velocity_rad_s"] = [MAX_VELOCITY] * 7
    robot["limits"]["max_joint_acceleration_rad_s2"] = [MAX_ACCELERATION] * 7
    robot["watchdogs"] = WATCHDOGS | ({"tracking": None} if name == "headless" else {})
    robot["reset"] |= {"randomise_rad": 0.05, "speed": 0.6}
    if name == "hung":
        robot["external_estop"] = {"topic": "stop_button", "max_age_s": None}
    if name in SENSED_ROBOTS:
        robot["sensors"] = [sensor | {"low": -10.0, "high": 10.0, "max_age_s": 1.0} for sensor in SENSORS]
        robot["teleop"] = {"twist_topic": "teleop/twist", "max_age_s": 0.3}
        robot["labels"] = {"success_reward": 5.0, "failure_reward": -5.0}
    return {"id": name, "robot": robot}


def odd(robot: Robot) -> Script:
    yield Until(lambda: robot.stats.get("robot/episodes", 0) >= 2, "two whole episodes", 60)
    yield from robot.acts()
    robot.begin_stop("only a gripper speaks", 1.0)
    robot.change(silent=True)
    yield from robot.told("only a gripper speaks", "waiting", r"joint states are .* old|no joint states for")
    robot.end_stop("only a gripper speaks")
    robot.change(silent=False)
    yield from robot.acts()
    robot.begin_stop("SIGTERM", 0.0)
    robot.process.send_signal(signal.SIGTERM)
    yield from robot.ends()


def waiting(robot: Robot) -> Script:
    """Troubles that pass: it stops, says why, and goes on by itself."""
    for name, broken, mended, limit_s, note in (
        ("silence", {"silent": True}, {"silent": False}, 1.0, r"joint states are .* old|no joint states for"),
        (
            "same stamps",
            {"frozen_stamp": True},
            {"frozen_stamp": False},
            0.6,
            "states in a row were not newer",
        ),
        ("missing joint", {"missing": ["joint_3"]}, {"missing": []}, 0.8, r"lacks joint_3.* in a row"),
    ):
        yield from robot.acts()
        robot.begin_stop(name, limit_s)
        robot.change(**broken)
        yield from robot.told(name, "waiting", note)
        robot.end_stop(name)
        robot.change(**mended)
    yield from robot.acts()
    robot.begin_stop("SIGINT", 0.0)
    robot.process.send_signal(signal.SIGINT)
    yield from robot.ends()


def latching(robot: Robot) -> Script:
    """NaN: it stays stopped when the trouble is over, until somebody lets it go on."""
    yield from robot.acts()
    robot.begin_stop("NaN position", 0.1)
    robot.change(nan="position")
    yield from robot.told("NaN position", "fault", "not finite")
    yield from robot.resume()  # too early
    yield from robot.stays(0.5)
    robot.change(nan="")
    yield from robot.stays(0.7)
    robot.end_stop("NaN position")
    yield from robot.resume()
    yield from robot.acts()
    robot.begin_stop("NaN velocity", 0.1)
    robot.change(nan="velocity")
    yield from robot.told("NaN velocity", "fault", "not finite")
    robot.change(nan="")
    yield from robot.stays(0.7)
    robot.end_stop("NaN velocity")
    yield from robot.transition(Transition.TRANSITION_ACTIVATE)  # a latched fault leaves the node inactive
    yield from robot.acts()


def stuck(robot: Robot) -> Script:
    """An arm that does not go where it is sent, for two reasons."""
    for name, broken, mended, note in (
        ("stuck joint", {"stuck": ["joint_2"]}, {"stuck": []}, "joint_2"),
        ("frozen state", {"frozen": True}, {"frozen": False}, "joint_"),
    ):
        yield from robot.acts()
        robot.begin_stop(name, 1.0)
        robot.change(**broken)
        yield from robot.told(name, "fault", note)
        robot.change(**mended)
        yield from robot.stays(0.5)
        robot.end_stop(name)
        yield from robot.resume()
    yield from robot.acts()


def headless(robot: Robot) -> Script:
    """A controller that dies and comes back; the standard lifecycle tools; an exception in a callback."""
    yield from robot.finds("change_state", ChangeState)
    yield from robot.acts()
    # Nobody hears zeros for a controller that is gone. The arm holds still without one, and must go on so.
    robot.change(controller=False)
    robot.begin_stop("controller died", 0.5)
    yield from robot.told("controller died", "waiting", "no controller has heard")
    robot.change(controller=True)
    yield from robot.acts()
    robot.end_stop("controller died")
    robot.begin_stop("deactivated", 0.0)
    yield from robot.transition(Transition.TRANSITION_DEACTIVATE)
    yield from robot.stays(1.0)
    robot.end_stop("deactivated")
    yield from robot.transition(Transition.TRANSITION_ACTIVATE)
    yield from robot.acts()
    robot.begin_stop("exception", 0.1)
    robot.process.send_signal(signal.SIGUSR1)
    yield from robot.ends()


def hung(robot: Robot) -> Script:
    """A node that stands still, then a stop button, then SIGKILL: only the zero process is left to act."""
    yield from robot.acts()
    robot.begin_stop("SIGSTOP", 1.5)
    robot.process.send_signal(signal.SIGSTOP)
    yield from robot.stays(3.0)
    robot.process.send_signal(signal.SIGCONT)
    yield from robot.told("SIGSTOP", "fault", "stood still")
    robot.end_stop("SIGSTOP")
    yield from robot.resume()
    yield from robot.acts()
    robot.begin_stop("stop button", 0.0)
    yield from robot.says("stop_button", Bool(data=True))
    yield from robot.told("stop button", "estopped", "e-stop from outside")
    yield from robot.says("stop_button", Bool(data=False))  # released: still latched
    yield from robot.does_not_resume()
    robot.end_stop("stop button")
    yield from robot.call("reset_estop")
    yield from robot.resume()
    yield from robot.acts()
    others = descendants(robot.process.pid)
    robot.begin_stop("SIGKILL", 0.5)
    robot.process.kill()
    yield from robot.ends()
    yield Until(lambda: not any(map(lives, others)), "nothing of it is left", outlives=True)
    robot.beats.clear()
    robot.start()  # by hand, so nobody tells it that the last process crashed
    yield from robot.told("SIGKILL", "paused", "did not end in order")
    robot.end_stop("SIGKILL")
    yield from robot.resume()
    yield from robot.acts()


def estopped(robot: Robot) -> Script:
    """By service and by topic; neither resume nor a restart clears it, only `reset_estop` does."""
    yield from robot.finds("estop")
    yield from robot.acts()
    robot.begin_stop("e-stop service", 0.0)
    yield from robot.call("estop")
    assert robot.answer.success
    yield from robot.told("e-stop service", "estopped", "e-stop|estop")
    yield from robot.does_not_resume()
    robot.end_stop("e-stop service")
    yield from robot.call("reset_estop")
    yield from robot.resume()
    yield from robot.acts()
    robot.begin_stop("e-stop topic", 0.0)
    yield from robot.says("robot_node/estop", Bool(data=True))
    yield from robot.told("e-stop topic", "estopped", "e-stop|estop")
    robot.process.kill()
    yield from robot.ends()
    robot.beats.clear()
    robot.start()
    yield from robot.told("e-stop topic", "estopped", "e-stop|estop")
    yield from robot.does_not_resume()
    robot.end_stop("e-stop topic")
    yield from robot.call("reset_estop")
    yield from robot.resume()
    yield from robot.acts()


def helped(robot: Robot) -> Script:
    """A person labels episodes, asks for the next one, and drives the arm."""
    twist = TwistStamped()
    twist.twist.linear.z = 0.1

    def drive() -> Script:
        began_ns = time.time_ns()
        yield from robot.says("teleop/twist", twist, for_s=0.8)
        robot.driven.append((began_ns, time.time_ns()))

    for service in ("label_success", "label_failure", "next_episode"):
        yield from robot.finds(service)
    for act, within_s in (
        (lambda: robot.call("label_success"), 1.5),  # before the time limit of the next episode
        (lambda: robot.call("label_failure"), 1.5),
        (drive, 3.0),
    ):
        for _ in range(4):  # an episode that a stall of this machine has cut short does not count
            yield from robot.acts()
            finished = robot.finished
            yield from act()
            yield from robot.finishes(finished, within_s)
            if robot.answer:
                break
        assert robot.answer, "no episode came to its end"
    yield from robot.acts()
    yield from robot.call("next_episode")
    yield from robot.acts()


SCRIPTS: dict[str, Callable[[Robot], Script]] = {
    script.__name__: script for script in (odd, waiting, latching, stuck, headless, hung, estopped, helped)
}


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, module_ros_domain_id: int, make_endpoint: Callable[[], str]
) -> Iterator[World]:
    fleets = {"plain": PLAIN, "sensed": SENSED_ROBOTS}
    entries = {fleet: [robot_entry(name) for name in names] for fleet, names in fleets.items()}
    commands = {"headless": [sys.executable, "-c", CRASHING]}
    folder = tmp_path_factory.mktemp("foreign")
    made = World(folder, module_ros_domain_id, make_endpoint, entries, ARMS, commands)
    try:
        made.run(SCRIPTS)
    finally:
        made.close()
    yield made


# What is asserted ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARMS)
def test_the_script_went_to_its_end(world, name):
    robot = world.robots[name]
    if robot.failure:
        pytest.fail(f"{name}: {robot.failure}\n{robot.log.read_text()[-3000:]}", pytrace=False)


@pytest.mark.parametrize("name", ARMS)
def test_every_command_is_one_an_arm_may_get(world, name):
    robot = world.robots[name]
    assert len(robot.commands) > 20
    assert [problem for stream in robot.streams for problem in stream_problems(stream)] == []
    assert robot.commands[-1].zero, "whatever happened, the last command is zero"


@pytest.mark.parametrize(("name", "stop"), [(name, stop) for name, stops in STOPS.items() for stop in stops])
def test_a_stop_comes_in_time_and_lasts_and_ends_the_episode(world, name, stop):
    robot = world.robots[name]
    assert stop in robot.stops, "the script did not get there"
    s = robot.stops[stop]
    assert stop_problems(robot.commands, s.since_s, s.limit_s, s.until_s) == []
    if STOPS[name][stop]:
        begun = [e for e in robot.episodes() if e.transitions.stamp_ns[0] < s.since_ns]
        assert begun[-1].info.end == STOPS[name][stop] or stalled(robot, s.since_s)
        assert s.since_ns - begun[-1].transitions.stamp_ns[-1] < 1e9, "its rows go on until the stop"
        stamps = np.concatenate([e.transitions.stamp_ns for e in robot.episodes()])
        assert not ((stamps > s.since_ns + s.limit_s * 1e9) & (stamps < s.until_ns)).any(), "no row meanwhile"


@pytest.mark.parametrize("name", ARMS)
def test_rows_are_what_was_seen_and_what_was_commanded(world, name):
    robot = world.robots[name]
    episodes = robot.episodes()
    assert episodes
    assert [problem for episode in episodes for problem in row_problems(episode, robot)] == []


def test_another_driver_s_habits_are_no_fault(world):
    robot = world.robots["odd"]
    ends = [e.info.end for e in robot.episodes()]
    assert ends.count("time_limit") >= 2
    assert robot.stats["robot/bad_joint_states"] == 0
    assert robot.process.returncode == 0


def test_a_new_controller_begins_with_an_arm_at_rest(world):
    first, second = world.robots["headless"].streams
    assert not first[-1].zero and max(map(abs, second[0].values)) <= MAX_ACCELERATION / RATE_HZ + 1e-9


def test_an_exception_is_no_success(world):
    robot = world.robots["headless"]
    assert robot.process.returncode not in (0, None)
    assert "a bug in a callback" in robot.log.read_text()


@pytest.mark.parametrize(("name", "stop"), [("hung", "SIGSTOP"), ("hung", "SIGKILL")])
def test_zeros_come_from_another_process_when_the_node_cannot(world, name, stop):
    robot = world.robots[name]
    since_s = robot.stops[stop].since_s
    node = {c.publisher for c in robot.commands if c.time_s < since_s and not c.zero}
    first_zeros = [c for c in robot.commands if c.time_s > since_s and c.zero][:5]
    assert len(first_zeros) == 5 and {c.publisher for c in first_zeros}.isdisjoint(node)


def test_sensors_are_in_the_observation(world):
    for episode in world.robots["helped"].episodes():
        assert episode.transitions.observation[:, -len(SENSED) :] == pytest.approx(
            np.tile(SENSED, (episode.info.rows, 1))
        )


def test_a_person_judges_episodes(world):
    ends = {e.info.end: e for e in world.robots["helped"].episodes()}
    success, failure, asked = ends["success"], ends["failure"], ends["intervention"]
    assert success.info.success and not failure.info.success
    assert not asked.transitions.terminated.any()
    for episode, reward in ((success, 5.0), (failure, -5.0)):
        assert episode.transitions.terminated[-1] and not episode.transitions.terminated[:-1].any()
        assert episode.transitions.reward[-1] == pytest.approx(reward, abs=2.0)
        assert np.abs(episode.transitions.reward[:-1]).max(initial=0) < 2.0


def test_a_person_takes_over_and_lets_go(world):
    robot = world.robots["helped"]
    rows = [e.transitions for e in robot.episodes()]
    stamps, intervened, action, wished, tool_z = (
        np.concatenate(column)
        for column in zip(
            *((r.stamp_ns, r.intervened, r.action, r.policy_action, r.observation[:, 16]) for r in rows),
            strict=True,
        )
    )
    during = np.zeros(len(stamps), bool)
    about = np.zeros(len(stamps), bool)
    for began_ns, let_go_ns in robot.driven:
        taken = stamps[(stamps > began_ns) & (stamps < let_go_ns) & intervened]
        assert len(taken) and taken[0] < began_ns + 8e8, "a busy machine may need a moment"
        during |= (stamps >= taken[0]) & (stamps < let_go_ns)
        about |= (stamps > began_ns) & (stamps < let_go_ns + 13e8)
    assert during.sum() >= 3 and intervened[during].all()
    assert not intervened[~about].any()
    assert np.abs(wished[during] - ACTION).max() < 0.2, "what the policy wanted is kept"
    assert np.abs(action[during] - wished[during]).max() > 0.1
    newest = during & (stamps > robot.driven[-1][0])
    rise_m_s = np.polyfit((stamps[newest] - stamps[0]) * 1e-9, tool_z[newest], 1)[0]
    assert rise_m_s == pytest.approx(0.1, abs=0.04)


def stalled(robot: Robot, time_s: float) -> bool:
    """Whether this machine was too busy for even steps then: an episode with an uneven step is cut short."""
    commands = [command.time_s for command in robot.commands]
    states = [state["time_s"] for state in robot.states.values()]
    near = ([t for t in times if abs(t - time_s) < 1.5] for times in (commands, states))
    return any(max(np.diff(times), default=9.0) > 1.5 / RATE_HZ for times in near)


def row_problems(episode: Episode, robot: Robot) -> list[str]:
    """Where the rows of an episode are not what the arm published and what its controller heard."""
    rows, problems = episode.transitions, []
    stamps, commands = sorted(robot.states), robot.commands
    times = [command.time_s for command in commands]
    died = robot.stops.get("controller died")
    for i, stamp_ns in enumerate(map(int, rows.stamp_ns)):
        where = f"episode {episode.info.episode}, row {i}"
        state = robot.states.get(stamp_ns)
        if state is None:
            problems.append(f"{where}: no joint state had the stamp {stamp_ns}")
            continue
        q, qd = rows.observation[i, :7], rows.observation[i, 7:14]
        if not np.allclose(q, state["q"], atol=1e-6):
            problems.append(f"{where}: q is {q}, published was {state['q']}")
        k = bisect.bisect_left(stamps, stamp_ns)
        earlier = [robot.states[s] for s in stamps[max(0, k - 50) : k]]
        slopes = [np.subtract(state["q"], e["q"]) / ((stamp_ns - e["stamp_ns"]) * 1e-9) for e in earlier]
        if not any(np.allclose(qd, slope, atol=1e-3) for slope in [state["qd"], *slopes]):
            problems.append(f"{where}: qd is {qd}, published was {state['qd']}")
        if i + 1 < len(rows.stamp_ns) and not np.array_equal(
            rows.next_observation[i], rows.observation[i + 1]
        ):
            problems.append(f"{where}: the next observation is not that of the next row")
        heard = commands[bisect.bisect(times, state["time_s"]) :][:10]
        sent = rows.action[i] * MAX_VELOCITY
        alone = died is not None and died.since_ns - 10**9 <= stamp_ns <= died.until_ns
        if not alone and not any(np.allclose(sent, c.values, atol=1e-6) for c in heard):
            problems.append(f"{where}: nobody heard the command {sent}")
    return problems


def test_rows_that_do_not_fit_are_found(world):
    robot = world.robots["odd"]
    episode = max(robot.episodes(), key=lambda episode: episode.info.rows)
    for column, problem in {
        "observation": "published was",
        "action": "nobody heard",
        "stamp_ns": "had the stamp",
        "next_observation": "next row",
    }.items():
        wrong = getattr(episode.transitions, column).copy()
        wrong[3] += 1
        rows = dataclasses.replace(episode.transitions, **{column: wrong})
        problems = row_problems(dataclasses.replace(episode, transitions=rows), robot)
        assert problems and all(problem in text or "next row" in text for text in problems)
