"""Which ROS network a process started by hand joins."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from fleet.cli import app
from fleet.config import ConfigError, FleetConfig
from fleet.config_file import PACKAGED_CONFIGS, load_fleet
from fleet.ros_network import join_ros_network, ros_network

SIM2 = PACKAGED_CONFIGS / "fleets/sim2.yaml"
DOMAIN, RANGE = "ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE"


def fleet_with(ros: dict[str, object] | None) -> FleetConfig:
    data = load_fleet(SIM2).model_dump(exclude={"ros"})
    return FleetConfig.model_validate(data if ros is None else data | {"ros": ros})


@pytest.mark.parametrize(
    ("ros", "shell", "expected"),
    [
        ({"domain_id": 71, "discovery_range": "LOCALHOST"}, {}, {DOMAIN: "71", RANGE: "LOCALHOST"}),
        ({"domain_id": 0}, {DOMAIN: "", RANGE: "LOCALHOST"}, {DOMAIN: "0", RANGE: "LOCALHOST"}),
        ({"domain_id": 71}, {DOMAIN: "71"}, {DOMAIN: "71"}),
        (None, {DOMAIN: "5", RANGE: "OFF"}, {DOMAIN: "5", RANGE: "OFF"}),
        (None, {}, {}),
    ],
)
def test_what_the_config_says_holds_and_the_shell_says_the_rest(
    ros: dict[str, object] | None, shell: dict[str, str], expected: dict[str, str]
) -> None:
    environment = dict(shell)
    join_ros_network(fleet_with(ros), environment)
    assert environment == expected


def test_a_shell_that_says_something_else_is_refused() -> None:
    shell = {DOMAIN: "5", RANGE: "SUBNET"}
    with pytest.raises(ConfigError) as error:
        join_ros_network(load_fleet(SIM2), shell)
    assert str(error.value).splitlines() == [
        "ROS_DOMAIN_ID is 5 in this shell, but ros.domain_id of fleet sim2 is 71: unset ROS_DOMAIN_ID, or "
        "give --set ros.domain_id=5",
        "ROS_AUTOMATIC_DISCOVERY_RANGE is SUBNET in this shell, but ros.discovery_range of fleet sim2 is "
        "LOCALHOST: unset ROS_AUTOMATIC_DISCOVERY_RANGE, or give --set ros.discovery_range=SUBNET",
    ]
    assert shell == {DOMAIN: "5", RANGE: "SUBNET"}
    join_ros_network(load_fleet(SIM2, ["ros.domain_id=5", "ros.discovery_range=SUBNET"]), shell)


def test_in_words() -> None:
    assert ros_network({DOMAIN: "7", RANGE: "OFF"}) == "ROS domain 7, discovery range OFF"
    assert ros_network({DOMAIN: ""}) == "ROS domain 0, discovery range SUBNET", "what ROS makes of nothing"


@pytest.mark.parametrize("command", ["robot", "robot --dry-run", "sim-arm", "doctor"])
def test_every_command_that_meets_an_arm_obeys_the_fleet(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DOMAIN, "5")
    monkeypatch.delenv(RANGE, raising=False)
    fleet = ["--config", str(SIM2)] if command == "doctor" else [str(SIM2)]
    answer = CliRunner().invoke(app, [*command.split(), *fleet, "--id", "robot1"])
    assert answer.exit_code == 2 and "ROS_DOMAIN_ID is 5 in this shell" in answer.stderr
