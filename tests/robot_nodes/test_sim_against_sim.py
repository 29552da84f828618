"""MuJoCo against Gazebo: the same commands move the same arm in the same way, and so does the same policy.

What remains between them is the lag of MuJoCo's servo, 3 ms: an arm in Gazebo has the commanded velocity
after one physics step. docs/gazebo.md has what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pinocchio as pin
import pytest

from fleet.config import FleetConfig
from fleet.config_file import load_fleet, load_robot
from fleet.messages import PolicyMessage, policy_checksum
from fleet.robot_config import RobotConfig
from fleet.sim_config import SimConfig, Simulator
from robot_nodes.gazebo.installation import GazeboInstallation
from robot_nodes.kinematics import Kinematics
from robot_nodes.sim.evaluation import evaluate_policy
from robot_nodes.sim.mujoco_arm import DAMPING_NMS_RAD
from robot_nodes.sim.simulated_arm import SimulatedArm
from robot_nodes.sim.simulators import simulated_arm
from robot_nodes.tasks.task import make_task
from robot_nodes.urdf_source import load_urdf

SECONDS, PERIOD_S = 4.0, 0.05
# Twice what was measured, 3.7 mrad and 3.3 mrad/s at commands of up to 1.35 rad/s, and 2.1 mm.
MAX_Q_RAD, MAX_QD_RAD_S, MAX_TOOL_M = 0.0075, 0.0075, 0.005
MAX_EFFORT_NM = 0.2


def fleet_of(kind: str, simulator: Simulator = "mujoco") -> FleetConfig:
    fleet = load_fleet("hardware_configs/fleets/sim2.yaml", ["task.episode_s=2"])
    robot = load_robot(f"hardware_configs/robots/{kind}.yaml")
    robot = robot.model_copy(update={"sim": SimConfig(simulator=simulator)})
    return fleet.model_copy(
        update={"robots": [fleet.robots[0].model_copy(update={"robot": robot, "id": "robot1"})]}
    )


def smooth_commands(robot: RobotConfig, rng: np.random.Generator) -> np.ndarray:
    """Velocities [ticks, nq] (rad/s): joints swing away from home and back, nearly as fast as they may."""
    limits, n = robot.limits, len(robot.joints)
    home = np.array(robot.reset.home_rad)
    room = np.minimum(np.array(limits.position_high_rad) - home, home - np.array(limits.position_low_rad))
    w = rng.uniform(1.0, 4.0, n)
    swing = 0.9 * np.min(
        [
            room / 2,
            np.array(limits.max_joint_velocity_rad_s) / w,
            np.array(limits.max_joint_acceleration_rad_s2) / w**2,
        ],
        axis=0,
    )
    t = np.arange(0.0, SECONDS, PERIOD_S)
    return rng.choice([-1.0, 1.0], n) * swing * w * np.sin(np.outer(t, w))


@dataclass
class Trajectory:
    """[ticks, nq] each, and the time that went by (ns)."""

    q: np.ndarray
    qd: np.ndarray
    effort: np.ndarray
    took_ns: int


def drive(arm: SimulatedArm, home: np.ndarray, commands: np.ndarray) -> Trajectory:
    arm.reset(home)
    began_ns, states = arm.time_ns, []
    for command in commands:
        arm.command(command)
        arm.step(PERIOD_S)
        states.append((arm.q.copy(), arm.qd.copy(), arm.effort.copy()))
    q, qd, effort = map(np.array, zip(*states, strict=True))
    return Trajectory(q, qd, effort, arm.time_ns - began_ns)


@pytest.mark.parametrize("kind", ["generic7_sim", "ur5e"])
def test_the_same_commands_give_the_same_trajectory(kind: str, gazebo: GazeboInstallation) -> None:
    fleet = fleet_of(kind)
    robot = fleet.robots[0].robot
    home, commands = np.array(robot.reset.home_rad), smooth_commands(robot, np.random.default_rng(0))
    trajectories = []
    for simulator in ("mujoco", "gazebo"):
        with simulated_arm(fleet, "robot1", seed=0, simulator=simulator) as arm:
            trajectories.append(drive(arm, home, commands))
    mujoco, real_gazebo = trajectories

    assert mujoco.took_ns == real_gazebo.took_ns == round(SECONDS * 1e9)
    assert np.ptp(mujoco.q, axis=0).min() > 0.2, "every joint moves"
    assert np.abs(mujoco.q - real_gazebo.q).max() <= MAX_Q_RAD
    assert np.abs(mujoco.qd - real_gazebo.qd).max() <= MAX_QD_RAD_S
    kinematics = Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link)
    tools = [[kinematics.tool_position(q) for q in t.q] for t in trajectories]
    assert np.linalg.norm(np.subtract(*tools), axis=1).max() <= MAX_TOOL_M

    # Gazebo's motors carry the arm's weight. In MuJoCo it is compensated and not in the effort, which has
    # the servos' own damping instead. Commands are constant for 50 ms: at the end nothing accelerates.
    model = kinematics.model
    data = model.createData()
    rest = np.zeros(len(robot.joints))
    at = list(zip(real_gazebo.q, real_gazebo.qd, strict=True))
    torques = np.array([pin.rnea(model, data, q, qd, rest) for q, qd in at])
    weight = np.array([pin.computeGeneralizedGravity(model, data, q) for q, _ in at])
    assert np.abs(weight).max() > 10.0
    np.testing.assert_allclose(real_gazebo.effort, torques, atol=MAX_EFFORT_NM)
    damping = DAMPING_NMS_RAD * mujoco.qd
    np.testing.assert_allclose(mujoco.effort + weight - damping, torques, atol=MAX_EFFORT_NM)


def test_a_policy_is_as_good_in_the_one_as_in_the_other(gazebo: GazeboInstallation) -> None:
    fleet = fleet_of("generic7_sim", "gazebo")
    spec = make_task(fleet, "robot1").spec
    weights = 0.3 * np.random.default_rng(5).standard_normal(147)
    arrays = weights.astype("<f4"), np.zeros(20, "<f4"), np.ones(20, "<f4")
    policy = PolicyMessage(
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
    own = evaluate_policy(fleet, policy, episodes=2, seed=3, robot_id="robot1")
    other = evaluate_policy(fleet, policy, episodes=2, seed=3, robot_id="robot1", simulator="mujoco")
    assert (own.simulator, other.simulator) == ("gazebo", "mujoco")
    for mine, theirs in zip(own.episodes, other.episodes, strict=True):
        assert mine.rows == theirs.rows == 40
        assert mine.metrics["target_x_m"] == theirs.metrics["target_x_m"], "the same episode"
        for key, tolerance in (("final_distance_m", 0.002), ("return", 0.1)):
            assert mine.metrics[key] == pytest.approx(theirs.metrics[key], abs=tolerance)
