"""ROS 2 bags to run folders: what our own control loop recorded comes back, and other arms' bags come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.common.bag_file import BagFile, Storage
from benchmarks.common.fleet_bags import GOAL, MARKER, Recording, record_bag
from benchmarks.common.fleet_logs import START_NS
from fleet.config import ConfigError, FleetConfig
from fleet.config_file import load_fleet
from fleet.messages import COLUMNS, PolicyMessage, Transitions, policy_checksum
from replay_server.logs import Logs, LogsError, open_logs
from replay_server.verify import verify_run
from robot_nodes.bag_import import import_bags
from robot_nodes.bag_options import BagOptions
from robot_nodes.bag_reader import BagError
from robot_nodes.kinematics import Kinematics
from robot_nodes.tasks.task import make_task
from robot_nodes.urdf_source import load_urdf

MS = 1_000_000
JOINTS = [f"joint_{i + 1}" for i in range(7)]
HOME = np.array([0.0, 0.3, 0.0, 1.7, 0.0, 1.0, 0.0])
STATES, COMMANDS = "/robot1/joint_states", "/robot1/forward_velocity_controller/commands"
NAMED = BagOptions(topics={"joint_states": STATES, "command": COMMANDS})


def fleet_of(name: str, *overrides: str) -> FleetConfig:
    return load_fleet(f"hardware_configs/fleets/{name}.yaml", ["task.episode_s=2.0", *overrides])


def noisy_policy(fleet: FleetConfig) -> PolicyMessage:
    spec = make_task(fleet, "robot1").spec
    nx, nu = spec.observation.size, spec.action.size
    weights = 0.2 * np.random.default_rng(0).standard_normal(nx * nu + nu)
    arrays = weights.astype("<f4"), np.zeros(nx, "<f4"), np.ones(nx, "<f4")
    return PolicyMessage(
        run_id="run", version=0, learner_step=0, spec_hash=spec.hash, layer_sizes=[nx, nu],
        exploration_std=0.3, exploration_correlation=0.0, published_ns=0, checksum=policy_checksum(*arrays),
        parameters=arrays[0], observation_mean=arrays[1], observation_scale=arrays[2],
    )  # fmt: skip


def recorded(name: str, rate_hz: float = 20.0, episodes: int = 2) -> tuple[FleetConfig, Recording]:
    fleet = fleet_of(name)
    return fleet, record_bag(
        fleet, "robot1", noisy_policy(fleet), episodes, seed=3, joint_state_rate_hz=rate_hz
    )


def rows_of(logs: Logs) -> list[Transitions]:
    return [transitions for _, transitions in logs.read()]


def assert_as_recorded(logs: Logs, recording: Recording) -> None:
    episodes = recording.episodes()
    assert len(logs.episodes) == len(episodes)
    for (summary, transitions), batches in zip(logs.read(), episodes, strict=True):
        info, last = summary.info, batches[-1]
        for name in set(COLUMNS) - {
            "policy_action",
            "policy_version",
            "clipped",
        }:  # only the robot knew these
            expected = np.concatenate([getattr(batch, name) for batch in batches])
            np.testing.assert_allclose(
                getattr(transitions, name), expected, rtol=1e-6, atol=1e-7, err_msg=name
            )
        assert (info.end, info.success) == (last.end, last.success)
        for name, value in info.metrics.items():
            assert value == pytest.approx(last.metrics[name], rel=1e-5), name


@pytest.mark.parametrize(
    ("name", "rate_hz", "storage"),
    [
        ("sim2", 20.0, "mcap"),
        ("sim2", 500.0, "sqlite3"),
        ("door2", 100.0, "mcap"),
        ("door2", 20.0, "sqlite3"),
        ("pick2", 20.0, "mcap"),
    ],
)
def test_what_our_own_loop_recorded_comes_back(
    name: str, rate_hz: float, storage: Storage, tmp_path: Path
) -> None:
    fleet, recording = recorded(name, rate_hz)
    recording.write(tmp_path / "bag", storage)
    options = BagOptions(marker=MARKER, goal=GOAL)
    (report,) = import_bags([tmp_path / "bag"], fleet, "robot1", tmp_path / "run", options)
    assert (report.error, report.notes, dict(report.cuts)) == ("", [], {})
    assert (report.episodes, report.rows) == (2, 80)
    logs = open_logs([tmp_path / "run"])
    assert_as_recorded(logs, recording)
    assert logs.config().robots == load_fleet(tmp_path / "run" / "config.yaml").robots
    assert logs.episodes[0].info.origin == "imported from bag bag"
    check = verify_run(tmp_path / "run")
    assert (check.ok, check.rows) == (True, 80)


def test_a_goal_that_nobody_wrote_down_is_where_the_episode_ended(tmp_path: Path) -> None:
    fleet, recording = recorded("sim2")
    recording.write(tmp_path / "bag", "mcap")
    import_bags([tmp_path / "bag"], fleet, "robot1", tmp_path / "run", BagOptions(marker=MARKER))
    logs = open_logs([tmp_path / "run"])
    robot = fleet.robots[0].robot
    kinematics = Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link)
    for summary, rows in logs.read():
        tool = kinematics.tool_position(rows.next_observation[-1, :7])
        np.testing.assert_allclose(rows.observation[:, 17:], np.tile(tool, (40, 1)), atol=1e-6)
        assert summary.info.success
        assert rows.reward[-1] > fleet.task.precision_weight - 0.2  # the peak, less what the action costs


def test_other_goals_are_drawn_or_given(tmp_path: Path) -> None:
    fleet, recording = recorded("sim2", episodes=1)
    recording.write(tmp_path / "bag", "mcap")
    goals = []
    for number, goal in enumerate(["sample", "sample", "0.4,-0.1,0.5"]):
        out = tmp_path / f"run{number}"
        import_bags([tmp_path / "bag"], fleet, "robot1", out, BagOptions(goal=goal))
        goals.append(rows_of(open_logs([out]))[0].observation[0, 17:])
    np.testing.assert_array_equal(goals[0], goals[1])
    np.testing.assert_allclose(goals[2], [0.4, -0.1, 0.5], rtol=1e-6)
    assert np.linalg.norm(goals[0] - fleet.task.target_center_m) <= fleet.task.target_radius_m[1]
    for goal, text in [
        ("where", "must be final, sample"),
        ("1,2", "3 finite numbers"),
        ("1,2,nan", "3 finite"),
    ]:
        with pytest.raises(ConfigError, match=text):
            import_bags([tmp_path / "bag"], fleet, "robot1", tmp_path / "bad", BagOptions(goal=goal))
        assert not (tmp_path / "bad").exists()


def test_importing_again_gives_the_same_rows_under_the_same_names(tmp_path: Path) -> None:
    fleet, recording = recorded("sim2", episodes=1)
    recording.write(tmp_path / "bag", "mcap")
    (tmp_path / "bag").rename(tmp_path / "renamed")
    paths = []
    for out in (tmp_path / "a", tmp_path / "b"):
        import_bags([tmp_path / "renamed"], fleet, "robot1", out)
        (summary, *_) = open_logs([out]).episodes
        paths.append(summary.path.relative_to(out))
    assert paths[0] == paths[1]
    with pytest.raises(LogsError, match="exists already"):
        import_bags([tmp_path / "renamed"], fleet, "robot1", tmp_path / "a")


# Bags of other arms ------------------------------------------------------------------------


class Arm:
    """An arm that moves joint 1 at 0.5 rad/s, at 20 Hz; what is written differs from test to test."""

    def __init__(self, path: Path, storage: Storage = "mcap") -> None:
        self.file = BagFile(path, storage)

    def drive(
        self,
        ticks: range,
        *,
        states: str = STATES,
        commands: str = COMMANDS,
        velocity: bool = True,
        stamped: bool = True,
        command: Any = (0.5, 0, 0, 0, 0, 0, 0),
    ) -> None:
        for tick in ticks:
            arrival_ns = START_NS + 50 * MS * tick
            q, qd = HOME.copy(), np.zeros(7)
            q[0], qd[0] = 0.025 * tick, 0.5
            stamp_ns = arrival_ns - MS if stamped else 0
            # Arm and gripper on one topic, as joint_state_broadcasters of two controllers have it.
            self.file.joint_state(states, arrival_ns - 2 * MS, stamp_ns, ["gripper"], [0.1], [0.0])
            self.file.joint_state(
                states, arrival_ns, stamp_ns, JOINTS[::-1], q[::-1], qd[::-1] if velocity else ()
            )
            if commands:
                self.file.array(commands, arrival_ns + MS, command)


def imported(
    tmp_path: Path, options: BagOptions | None = None, **drive: Any
) -> tuple[Any, list[Transitions]]:
    arm = Arm(tmp_path / "bag")
    with arm.file:
        arm.drive(range(31), **drive)
        arm.file.foreign("/welder", START_NS)
    (report,) = import_bags(
        [tmp_path / "bag"], fleet_of("sim2"), "robot1", tmp_path / "run", options or BagOptions()
    )
    return report, rows_of(open_logs([tmp_path / "run"]))


def test_an_arm_with_shuffled_joints_a_gripper_and_a_welder_of_its_own(tmp_path: Path) -> None:
    report, (rows,) = imported(tmp_path)
    assert (report.rows, report.messages, report.error) == (30, 93, "")
    np.testing.assert_allclose(rows.observation[:, 0], 0.025 * np.arange(30), rtol=1e-6)
    np.testing.assert_allclose(rows.observation[:, 1:7], np.tile(HOME[1:], (30, 1)), rtol=1e-6)
    np.testing.assert_allclose(rows.observation[:, 7], 0.5)
    np.testing.assert_allclose(rows.action[:, 0], 0.5 / 1.5)
    assert (rows.stamp_ns == START_NS - MS + 50 * MS * np.arange(30)).all()
    assert (rows.policy_version == -1).all()
    assert not (rows.intervened.any() or rows.clipped.any() or rows.terminated.any())
    assert rows.truncated.tolist() == [False] * 29 + [True]


def test_without_velocities_positions_are_differenced(tmp_path: Path) -> None:
    report, (rows,) = imported(tmp_path, velocity=False)
    assert report.notes == ["joint states have no velocities: differences of positions are used"]
    np.testing.assert_allclose(rows.observation[1:, 7], 0.5, rtol=1e-5)


def test_without_stamps_arrivals_are_the_time(tmp_path: Path) -> None:
    report, (rows,) = imported(tmp_path, stamped=False, velocity=False)
    assert "joint states have no stamps: their times of arrival are used" in report.notes
    assert (rows.stamp_ns == START_NS + 50 * MS * np.arange(30)).all()
    np.testing.assert_allclose(rows.observation[1:, 7], 0.5, rtol=1e-5)


def test_without_commands_measured_velocities_are_the_actions(tmp_path: Path) -> None:
    _, (rows,) = imported(tmp_path, BagOptions(action="measured", demonstrations=True), commands="")
    assert rows.rows == 30
    np.testing.assert_allclose(rows.action[:, 0], 0.5 / 1.5)
    assert rows.intervened.all()


def test_commands_beyond_the_limits_are_cut_to_them_and_told(tmp_path: Path) -> None:
    report, (rows,) = imported(tmp_path, command=(0.5, 3.0, 0, 0, 0, 0, 0))
    assert (rows.action[:, 1] == 1.0).all() and rows.clipped.all()
    assert report.clipped == 30
    assert "100% of the actions are beyond max_joint_velocity_rad_s" in report.notes[0]


def test_topics_of_other_names_are_named_by_the_error_and_then_by_the_user(tmp_path: Path) -> None:
    with pytest.raises(BagError) as raised:
        imported(tmp_path / "a", states="/arm/states", commands="/arm/vel")
    assert str(raised.value) == (
        f"{tmp_path / 'a' / 'bag'}: it has no /robot1/joint_states (sensor_msgs/JointState); of that type it "
        "has /arm/states: name the right one with --topic joint_states=/…"
    )
    with pytest.raises(
        BagError, match=r"of that type it has /arm/vel.*--topic command=/….*--action measured"
    ):
        imported(tmp_path / "b", commands="/arm/vel")
    with pytest.raises(
        BagError, match=r"its /robot1/joint_states is sensor_msgs/JointState, not std_msgs/Fl"
    ):
        imported(tmp_path / "c", BagOptions(topics={"command": "joint_states"}))
    with pytest.raises(ConfigError, match=r"--topic gripper=…: .* there are: joint_states, command$"):
        imported(tmp_path / "d", BagOptions(topics={"gripper": "/x"}))
    options = BagOptions(topics={"joint_states": "/arm/states", "command": "/arm/vel"})
    assert imported(tmp_path / "e", options, states="/arm/states", commands="/arm/vel")[0].rows == 30


def test_a_command_for_another_number_of_joints_is_no_command_of_this_robot(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"commands has 6 numbers and the robot 7 joints"):
        imported(tmp_path, command=np.zeros(6))


def test_why_nothing_came_of_a_bag(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="the robot was at rest all the time"):
        imported(tmp_path / "a", command=np.zeros(7))
    arm = Arm(tmp_path / "slow")
    with arm.file:
        arm.drive(range(0, 60, 3))
    with pytest.raises(
        BagError, match=r"joint states missing \(\d+ times\); they come at 6.67 Hz, control_rate_hz is 20"
    ):
        import_bags([tmp_path / "slow"], fleet_of("sim2"), "robot1", tmp_path / "run")
    arm = Arm(tmp_path / "gripper")
    with arm.file:
        arm.file.joint_state(STATES, START_NS, START_NS, ["gripper"], [0.1])
        arm.file.array(COMMANDS, START_NS, np.zeros(7))
    with pytest.raises(BagError, match=r"joint_states lacks joint_1, .*it has gripper"):
        import_bags([tmp_path / "gripper"], fleet_of("sim2"), "robot1", tmp_path / "run")


def test_gaps_long_episodes_and_rest_part_a_bag(tmp_path: Path) -> None:
    arm = Arm(tmp_path / "bag")
    with arm.file:
        arm.drive(range(0, 61))  # 60 steps: an episode of 40, one of 20 that the gap ends
        arm.drive(range(100, 111))
        arm.drive(range(111, 231), command=np.zeros(7))  # 6 s at rest, of which 2 s may count
        arm.drive(range(231, 242))
    (report,) = import_bags([tmp_path / "bag"], fleet_of("sim2"), "robot1", tmp_path / "run")
    infos = [summary.info for summary in open_logs([tmp_path / "run"]).episodes]
    assert [info.rows for info in infos] == [40, 20, 40, 10]
    assert [info.end for info in infos] == ["time_limit", "fault", "time_limit", "time_limit"]
    assert dict(report.cuts) == {"joint states missing": 1}
    assert report.idle_s == pytest.approx((120 - 29) / 20)  # an episode does not begin at rest
    options = BagOptions(episode_s=60.0)
    (report,) = import_bags([tmp_path / "bag"], fleet_of("sim2"), "robot1", tmp_path / "long", options)
    assert report.idle_s == pytest.approx((120 - 40) / 20)
    assert [s.info.rows for s in open_logs([tmp_path / "long"]).episodes] == [60, 51, 10]


def test_a_sensor_that_is_missing_old_or_bad_cuts(tmp_path: Path) -> None:
    fleet = fleet_of(
        "door2", "robots.0.robot.sensors.0.max_age_s=0.3", "robots.1.robot.sensors.0.max_age_s=0.3"
    )
    arm, door = Arm(tmp_path / "bag"), "/robot1/door/joint_states"
    with arm.file:
        arm.drive(range(61))
        for tick in [*range(5, 20), *range(30, 61)]:
            at_ns = START_NS + 50 * MS * tick - 3 * MS
            angles = [np.nan, 0.0] if tick >= 50 else [0.01 * tick, 0.0]
            arm.file.joint_state(door, at_ns, at_ns, ["door_hinge", "door_handle"], angles)
    (report,) = import_bags([tmp_path / "bag"], fleet, "robot1", tmp_path / "run")
    first, second = rows_of(open_logs([tmp_path / "run"]))
    assert dict(report.cuts) == {
        "sensor door: silent": 1,
        "sensor door: door_hinge is not a finite number": 1,
    }
    angle = first.observation[:, -2]
    np.testing.assert_allclose(angle[:15], 0.01 * np.arange(5, 20), rtol=1e-6)
    np.testing.assert_allclose(angle[15:], 0.19, rtol=1e-6)  # no older than 0.3 s
    assert (first.rows, second.observation[0, -2]) == (19, pytest.approx(0.3))


def test_a_urdf_that_the_driver_publishes_is_read_from_the_bag(tmp_path: Path) -> None:
    sources = [
        f"robots.{i}.robot.{k}" for i in (0, 1) for k in ("urdf={topic: robot_description}", "sim=null")
    ]
    fleet = fleet_of("sim2", *sources)
    for name in ("with", "without"):
        arm = Arm(tmp_path / name)
        with arm.file:
            text = Path("hardware_configs/urdf/generic7.urdf").read_text() if name == "with" else "<robot/>"
            arm.file.text("/robot1/robot_description", START_NS, text)
            arm.drive(range(1, 32))
    bags = [tmp_path / "without", tmp_path / "with"]
    bad, good = import_bags(bags, fleet, "robot1", tmp_path / "run")
    assert "topic /robot1/robot_description: cannot be loaded as a URDF" in bad.error
    assert (good.error, good.rows) == ("", 30)


def test_markers_that_are_no_flags_part_episodes_and_leave_nothing_out(tmp_path: Path) -> None:
    arm = Arm(tmp_path / "bag")
    with arm.file:
        arm.drive(range(31))
        for tick in (10, 17):
            arm.file.text("/note", START_NS + 50 * MS * tick + MS // 2, "next")
    import_bags([tmp_path / "bag"], fleet_of("sim2"), "robot1", tmp_path / "run", BagOptions(marker="/note"))
    assert [rows.rows for rows in rows_of(open_logs([tmp_path / "run"]))] == [10, 7, 13]


def test_a_damaged_message_ends_the_episode_and_the_bag_and_what_came_before_stays(tmp_path: Path) -> None:
    arm = Arm(tmp_path / "bag")
    with arm.file:
        arm.drive(range(21))
        arm.file.raw(STATES, START_NS + 50 * MS * 21, b"\x00\x01\x00\x00\xff\xff")
        arm.drive(range(22, 60))
    (report,) = import_bags([tmp_path / "bag"], fleet_of("sim2"), "robot1", tmp_path / "run")
    assert report.error.startswith("damaged or no bag: ")
    (summary,) = open_logs([tmp_path / "run"]).episodes
    assert (summary.info.rows, summary.info.end, summary.info.success) == (20, "fault", False)


def test_one_bag_without_the_topic_does_not_keep_out_the_others(tmp_path: Path) -> None:
    for name, states in (("a", "/other"), ("b", STATES), ("c", STATES)):
        arm = Arm(tmp_path / "bags" / name)
        with arm.file:
            arm.drive(range(ord(name)), states=states)
    reports = import_bags([tmp_path / "bags"], fleet_of("sim2"), "robot2", tmp_path / "run", NAMED)
    assert [(r.bag.name, r.rows) for r in reports] == [("a", 0), ("b", 97), ("c", 98)]
    assert "it has no /robot1/joint_states" in reports[0].error
    infos = [summary.info for summary in open_logs([tmp_path / "run"]).episodes]
    assert {info.robot_id for info in infos} == {"robot2"}
    assert len({info.boot_id for info in infos}) == 2


def test_made_json_and_origins_tell_where_it_is_from(tmp_path: Path) -> None:
    imported(tmp_path)
    made = json.loads((tmp_path / "run" / "made.json").read_text())
    assert made["made"] == "imported from ROS 2 bags"
