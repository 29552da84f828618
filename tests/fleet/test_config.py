"""What a person gets wrong in a config, and what they are told: file, key, value, what is allowed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.config import ConfigError, FleetConfig
from fleet.config_file import PACKAGED_CONFIGS, load_fleet, save_fleet
from fleet.fleet_checks import check_robots
from fleet.robot_config import UrdfTopic
from fleet.run_folder import RunFolder, create_run_folder

Edit = Callable[[str, Callable[[dict[str, Any]], object]], None]


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A copy of hardware_configs that a test may spoil."""
    return Path(shutil.copytree(PACKAGED_CONFIGS, tmp_path / "hardware_configs"))


@pytest.fixture
def sim2(configs: Path) -> Path:
    return configs / "fleets/sim2.yaml"


@pytest.fixture
def edit(configs: Path) -> Edit:
    """`edit("robots/x.yaml", lambda data: …)` changes one file in place."""

    def change(name: str, how: Callable[[dict[str, Any]], object]) -> None:
        data = yaml.safe_load((configs / name).read_text())
        how(data)
        (configs / name).write_text(yaml.safe_dump(data, sort_keys=False))

    return change


def error_of(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_fleet(path, overrides)
    return str(caught.value)


# What the text must name ---------------------------------------------------------------------


def test_an_unknown_key_is_named_with_its_file_and_value(sim2: Path, edit: Edit) -> None:
    edit("fleets/sim2.yaml", lambda fleet: fleet["learner"].update(learning_rat=0.1))
    assert error_of(sim2) == (
        f"{sim2}: learner.learning_rat: unknown key (value 0.1); remove it or correct its spelling"
    )


def test_an_unknown_key_is_named_whatever_it_looks_like(sim2: Path, edit: Edit) -> None:
    edit("fleets/sim2.yaml", lambda fleet: fleet["learner"].update({"gamma-2": 0.1}))
    assert error_of(sim2).startswith(f"{sim2}: learner.gamma-2: unknown key (value 0.1)")


@pytest.mark.parametrize("name", ["max_joint_velocity_rad_s", "workspace_sphere", "link_planes"])
def test_a_missing_safety_limit_has_no_default(sim2: Path, configs: Path, edit: Edit, name: str) -> None:
    edit("robots/generic7_sim.yaml", lambda robot: robot["limits"].pop(name))
    error = error_of(sim2)
    assert "generic7_sim.yaml" in error and f": limits.{name}: is required and missing" in error
    assert len(error.splitlines()) == 1, "two robots of one kind have one error"


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("fleets/sim2.yaml", {"seed": "many"}, "seed = many: Input should be a valid integer"),
        ("fleets/sim2.yaml", {"evaluate_every": 1}, "evaluate_every = 1: Input should be greater than"),
        ("fleets/sim2.yaml", {"robots": []}, "robots = []: List should have at least 1 item"),
        ("fleets/sim2.yaml", {"robots": "robot1"}, "robots = robot1: Input should be a valid list"),
        ("fleets/sim2.yaml", {"robots": ["Robot 1"]}, "robots.0.id = Robot 1: String should match pattern"),
        ("fleets/sim2.yaml", {"goal": {"success_rate": 90}}, "goal.success_rate = 90: Input should be less"),
        ("fleets/sim2.yaml", {"replay_server": {"endpoint": "localhost"}}, "endpoint = localhost: "),
        ("fleets/sim2.yaml", {"learner": {"device": "gpu"}}, "learner.device = gpu: String should match"),
        ("tasks/reach.yaml", {"kind": "rech"}, "kind = rech: must be one of 'reach', 'door'"),
        ("tasks/reach.yaml", {"success_radius_m": 0}, "success_radius_m = 0: Input should be greater than 0"),
        ("robots/generic7_sim.yaml", {"control_rate_hz": -20}, "control_rate_hz = -20: Input should"),
        ("robots/generic7_sim.yaml", {"joints": "joint_1"}, "joints = joint_1: Input should be a valid list"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_the_file_it_stands_in(
    sim2: Path, configs: Path, edit: Edit, file: str, change: dict[str, Any], expected: str
) -> None:
    edit(file, lambda data: data.update(change))
    error = error_of(sim2)
    assert Path(error.partition(": ")[0]).resolve() == configs / file
    assert expected in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_limit_that_limits_nothing_is_refused(sim2: Path, edit: Edit, value: float) -> None:
    edit("robots/generic7_sim.yaml", lambda robot: robot["limits"].update(link_margin_m=value))
    edit("robots/generic7_sim.yaml", lambda robot: robot["limits"]["max_joint_velocity_rad_s"].append(value))
    lines = error_of(sim2).splitlines()
    assert any("limits.max_joint_velocity_rad_s.7 = " in line and "finite" in line for line in lines)
    assert any("limits.link_margin_m = " in line and "finite" in line for line in lines)


def test_all_problems_are_told_at_once(sim2: Path, edit: Edit) -> None:
    edit("fleets/sim2.yaml", lambda fleet: fleet.update(seed="x", sede=3))
    edit("tasks/reach.yaml", lambda task: task.pop("episode_s"))
    lines = error_of(sim2).splitlines()
    assert [line.rpartition("yaml: ")[2].split(":")[0].split(" ")[0] for line in lines] == [
        "seed", "episode_s", "sede",
    ]  # fmt: skip


# Joints, limits, ids -------------------------------------------------------------------------


def test_joints_and_limits_must_be_as_many(sim2: Path, edit: Edit) -> None:
    edit("robots/generic7_sim.yaml", lambda robot: robot["joints"].pop())
    error = error_of(sim2)
    assert "generic7_sim.yaml" in error and "limits has 7 joints but joints lists 6" in error


def test_limits_must_be_equally_long(sim2: Path, edit: Edit) -> None:
    edit("robots/generic7_sim.yaml", lambda robot: robot["limits"]["position_low_rad"].pop())
    assert "all per-joint limits must be equally long, got lengths {'position_low_rad': 6," in error_of(sim2)


def test_low_must_be_below_high(sim2: Path, edit: Edit) -> None:
    edit("robots/generic7_sim.yaml", lambda robot: robot["limits"]["position_low_rad"].__setitem__(3, 2.5))
    assert "position_low_rad[3] = 2.5 must be below position_high_rad[3] = 2.5" in error_of(sim2)


def test_home_must_be_within_the_limits(sim2: Path, edit: Edit) -> None:
    edit("robots/generic7_sim.yaml", lambda robot: robot["reset"]["home_rad"].__setitem__(3, 0.0))
    assert "reset.home_rad[3] = 0.0 is outside the position limits" in error_of(sim2)


def test_what_is_wrong_with_a_whole_group_is_told_without_all_of_it(
    sim2: Path, configs: Path, edit: Edit
) -> None:
    same = load_fleet(sim2).replay_server.endpoint
    assert error_of(sim2, f"learner.policy_endpoint={same}") == (
        f"{sim2}: replay_server.endpoint and learner.policy_endpoint are both {same}"
    )
    edit("robots/generic7_sim.yaml", lambda robot: robot["limits"]["position_low_rad"].__setitem__(3, 2.5))
    robot = (sim2.parent / "../robots/generic7_sim.yaml").resolve()
    (line,) = error_of(sim2).splitlines()
    assert line.endswith(": limits: position_low_rad[3] = 2.5 must be below position_high_rad[3] = 2.5")
    assert Path(line.partition(":")[0]).resolve() == robot


def test_two_robots_of_one_id_are_refused(sim2: Path, edit: Edit) -> None:
    edit("fleets/sim2.yaml", lambda fleet: fleet.update(robots=["left", "right", "left"]))
    error = error_of(sim2)
    assert f"{sim2}: robots" in error
    assert "robot ids must be unique, got ['left', 'right', 'left']" in error


def test_a_robot_without_a_kind_is_told_so(sim2: Path, edit: Edit) -> None:
    edit("fleets/sim2.yaml", lambda fleet: fleet.pop("robot"))
    assert f"{sim2}: robots.0.robot: is required and missing" in error_of(sim2)


def test_an_unknown_robot_is_answered_with_the_known_ones() -> None:
    fleet = load_fleet("hardware_configs/fleets/sim2.yaml")
    assert fleet.entry("robot2").id == "robot2"
    with pytest.raises(ConfigError, match="no robot 'robot9' in fleet 'sim2'; it has: robot1, robot2"):
        fleet.entry("robot9")


# Files ---------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path, sim2: Path, edit: Edit) -> None:
    assert error_of(tmp_path / "nowhere.yaml") == f"{tmp_path / 'nowhere.yaml'}: no such file"
    edit("fleets/sim2.yaml", lambda fleet: fleet.update(task="../tasks/rech.yaml"))
    assert error_of(sim2).endswith("tasks/rech.yaml: no such file")


def test_a_missing_urdf_is_named_with_its_robot(sim2: Path, edit: Edit) -> None:
    edit("robots/generic7_sim.yaml", lambda robot: robot.update(urdf="../urdf/other.urdf"))
    error = error_of(sim2)
    assert "robots.robot1.robot.urdf: no such file: " in error and error.endswith("urdf/other.urdf")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [sim2", "not valid YAML"),
        ("- name", "must hold a mapping of keys to values, got list"),
        ("", "must hold a mapping of keys to values, got NoneType"),
    ],
)
def test_bad_yaml_is_told_with_its_file(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    error = error_of(path)
    assert error.startswith(f"{path}: ") and expected in error


def test_bytes_and_folders_are_no_config(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert f"{tmp_path / 'bytes.yaml'}: " in error_of(tmp_path / "bytes.yaml")
    assert error_of(tmp_path).startswith(f"{tmp_path}: cannot be read")


def test_an_installed_config_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_fleet("hardware_configs/fleets/sim2.yaml") == load_fleet("fleets/sim2.yaml")


# Overrides -----------------------------------------------------------------------------------


def test_overrides_win_over_the_files(sim2: Path) -> None:
    fleet = load_fleet(
        sim2,
        [
            "seed=7",
            "learner.hidden_sizes=[32, 32]",
            "goal=null",
            "task.success_radius_m=0.1",
            "robots.1.exploration_scale=2.5",
            "robots.1.robot.limits.max_joint_velocity_rad_s.0=0.5",
            "replay_server.samples_per_insert=8",
        ],
    )
    assert (fleet.seed, fleet.learner.hidden_sizes, fleet.goal) == (7, [32, 32], None)
    assert fleet.task.success_radius_m == 0.1
    assert [entry.exploration_scale for entry in fleet.robots] == [1.0, 2.5]
    assert fleet.robots[1].robot.limits.max_joint_velocity_rad_s[:2] == [0.5, 1.5]
    assert fleet.robots[0].robot.limits.max_joint_velocity_rad_s[:2] == [1.5, 1.5]
    assert fleet.replay_server.samples_per_insert == 8.0


@pytest.mark.parametrize(
    ("robots", "factors"), [(1, [1.0]), (2, [1 / 8, 8]), (3, [1 / 8, 1, 8]), (4, [1 / 8, 1 / 2, 2, 8])]
)
def test_the_exploration_ladder_has_a_step_for_each_robot(
    sim2: Path, robots: int, factors: list[float]
) -> None:
    ids = [f"robot{i + 1}" for i in range(robots)]
    fleet = load_fleet(sim2, [f"robots={ids}"])
    assert [fleet.exploration_scale(robot_id) for robot_id in ids] == [1.0] * robots
    fleet = load_fleet(
        sim2, [f"robots={ids}", "learner.exploration_ladder=8", "robots.0.exploration_scale=0.5"]
    )
    scales = [fleet.exploration_scale(robot_id) for robot_id in ids]
    assert scales == pytest.approx([0.5 * factors[0], *factors[1:]])
    with pytest.raises(ConfigError, match="no robot 'robot9'"):
        fleet.exploration_scale("robot9")


def test_precision_noise_needs_a_precision(sim2: Path) -> None:
    assert load_fleet(sim2, ["learner.exploration=precision"]).learner.exploration == "precision"
    for line, reason in (("algorithm=ddpg", "of algorithm ddpg"), ("linear_mean=true", "with linear_mean")):
        text = error_of(sim2, "learner.exploration=precision", f"learner.{line}")
        assert f"precision needs P, which robots {reason} lack" in text
    assert "greater than or equal to 1" in error_of(sim2, "learner.exploration_ladder=0.5")


def test_a_network_that_cannot_be_is_refused(sim2: Path) -> None:
    assert "learner.hidden_sizes.1" in error_of(sim2, "learner.hidden_sizes=[8, 0]")
    assert "learner.algorithm" in error_of(sim2, "learner.algorithm=[naf]")
    for key in ("layer_norm=true", "residual=true", "linear_mean=true", "off_diagonal=true", "diagonal=exp"):
        text = error_of(sim2, "learner.algorithm=ddpg", f"learner.{key}")
        assert f"{key.partition('=')[0]}: algorithm ddpg has no such thing" in text


def test_an_override_for_one_robot_leaves_those_of_a_shared_config_alone(sim2: Path, edit: Edit) -> None:
    robot = yaml.safe_load((sim2.parent / "../robots/generic7_sim.yaml").read_text())
    edit("fleets/sim2.yaml", lambda fleet: fleet.update(robot=robot))
    fleet = load_fleet(sim2, ["robots.0.robot.watchdogs.state_age.limit_s=0.5"])
    assert [entry.robot.watchdogs.state_age.limit_s for entry in fleet.robots] == [0.5, 0.15]


def test_an_override_names_a_robots_file_as_the_fleet_does(sim2: Path, configs: Path, edit: Edit) -> None:
    shutil.copy(configs / "robots/generic7_sim.yaml", configs / "robots/other.yaml")
    edit("robots/other.yaml", lambda robot: robot.update(name="other"))
    other = "robots.0.robot=../robots/other.yaml"
    robots = [entry.robot for entry in load_fleet(sim2, [other, "robots.0.robot.tool_link=link_7"]).robots]
    assert [(r.name, r.tool_link) for r in robots] == [("other", "link_7"), ("generic7_sim", "tool")]
    assert robots[0].urdf == robots[1].urdf, "its files are relative to its own"
    edit("robots/other.yaml", lambda robot: robot.pop("tool_link"))
    assert error_of(sim2, other).endswith("robots/other.yaml: tool_link: is required and missing")
    assert error_of(sim2, "robots.1.robot=nowhere.yaml") == f"{sim2.parent / 'nowhere.yaml'}: no such file"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "override 'seed' must look like learner.seed=3"),
        ("robots.2.id=x", "override 'robots.2.id=x': '2' is not an index below 2"),
        ("robots.first.id=x", "'first' is not an index below 2"),
        ("seed.x=1", "override 'seed.x=1': 'seed' is a value, not a group of keys"),
        ("seed=[1", "override 'seed=[1': the value is not valid YAML"),
        ("learner.sede=3", "learner.sede: unknown key (value 3)"),
        ("seed=abc", "seed = abc: Input should be a valid integer"),
        ("robots.0.robot.control_rate_hz=0", "robots.0.robot.control_rate_hz = 0: Input should"),
    ],
)  # fmt: skip
def test_a_bad_override_is_quoted(sim2: Path, override: str, expected: str) -> None:
    assert expected in error_of(sim2, override)


