"""One spec for all robots of a fleet, of one kind, of several, with extra sensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet.config import ConfigError, FleetConfig
from fleet.config_file import load_fleet
from fleet.messages import PolicyMessage, TransitionBatch, policy_checksum
from fleet.spaces import SpaceSpec
from robot_nodes.sim.rollout import Rollout
from robot_nodes.sim.simulators import simulated_arm
from robot_nodes.tasks.task import ArmState, make_task

SIM2 = Path(__file__).parents[2] / "hardware_configs/fleets/sim2.yaml"
URDF = Path(__file__).parents[2] / "hardware_configs/urdf/generic7.urdf"
JOINTS = [f"joint_{i}" for i in range(1, 8)]
IMU = {
    "type": "sensor_msgs/Imu",
    "name": "door",
    "topic": "/door/imu",
    "field": "orientation",
    "low": -1.0,
    "high": 1.0,
    "max_age_s": 0.1,
}
EFFORTS = {
    "type": "sensor_msgs/JointState",
    "name": "load",
    "topic": "joint_states",
    "field": "effort",
    "joints": ["joint_1", "joint_2"],
    "low": [-10.0, -20.0],
    "high": [10.0, 20.0],
    "max_age_s": 0.1,
}


def fleet_with(*changes: dict[str, Any]) -> FleetConfig:
    """One robot per argument: the demo's, with these keys of its config changed."""
    ids = ", ".join(f"robot{i + 1}" for i in range(len(changes)))
    lines = [
        f"robots.{i}.robot.{key}={json.dumps(value)}"
        for i, change in enumerate(changes)
        for key, value in change.items()
    ]
    return load_fleet(SIM2, [f"robots=[{ids}]", *lines])


def specs(fleet: FleetConfig) -> list[SpaceSpec]:
    return [make_task(fleet, entry.id).spec for entry in fleet.robots]


def test_one_kind_of_robot_keeps_its_names_and_bounds() -> None:
    fleet = fleet_with({}, {})
    robot, reach = fleet.robots[0].robot, fleet.task.target_radius_m[1]
    first, second = specs(fleet)
    assert first == second
    observation = first.observation
    assert observation.names[:7] == tuple(f"{joint}/position" for joint in JOINTS)
    assert observation.names[7:14] == tuple(f"{joint}/velocity" for joint in JOINTS)
    assert observation.names[14:] == (*(f"tool/{a}" for a in "xyz"), *(f"target/{a}" for a in "xyz"))
    assert observation.units == ("rad",) * 7 + ("rad/s",) * 7 + ("m",) * 6
    sphere, (x, y, z) = robot.limits.workspace_sphere, fleet.task.target_center_m
    assert observation.low == (
        *robot.limits.position_low_rad,
        *(-v for v in robot.limits.max_joint_velocity_rad_s),
        *(c - sphere.radius_m for c in sphere.center_m),
        *(x - reach, y - reach, z - reach),
    )
    assert observation.high == (
        *robot.limits.position_high_rad,
        *robot.limits.max_joint_velocity_rad_s,
        *(c + sphere.radius_m for c in sphere.center_m),
        *(x + reach, y + reach, z + reach),
    )
    assert first.action.names == tuple(f"{joint}/velocity_command" for joint in JOINTS)
    assert (first.action.low, first.action.high, first.action.units) == ((-1.0,) * 7, (1.0,) * 7, ("1",) * 7)
    assert first.joints == 7


def test_two_kinds_share_canonical_names_and_the_widest_bounds() -> None:
    other = {
        "joints": [f"elbow_{i}" for i in range(7)],
        "limits.position_low_rad.0": -1.0,
        "limits.position_low_rad.1": -2.5,
        "limits.max_joint_velocity_rad_s.0": 3.0,
        "limits.max_joint_velocity_rad_s.1": 0.5,
        "limits.workspace_sphere": {"center_m": [0.1, 0.0, 0.4], "radius_m": 1.0},
    }
    fleet = fleet_with({}, other)
    first, second = specs(fleet)
    assert first == second == specs(fleet_with(other, {}))[0], "in whatever order the YAML lists them"
    observation = first.observation
    assert observation.names[:7] == tuple(f"{joint}/position" for joint in JOINTS)
    assert observation.low[:2] == (-2.8, -2.5)
    assert (observation.low[7:9], observation.high[7:9]) == ((-3.0, -1.5), (3.0, 1.5))
    assert observation.low[14:17] == pytest.approx((0.1 - 1.0, -1.0, 0.4 - 1.0))
    assert observation.high[14:17] == pytest.approx((0.1 + 1.0, 1.0, 0.4 + 1.0))
    assert first.action.names[0] == "joint_1/velocity_command"


def constant_policy(spec: SpaceSpec, u: float) -> PolicyMessage:
    """μ(x) = u for every joint: all weights zero, the last bias atanh(u)."""
    nx, nu = spec.observation.size, spec.action.size
    parameters = np.zeros((nx + 1) * 4 + 5 * nu, np.float32)
    parameters[-nu:] = np.arctanh(u)
    mean, scale = np.zeros(nx, np.float32), np.ones(nx, np.float32)
    return PolicyMessage(
        run_id="run",
        version=1,
        learner_step=0,
        spec_hash=spec.hash,
        layer_sizes=[nx, 4, nu],
        exploration_std=0.0,
        exploration_correlation=0.0,
        published_ns=0,
        checksum=policy_checksum(parameters, mean, scale),
        parameters=parameters,
        observation_mean=mean,
        observation_scale=scale,
    )


