"""The processes of a fleet, as literal lists."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from fleet.config import FleetConfig
from fleet.config_file import PACKAGED_CONFIGS, load_fleet
from fleet.node_specs import node_specs, ros_environment

SIM2 = "hardware_configs/fleets/sim2.yaml"
CONFIG, RUN = Path("/runs/x/config.yaml"), Path("/runs/x")


def hardware(fleet: FleetConfig, *ids: str) -> FleetConfig:
    """The same fleet, but these robots are real."""
    robots = [
        entry.model_copy(update={"robot": entry.robot.model_copy(update={"sim": None})})
        if entry.id in ids
        else entry
        for entry in fleet.robots
    ]
    return fleet.model_copy(update={"robots": robots})


@pytest.fixture(scope="module")
def sim2() -> FleetConfig:
    return load_fleet(SIM2)


def test_two_simulated_robots(sim2: FleetConfig) -> None:
    specs = node_specs(sim2, CONFIG, RUN)
    pnaf = (sys.executable, "-m", "fleet.cli")

    def robot(robot_id: str) -> tuple[str, ...]:
        return (*pnaf, "robot", str(CONFIG), "--id", robot_id, "--run-dir", str(RUN))

    def arm(robot_id: str) -> tuple[str, ...]:
        return (*pnaf, "sim-arm", str(CONFIG), "--id", robot_id, "--run-dir", str(RUN))

    assert [(s.name, s.argv, s.after) for s in specs] == [
        ("replay_server", (*pnaf, "replay-server", str(CONFIG), "--run-dir", str(RUN)), ()),
        ("learner", (*pnaf, "learner", str(CONFIG), "--run-dir", str(RUN)), ("replay_server",)),
        ("robot1_arm", arm("robot1"), ()),
        ("robot1", robot("robot1"), ("replay_server", "robot1_arm")),
        ("robot2_arm", arm("robot2"), ()),
        ("robot2", robot("robot2"), ("replay_server", "robot2_arm")),
    ]
    assert all(spec.respawn and spec.essential for spec in specs)


def test_four_robots_are_one_list_in_one_yaml(tmp_path: Path) -> None:
    configs = Path(shutil.copytree(PACKAGED_CONFIGS, tmp_path / "configs"))
    data = yaml.safe_load((configs / "fleets/sim2.yaml").read_text())
    (configs / "fleets/sim4.yaml").write_text(yaml.safe_dump(data | {"robots": ["a", "b", "c", "d"]}))
    fleet = load_fleet(configs / "fleets/sim4.yaml")
    names = [spec.name for spec in node_specs(fleet, CONFIG, RUN)]
    assert names == ["replay_server", "learner", "a_arm", "a", "b_arm", "b", "c_arm", "c", "d_arm", "d"]


def test_real_hardware_has_no_arm_process_and_keeps_its_transport(sim2: FleetConfig) -> None:
    fleet = hardware(sim2, "robot2")
    specs = {spec.name: spec for spec in node_specs(fleet, CONFIG, RUN)}
    assert "robot2_arm" not in specs
    assert specs["robot2"].after == ("replay_server",)


def test_everything_may_start_in_the_listed_order(sim2: FleetConfig) -> None:
    started: set[str] = set()
    for spec in node_specs(sim2, CONFIG, RUN):
        assert set(spec.after) <= started
        started.add(spec.name)
    assert len(started) == 6


def test_ros_environment(sim2: FleetConfig) -> None:
    assert ros_environment(sim2) == {
        "ROS_DOMAIN_ID": "71",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    ros = sim2.ros.model_copy(update={"domain_id": 5, "discovery_range": "SUBNET"})
    fleet = hardware(sim2.model_copy(update={"ros": ros}), "robot1", "robot2")
    assert ros_environment(fleet) == {"ROS_DOMAIN_ID": "5", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}


def test_who_gets_which_environment(sim2: FleetConfig) -> None:
    learner = sim2.learner.model_copy(update={"threads": 3})
    specs = {s.name: s.env for s in node_specs(sim2.model_copy(update={"learner": learner}), CONFIG, RUN)}
    assert specs["learner"]["OMP_NUM_THREADS"] == "3"
    for name in ("replay_server", "robot1", "robot1_arm"):
        assert (specs[name]["OMP_NUM_THREADS"], specs[name]["OPENBLAS_NUM_THREADS"]) == ("1", "1")
    for name in ("robot1", "robot1_arm", "robot2", "robot2_arm"):
        assert ros_environment(sim2).items() <= specs[name].items()


# Gazebo --------------------------------------------------------------------------------------


def in_gazebo(*overrides: str) -> FleetConfig:
    return load_fleet(SIM2, ["override.sim.simulator=gazebo", *overrides])


def server(world: str, command: str = "server") -> tuple[str, ...]:
    pnaf = (sys.executable, "-m", "fleet.cli", "gazebo", command)
    return (*pnaf, str(CONFIG), "--world", world, "--run-dir", str(RUN))


def test_robots_in_one_world_wait_for_its_server() -> None:
    specs = {spec.name: spec for spec in node_specs(in_gazebo(), CONFIG, RUN)}
    assert list(specs) == [
        "replay_server", "learner", "gazebo", "robot1_arm", "robot1", "robot2_arm", "robot2",
    ]  # fmt: skip
    gazebo = specs["gazebo"]
    assert (gazebo.argv, gazebo.after, gazebo.respawn) == (server("world"), (), True)
    assert specs["robot1_arm"].after == specs["robot2_arm"].after == ("gazebo",)
    assert specs["robot2"].after == ("replay_server", "robot2_arm")


def test_a_world_for_each_robot_and_none_for_those_in_mujoco() -> None:
    fleet = in_gazebo("gazebo.worlds=own", "robots=[a, b, c]", "robots.1.robot.sim.simulator=mujoco")
    specs = {spec.name: spec for spec in node_specs(fleet, CONFIG, RUN)}
    assert [name for name in specs if name.endswith("gazebo")] == ["a_gazebo", "c_gazebo"]
    assert specs["c_gazebo"].argv == server("c")
    assert [specs[f"{robot}_arm"].after for robot in "abc"] == [("a_gazebo",), (), ("c_gazebo",)]


def test_a_window_is_for_each_world_and_nothing_depends_on_it() -> None:
    specs = node_specs(in_gazebo("gazebo.gui=true", "gazebo.worlds=own"), CONFIG, RUN)
    windows = [spec for spec in specs if not spec.essential]
    assert [(w.name, w.argv, w.after, w.respawn) for w in windows] == [
        ("robot1_gui", server("robot1", "gui"), ("robot1_gazebo",), False),
        ("robot2_gui", server("robot2", "gui"), ("robot2_gazebo",), False),
    ]
    assert not {w.name for w in windows} & {name for spec in specs for name in spec.after}
    assert not [s for s in node_specs(load_fleet(SIM2, ["gazebo.gui=true"]), CONFIG, RUN) if not s.essential]