# A group `override` in the fleet's file --------------------------------------------------------


def test_override_wins_over_every_robots_file_key_by_key(sim2: Path, configs: Path, edit: Edit) -> None:
    edit("robots/generic7_sim.yaml", lambda robot: robot.update(teleop=None))
    before = load_fleet(sim2).robots[0].robot
    changes = {
        "sim": {"simulator": "gazebo", "speed": 1.0},
        "watchdogs": {"state_age": {"limit_s": 0.4}, "effort": "wait"},
        "reset": {"steps": ["velocity", "person"]},
        "teleop": {"twist_topic": "twist", "max_age_s": 0.3, "max_linear_m_s": 0.2, "max_angular_rad_s": 1},
    }
    edit("fleets/sim2.yaml", lambda fleet: fleet.update(override=changes))
    fleet = load_fleet(sim2)
    for robot in (entry.robot for entry in fleet.robots):
        assert robot.sim and before.sim
        assert (robot.sim.simulator, robot.sim.speed) == ("gazebo", 1.0)
        assert robot.sim.lockstep_timeout_s == before.sim.lockstep_timeout_s == 0.5, "groups are merged"
        assert robot.watchdogs.state_age.limit_s == 0.4
        assert robot.watchdogs.state_age.action == before.watchdogs.state_age.action
        assert (robot.watchdogs.effort, before.watchdogs.effort) == ("wait", "latch")
        assert robot.reset.steps == ["velocity", "person"], "lists are replaced"
        assert robot.teleop and robot.teleop.twist_topic == "twist", "a group takes the place of null"
    (folder := configs / "saved").mkdir()
    save_fleet(fleet, folder / "fleet.yaml")
    assert load_fleet(folder / "fleet.yaml") == fleet, "what is saved is what it came to"


