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

    assert [(s.name, s.argv, s.after) for s in specs] == [
        ("replay_server", (*pnaf, "replay-server", str(CONFIG), "--run-dir", str(RUN)), ()),
        ("learner", (*pnaf, "learner", str(CONFIG), "--run-dir", str(RUN)), ("replay_server",)),
        ("robot1_arm", (*pnaf, "sim-arm", str(CONFIG), "--id", "robot1"), ()),
        ("robot1", robot("robot1"), ("replay_server", "robot1_arm")),
        ("robot2_arm", (*pnaf, "sim-arm", str(CONFIG), "--id", "robot2"), ()),
        ("robot2", robot("robot2"), ("replay_server", "robot2_arm")),
    ]
    assert all(spec.respawn for spec in specs)


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
