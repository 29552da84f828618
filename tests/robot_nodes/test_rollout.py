"""Episodes on the simulated arm without ROS, for a robot whose resets need people and controllers."""

from __future__ import annotations

import numpy as np

from fleet.config_file import load_fleet
from fleet.messages import PolicyMessage, policy_checksum
from robot_nodes.sim.rollout import Rollout
from robot_nodes.tasks.task import make_task


def test_in_simulation_resets_are_by_motion_alone() -> None:
    fleet = load_fleet(
        "hardware_configs/fleets/sim2.yaml",
        [
            "task.episode_s=0.5",
            "robots.0.robot.reset.steps=[trajectory, service, person]",
            "robots.0.robot.reset.service=/reset_world",
        ],
    )
    spec = make_task(fleet, "robot1").spec
    arrays = np.zeros(20 * 7 + 7, "<f4"), np.zeros(20, "<f4"), np.ones(20, "<f4")
    message = PolicyMessage(
        run_id="run",
        version=0,
        learner_step=0,
        spec_hash=spec.hash,
        layer_sizes=[20, 7],
        exploration_std=0.0,
        exploration_correlation=0.0,
        published_ns=0,
        checksum=policy_checksum(*arrays),
        parameters=arrays[0],
        observation_mean=arrays[1],
        observation_scale=arrays[2],
    )
    rollout = Rollout(fleet, "robot1", message, seed=0)
    results = [rollout.episode() for _ in range(2)]
    assert [result.rows for result in results] == [10, 10]
    home = np.array(fleet.robots[0].robot.reset.home_rad)
    starts = np.array([result.joints[0] for result in results])
    assert np.abs(starts - home).max() <= 0.3 + 0.05 + 1e-6
    assert np.ptp(starts, axis=0).max() > 0.1, "two different homes"