def test_override_reaches_a_robot_given_inline_and_real_arms(sim2: Path, configs: Path, edit: Edit) -> None:
    inline = yaml.safe_load((configs / "robots/generic7_sim.yaml").read_text())
    robots = [{"id": "one", "robot": inline}, {"id": "two", "robot": "../robots/franka_fr3.yaml"}]
    edit("fleets/sim2.yaml", lambda fleet: fleet.update(robots=robots, override={"sim": {"speed": 3.0}}))
    fleet = load_fleet(sim2)
    assert [entry.robot.sim and entry.robot.sim.speed for entry in fleet.robots] == [3.0, 3.0]
    assert fleet.robots[0].robot.urdf == configs / "urdf/generic7.urdf"


def test_override_names_files_relative_to_the_fleets(sim2: Path, configs: Path, edit: Edit) -> None:
    shutil.copy(configs / "urdf/generic7.urdf", configs / "fleets/other.urdf")
    edit("fleets/sim2.yaml", lambda fleet: fleet.update(override={"urdf": "other.urdf"}))
    assert {entry.robot.urdf for entry in load_fleet(sim2).robots} == {configs / "fleets/other.urdf"}


def test_the_command_line_wins_over_override_and_can_set_it(sim2: Path, edit: Edit) -> None:
    edit("fleets/sim2.yaml", lambda fleet: fleet.update(override={"sim": {"speed": 2.0}}))
    lines = ["robots.1.robot.sim.speed=5.0", "override.sim.joint_state_rate_hz=40"]
    sims = [entry.robot.sim for entry in load_fleet(sim2, lines).robots]
    assert [(sim.speed, sim.joint_state_rate_hz) for sim in sims if sim] == [(2.0, 40.0), (5.0, 40.0)]
    other = ["robots.1.robot=../robots/generic_arm7.yaml"]
    assert [e.robot.sim and e.robot.sim.speed for e in load_fleet(sim2, other).robots] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ({"simm": {}}, "override.simm: unknown key (value {}); remove it or correct its spelling"),
        ({"sim": {"sped": 1}}, "override.sim.sped: unknown key (value 1); remove it or correct its spelling"),
        ({"sim": {"simulator": "webots"}}, "override.sim.simulator = webots: Input should be 'mujoco' or"),
        ({"watchdogs": {"state_age": {"limit_s": 0}}}, "override.watchdogs.state_age.limit_s = 0: Input"),
        ({"simm": {"speed": 1}}, "override.simm: unknown key (value {'speed': 1}); remove it or correct its"),
        ({"watchdog": {"state_age": {"limit_s": 1}}}, "override.watchdog: unknown key (value {'state_age': "),
        ({"watchdogs": {"state_agee": {"limit_s": 1}}}, "override.watchdogs.state_agee: unknown key (value "),
        ({"sim": "gazebo"}, "override.sim: must be a group of keys, got 'gazebo'"),
        ({"sim": ["gazebo"]}, "override.sim: must be a group of keys, got ['gazebo']"),
        ("fast", "override = fast: must be groups and keys of a robot"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_override_is_looked_for_there(
    sim2: Path, edit: Edit, override: object, expected: str
) -> None:
    edit("fleets/sim2.yaml", lambda fleet: fleet.update(override=override))
    (line,) = error_of(sim2).splitlines()
    assert line.startswith(f"{sim2}: {expected}"), "one line, whose file is the fleet's, for both robots"


def test_what_a_robots_file_lacks_is_not_blamed_on_override(sim2: Path, edit: Edit) -> None:
    edit("robots/generic7_sim.yaml", lambda robot: robot["watchdogs"].pop("effort"))
    edit("fleets/sim2.yaml", lambda fleet: fleet.update(override={"watchdogs": {"policy_age": None}}))
    (line,) = [line for line in error_of(sim2).splitlines() if "effort" in line]
    assert line.endswith("robots/generic7_sim.yaml: watchdogs.effort: is required and missing")


def test_two_files_that_do_not_fit_together_are_both_named(sim2: Path, edit: Edit) -> None:
    edit("fleets/sim2.yaml", lambda fleet: fleet.update(override={"limits": {"position_low_rad": [9.0] * 7}}))
    (line,) = [line for line in error_of(sim2).splitlines() if "must be below" in line]
    assert "robots/generic7_sim.yaml: limits: position_low_rad[0] = 9.0 must be below" in line
    assert line.endswith(f"(see also {sim2}: override.limits)")


# A scene ---------------------------------------------------------------------------------------


def test_a_scene_is_a_file_relative_to_the_tasks(
    tmp_path: Path, sim2: Path, configs: Path, edit: Edit
) -> None:
    (configs / "tasks/table.yaml").write_text(
        "name: table\nboxes: [{name: top, center_m: [0.5, 0, 0.1], size_m: [0.4, 0.4, 0.02]}]\n"
    )
    edit("tasks/reach.yaml", lambda task: task.update(scene="table.yaml"))
    fleet = load_fleet(sim2)
    assert fleet.task.scene and fleet.task.scene.boxes[0].name == "top"
    folder = create_run_folder(fleet, tmp_path / "runs", "run")
    shutil.rmtree(configs)
    assert folder.load().task == fleet.task


def test_what_is_wrong_in_a_scene_is_named_with_its_file(sim2: Path, configs: Path, edit: Edit) -> None:
    (configs / "worlds/table.yaml").write_text("name: table\nboxes: [{name: top, center_m: [0.5, 0, 0.1]}]\n")
    edit("tasks/reach.yaml", lambda task: task.update(scene="../worlds/table.yaml"))
    assert error_of(sim2).endswith("worlds/table.yaml: boxes.0.size_m: is required and missing")
    edit("tasks/reach.yaml", lambda task: task.update(scene="../worlds/desk.yaml"))
    assert error_of(sim2).endswith("worlds/desk.yaml: no such file")


def test_the_command_line_names_a_scene_relative_to_the_fleets_file(sim2: Path, edit: Edit) -> None:
    scene = load_fleet(sim2, ["task.scene=../worlds/door.yaml", "task.scene.boxes=[]"]).task.scene
    assert scene and scene.door and not scene.boxes
    nowhere = error_of(sim2, "task.scene=../worlds/nope.yaml")
    assert nowhere == f"{sim2.parent / '../worlds/nope.yaml'}: no such file"
    assert error_of(sim2, "task.scene=3") == f"{sim2}: task.scene: must be a group of keys, got 3"


# Who is simulated where ------------------------------------------------------------------------

GAZEBO = "override.sim.simulator=gazebo"


def test_worlds_of_robots_in_gazebo(sim2: Path) -> None:
    assert load_fleet(sim2).gazebo_worlds == {}
    assert load_fleet(sim2, ["gazebo.worlds=own"]).in_gazebo == []
    assert load_fleet(sim2, [GAZEBO]).gazebo_worlds == {"world": ["robot1", "robot2"]}
    own = load_fleet(sim2, [GAZEBO, "gazebo.worlds=own", "robots=[a, b, c]", "robots.1.robot.sim=null"])
    assert own.gazebo_worlds == {"a": ["a"], "c": ["c"]}
    one = load_fleet(sim2, ["robots.1.robot.sim.simulator=gazebo"])
    assert one.gazebo_worlds == {"world": ["robot2"]}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("timestep_s=0.001", "robot1 has sim.timestep_s 0.002 and robot2 0.001: robots in one Gazebo world"),
        ("speed=1.0", "robot1 has sim.speed 10 and robot2 1: robots in one Gazebo world share it"),
        ("lockstep_timeout_s=0", "one of robot1 and robot2 is in lock-step (sim.lockstep_timeout_s)"),
    ],
)
def test_robots_in_one_world_share_its_time(sim2: Path, line: str, expected: str) -> None:
    change = f"robots.1.robot.sim.{line}"
    error = error_of(sim2, GAZEBO, change)
    assert expected in error and "gazebo.worlds: own" in error
    load_fleet(sim2, [change])
    load_fleet(sim2, [GAZEBO, change, "gazebo.worlds=own"])
    load_fleet(sim2, [GAZEBO, change, "robots.1.robot.sim.simulator=mujoco"])


