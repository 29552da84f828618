"""A small fleet on ports and a ROS domain of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.config import FleetConfig
from fleet.config_file import load_fleet

SIM2 = Path(__file__).parents[2] / "hardware_configs/fleets/sim2.yaml"


@pytest.fixture
def make_fleet(ros_domain_id: int, make_endpoint: Callable[[], str]) -> Callable[..., FleetConfig]:
    """`make_fleet("robot1", "robot2", goal=…)`: the demo's fleet with these robots."""

    def make(*robot_ids: str, **update: object) -> FleetConfig:
        overrides = [
            f"replay_server.endpoint={make_endpoint()}",
            f"learner.policy_endpoint={make_endpoint()}",
            "learner.warmup_rows=200",
            "learner.updates_per_row=1",
            f"ros.domain_id={ros_domain_id}",
            f"robots=[{', '.join(robot_ids)}]",
        ]
        fleet = load_fleet(SIM2, overrides)
        return fleet.model_copy(update=update)

    return make