def test_two_kinds_act_by_one_policy_each_within_its_own_velocity_limits(tmp_path: Path) -> None:
    names = [f"elbow_{i}" for i in range(1, 8)]
    (tmp_path / "elbows.urdf").write_text(URDF.read_text().replace("joint_", "elbow_"))
    slow = {
        "joints": names,
        "urdf": str(tmp_path / "elbows.urdf"),
        "limits.max_joint_velocity_rad_s": [0.5] * 7,
    }
    fleet = fleet_with({}, slow)
    policy = constant_policy(make_task(fleet, "robot1").spec, 0.2)
    hashes = set()
    for entry, speed in zip(fleet.robots, (1.5, 0.5), strict=True):
        batches: list[TransitionBatch] = []
        with simulated_arm(fleet, entry.id, seed=0) as arm:
            Rollout(fleet, entry.id, policy, seed=0, arm=arm, on_batch=batches.append).episode()
        first = batches[0]
        free = ~first.clipped & (np.arange(first.rows) >= 3)  # once it has gathered speed
        assert free.any()
        np.testing.assert_allclose(first.action[free], 0.2, atol=1e-6)
        np.testing.assert_allclose(first.next_observation[free, 7:14], 0.2 * speed, rtol=0.05)
        hashes |= {batch.spec_hash for batch in batches}
    assert hashes == {make_task(fleet, "robot2").spec.hash}


def test_kinds_with_the_same_joint_names_keep_them() -> None:
    names = [f"elbow_{i}" for i in range(7)]
    (first, _) = specs(fleet_with({"joints": names}, {"joints": names, "limits.position_low_rad.0": -2.9}))
    assert first.action.names[0] == "elbow_0/velocity_command"
    assert first.observation.low[0] == -2.9


def test_sensors_follow_the_tasks_observation() -> None:
    fleet = fleet_with({"sensors": [IMU, EFFORTS]})
    plain, task = make_task(fleet_with({}), "robot1"), make_task(fleet, "robot1")
    observation = task.spec.observation
    assert observation.names[:20] == plain.spec.observation.names
    assert observation.names[20:] == ("door/x", "door/y", "door/z", "door/w", "load/joint_1", "load/joint_2")
    assert observation.units[20:] == ("1", "1", "1", "1", "N m", "N m")
    assert observation.low[20:] == (-1.0, -1.0, -1.0, -1.0, -10.0, -20.0)
    assert observation.high[20:] == (1.0, 1.0, 1.0, 1.0, 10.0, 20.0)
    assert task.spec.action == plain.spec.action and task.episode_s == plain.episode_s

    goal = task.sample_goal(np.random.default_rng(3))
    assert goal.tolist() == plain.sample_goal(np.random.default_rng(3)).tolist()
    values = np.array([0.0, 0.6, 0.0, 0.8, 5.0, -6.0])
    state = ArmState(np.arange(7.0), np.zeros(7), goal, stamp_ns=0, sensors=values)
    x = task.observe(state, goal)
    assert x.dtype == np.float32
    assert x.tolist() == [*plain.observe(state, goal).tolist(), *values.astype(np.float32).tolist()]
    action = np.full(7, 0.5)
    assert task.reward(state, goal, action) == plain.reward(state, goal, action)
    assert task.success(state, goal) and not task.terminated(state, goal)
    assert task.metrics(state, goal) == plain.metrics(state, goal)
    with pytest.raises(ValueError, match=r"sensors must be \[6\], got \[0\]"):
        task.observe(ArmState(np.arange(7.0), np.zeros(7), goal, stamp_ns=0), goal)


def test_sensors_of_two_kinds_share_the_widest_bounds_and_numbers_for_names() -> None:
    names = [f"elbow_{i}" for i in range(7)]
    efforts = EFFORTS | {"joints": names[:2], "low": -15.0, "high": 15.0}
    fleet = fleet_with({"sensors": [IMU, EFFORTS]}, {"joints": names, "sensors": [IMU, efforts]})
    first, second = specs(fleet)
    assert first == second
    assert first.observation.names[20:] == ("door/x", "door/y", "door/z", "door/w", "load/1", "load/2")
    assert first.observation.low[24:] == (-15.0, -20.0)
    assert first.observation.high[24:] == (15.0, 20.0)


def test_a_sensor_must_not_take_a_name_of_the_task() -> None:
    tool = IMU | {"name": "tool", "field": "linear_acceleration"}
    with pytest.raises(
        ConfigError, match="sensors: tool/x is in the task's observation already: give sensor"
    ):
        make_task(fleet_with({"sensors": [tool]}), "robot1")


def test_what_only_topics_have_cannot_be_simulated() -> None:
    fleet = fleet_with({"sensors": [IMU]})
    message: Any = object.__new__(PolicyMessage)
    with (
        simulated_arm(fleet, "robot1", seed=0) as arm,
        pytest.raises(ConfigError, match=r"robot1: its policy needs extra sensors \(door\), which only ROS"),
    ):
        Rollout(fleet, "robot1", message, seed=0, arm=arm)
    assert (fleet.evaluable, fleet_with({}).evaluable) == ([], ["robot1"])


def test_a_task_for_a_robot_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no robot 'robot9'"):
        make_task(fleet_with({}), "robot9")