def test_simulated_arms_do_not_share_topics_but_real_ones_may(sim2: Path) -> None:
    topics = "override.topics={command: /velocity, joint_states: joint_states}"
    assert "robot1 and robot2 are simulated and both use /velocity: give them topics" in error_of(
        sim2, topics
    )
    load_fleet(sim2, [topics, "robots.0.robot.sim=null"])
    load_fleet(sim2, [topics, "robots.0.robot.topics.command=/other"])


def test_torques_are_for_gazebo(sim2: Path) -> None:
    effort = "override.sim.command_interface=effort"
    assert "command_interface effort needs simulator: gazebo" in error_of(sim2, effort)
    load_fleet(sim2, [effort, GAZEBO])


def test_a_robot_with_sensors_that_no_simulator_has_is_not_evaluable(sim2: Path, edit: Edit) -> None:
    assert load_fleet(sim2, ["robots.0.robot.sim=null"]).evaluable == ["robot2"]
    edit("robots/generic7_sim.yaml", lambda robot: robot.update(sensors=[SENSOR]))
    assert load_fleet(sim2).evaluable == []


# A fleet of several kinds ----------------------------------------------------------------------


def six_joints(robot: dict[str, Any]) -> None:
    robot["joints"].pop()
    robot["reset"]["home_rad"].pop()
    for values in robot["limits"].values():
        if isinstance(values, list) and len(values) == 7:
            values.pop()


def two_kinds(configs: Path, edit: Edit, change: Callable[[dict[str, Any]], object]) -> None:
    """robot2 gets a config of its own, changed."""
    shutil.copy(configs / "robots/generic7_sim.yaml", configs / "robots/other.yaml")
    edit("robots/other.yaml", change)
    robots = ["robot1", {"id": "robot2", "robot": "../robots/other.yaml"}]
    edit("fleets/sim2.yaml", lambda fleet: fleet.update(robots=robots))


def test_arms_with_equally_many_joints_are_one_fleet(sim2: Path, configs: Path, edit: Edit) -> None:
    two_kinds(
        configs, edit, lambda robot: robot.update(joints=[f"elbow_{i}" for i in range(7)], name="other")
    )
    assert [entry.robot.name for entry in load_fleet(sim2).robots] == ["generic7_sim", "other"]


SENSOR = {
    "type": "std_msgs/Float64MultiArray",
    "name": "force",
    "topic": "force",
    "size": 2,
    "unit": "N",
    "low": -1.0,
    "high": 1.0,
    "max_age_s": 0.1,
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (six_joints, "robot1 has 7 joints and robot2 has 6: arms with different numbers of joints"),
        (
            lambda robot: robot.update(sensors=[SENSOR]),
            "robot1 has sensors none and robot2 has force [N, N]: arms with different sensors",
        ),
        (
            lambda robot: robot.update(control_rate_hz=10),
            "robot1 has control_rate_hz 20 and robot2 10: arms with different rates",
        ),
    ],
)
def test_arms_that_cannot_share_a_policy_are_told_what_to_do(
    sim2: Path, configs: Path, edit: Edit, change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    two_kinds(configs, edit, change)
    assert (
        f"{expected} cannot share one policy: make two fleets, each with a replay server, a learner and "
        "endpoints of its own"
    ) in error_of(sim2)


# A URDF that the robot's driver publishes --------------------------------------------------------


def real(robot: dict[str, Any]) -> None:
    del robot["sim"]
    robot["urdf"] = {"topic": "robot_description"}


def test_a_urdf_from_a_topic_goes_through_overrides_and_run_folders(
    tmp_path: Path, sim2: Path, configs: Path, edit: Edit
) -> None:
    edit("robots/generic7_sim.yaml", real)
    fleet = load_fleet(sim2, ["robots.1.robot.urdf={topic: /two/description, timeout_s: 3}"])
    assert [entry.robot.urdf for entry in fleet.robots] == [
        UrdfTopic(topic="robot_description", timeout_s=10.0),
        UrdfTopic(topic="/two/description", timeout_s=3.0),
    ]
    assert load_fleet(sim2, ["robots.0.robot.urdf.topic=/x"]).robots[0].robot.urdf == UrdfTopic(topic="/x")
    check_robots(fleet)
    folder = create_run_folder(fleet, tmp_path / "runs", "run")
    assert folder.load() == fleet
    assert not list((folder.path / "urdf").iterdir())
    file = configs / "urdf/generic7.urdf"
    assert load_fleet(sim2, [f"robots.1.robot.urdf={file}"]).robots[1].robot.urdf == file


def test_what_can_be_checked_without_the_urdf_is(sim2: Path, edit: Edit) -> None:
    edit("robots/generic7_sim.yaml", real)
    with pytest.raises(ConfigError, match=r"robot robot1: task: no target found"):
        check_robots(load_fleet(sim2, ["task.target_min_x_m=0.9"]))


def test_a_bad_urdf_topic_is_told(sim2: Path, edit: Edit) -> None:
    edit("robots/generic7_sim.yaml", real)
    assert error_of(sim2, "robots.0.robot.urdf={topik: x}").splitlines() == [
        f"{sim2}: robots.0.robot.urdf.topic: is required and missing",
        f"{sim2}: robots.0.robot.urdf.topik: unknown key (value x); remove it or correct its spelling",
    ]
    assert error_of(sim2, "robots.0.robot.urdf=5").startswith(
        f"{sim2}: robots.0.robot.urdf = 5: Input is not"
    )
    assert "a simulated robot needs a URDF file" in error_of(sim2, "robots.0.robot.sim={}")


# Self-contained files and run folders --------------------------------------------------------


def test_a_saved_fleet_loads_equal(tmp_path: Path, sim2: Path) -> None:
    fleet = load_fleet(sim2, ["learner.seed=3", "robots.0.exploration_scale=0.5"])
    save_fleet(fleet, tmp_path / "saved.yaml")
    assert load_fleet(tmp_path / "saved.yaml") == fleet


def with_urdf(fleet: FleetConfig, urdf: Path) -> FleetConfig:
    robots = [e.model_copy(update={"robot": e.robot.model_copy(update={"urdf": urdf})}) for e in fleet.robots]
    return fleet.model_copy(update={"robots": robots})


def test_a_run_folder_needs_nothing_outside(tmp_path: Path, sim2: Path, configs: Path) -> None:
    fleet = load_fleet(sim2)
    folder = create_run_folder(fleet, tmp_path / "runs", "demo-1.a_B")
    urdf = (configs / "urdf/generic7.urdf").read_bytes()
    shutil.rmtree(configs)
    moved = RunFolder(folder.path.rename(tmp_path / "moved"))
    loaded = moved.load()
    assert loaded.robots[0].robot.urdf == moved.path / "urdf/generic7.urdf"
    assert loaded.robots[0].robot.urdf.read_bytes() == urdf
    assert with_urdf(loaded, Path("x")) == with_urdf(fleet, Path("x"))


def test_urdfs_of_one_name_are_kept_apart(tmp_path: Path, sim2: Path, configs: Path) -> None:
    for side in ("left", "right"):
        (configs / side).mkdir()
        text = (configs / "urdf/generic7.urdf").read_text()
        (configs / side / "arm.urdf").write_text(f"{text}<!-- {side} -->")
    lines = [f"robots.{i}.robot.urdf={configs}/{side}/arm.urdf" for i, side in enumerate(["left", "right"])]
    loaded = create_run_folder(load_fleet(sim2, lines), tmp_path / "runs", "run").load()
    texts = [entry.robot.urdf.read_text() for entry in loaded.robots]
    assert "<!-- left -->" in texts[0] and "<!-- right -->" in texts[1]


def test_a_taken_run_name_is_refused(tmp_path: Path, sim2: Path) -> None:
    create_run_folder(load_fleet(sim2), tmp_path, "run")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"run exists already: choose another run name"):
        create_run_folder(load_fleet(sim2), tmp_path, "run")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a b", "-rf", "é", "x" * 101, "run\n"])
def test_a_bad_run_name_is_refused(tmp_path: Path, sim2: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="use letters, digits"):
        create_run_folder(load_fleet(sim2), tmp_path / "runs", name)
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_no_run_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        RunFolder(tmp_path).load()


def test_the_run_id_stays_and_differs_between_folders(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = RunFolder(tmp_path / "a").run_id()
    assert first.startswith("a-") and RunFolder(tmp_path / "a").run_id() == first
    assert RunFolder(tmp_path / "b").run_id() != first
