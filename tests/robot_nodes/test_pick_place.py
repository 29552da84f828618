"""The task pick_place against numbers computed by hand, and a script that does it under the real guard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.common.pick_script import PickScript, script_message
from fleet.config import ConfigError, FleetConfig
from fleet.config_file import load_fleet
from fleet.messages import TransitionBatch
from fleet.pick_place_config import PickPlaceTaskConfig
from robot_nodes.gazebo.gazebo_error import GazeboError
from robot_nodes.gazebo.gz_sim import export
from robot_nodes.sim.evaluation import Evaluation, write_film
from robot_nodes.sim.rollout import EpisodeResult, Rollout
from robot_nodes.sim.simulators import simulated_arm
from robot_nodes.tasks.pick_place import pick_place_reward
from robot_nodes.tasks.task import ArmState, Task, make_task

FLEET = "fleets/pick2.yaml"
GOAL = np.array([0.5, 0.1, 0.6])


@pytest.fixture(scope="module")
def fleet() -> FleetConfig:
    return load_fleet(FLEET)


@pytest.fixture(scope="module")
def task(fleet: FleetConfig) -> Task:
    return make_task(fleet, "robot1")


def config_of(fleet: FleetConfig) -> PickPlaceTaskConfig:
    assert isinstance(fleet.task, PickPlaceTaskConfig)
    return fleet.task


def state(tool: list[float], gripper: float, thing: list[float]) -> ArmState:
    q = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, gripper])
    return ArmState(q, np.arange(8.0), np.array(tool), 0, np.array(thing))


# The task ----------------------------------------------------------------------------------------

NEAR = 0.05 * np.log(2) ** 0.25  # 0.0456 m: exp(−(d / 0.05)⁴) = ½
BESIDE = np.sqrt(np.log(4) / 100)  # 0.1177 m: exp(−100 D²) = ¼


@pytest.mark.parametrize(
    ("hand", "gripper", "target", "expected"),
    [
        (0.1, 0.5, 0.9, -0.2),  # open: the distance of the hand alone
        (0.1, 0.6, 0.0, -0.2),  # opened wider than open
        (NEAR, 0.3, 0.9, -2 * NEAR - 3 * 0.25 + 3 * 0.25),  # half closed, half held: taken as much as given
        (0.0, 0.1, 0.9, 3.0),  # held, out of range
        (0.0, 0.05, 0.9, 3 * 0.5 - 3 * 0.5),  # closed further, half held: taken as much as given
        (0.0, 0.0, 0.0, -3.0),  # nothing can be in it
        (0.0, 0.1, 0.3, 3.0 + 5 * 0.4 + 7 * np.exp(-9.0)),  # 0.3 of 0.5 m
        (0.0, 0.1, BESIDE, 3.0 + 5 * (1 - BESIDE / 0.5) + 7 / 4),
        (NEAR, 0.1, 0.0, -2 * NEAR - 3 * 0.5 + 0.5 * (3.0 + 5.0 + 7.0)),
    ],
)
def test_reward_by_hand(
    fleet: FleetConfig, hand: float, gripper: float, target: float, expected: float
) -> None:
    weights = {"hand_weight": 2.0, "grasp_weight": 3.0, "carry_weight": 5.0, "place_weight": 7.0}
    scales = {"grasp_range_m": 0.05, "carry_range_m": 0.5, "place_scale_per_m2": 100.0}
    change = {
        **weights,
        **scales,
        "action_weight": 0.08,
        "open_rad": 0.5,
        "closed_rad": 0.1,
        "empty_rad": 0.0,
    }
    config = config_of(fleet).model_copy(update=change)
    action = np.array([1.0, 0, 0, 0, 0, 0, 0, -1.0])  # mean square 2/8; 0.08 · 2/8 = 0.02
    reward = pick_place_reward(hand, gripper, target, action, config)
    assert reward == pytest.approx(expected - 0.02)


def test_observation_is_arm_ways_to_go_and_where_the_object_is(task: Task) -> None:
    space = task.spec.observation
    assert space.size == 16 + 3 + 3 + 3 + 3 and task.spec.action.size == 8
    assert space.names[7] == "gripper/position" and space.units[7] == "rad"
    assert space.names[-9::3] == ("object_from_tool/x", "target_from_object/x", "object/x")
    assert set(space.units[-9:]) == {"m"}
    at = state([0.5, 0.0, 0.4], 0.25, [0.6, 0.1, 0.45])
    x = task.observe(at, GOAL)
    assert x.dtype == np.float32
    ways = [0.1, 0.1, 0.05, -0.1, 0.0, 0.15]
    assert x.tolist() == pytest.approx([*at.q, *at.qd, 0.5, 0.0, 0.4, *ways, 0.6, 0.1, 0.45])


def test_success_is_the_object_at_the_target(task: Task) -> None:
    reached = state([0, 0, 0], 0.5, [0.53, 0.1, 0.56])  # 5 cm by 3-4-5
    assert not task.success(state([*GOAL], 0.0, [0.53, 0.1, 0.55]), GOAL)
    assert task.success(state([0, 0, 0], 0.5, [0.53, 0.1, 0.561]), GOAL)
    assert not task.terminated(reached, GOAL)
    metrics = task.metrics(reached, GOAL)
    assert metrics == pytest.approx(
        {
            "final_distance_m": 0.05,
            "hand_distance_m": np.linalg.norm([0.53, 0.1, 0.56]),
            "target_x_m": 0.5,
            "target_y_m": 0.1,
            "target_z_m": 0.6,
        }
    )


def test_the_gripper_and_the_weights_are_those_of_the_config(task: Task) -> None:
    held, let_go = (state([0.5, 0, 0.4], gripper, [0.5, 0, 0.4]) for gripper in (0.0, 0.5))
    assert task.reward(held, GOAL, np.zeros(8)) > task.reward(let_go, GOAL, np.zeros(8)) + 0.4


def test_targets_fill_their_box_or_are_fixed(fleet: FleetConfig, task: Task) -> None:
    rng, config = np.random.default_rng(0), config_of(fleet)
    goals = np.array([task.sample_goal(rng) for _ in range(300)])
    low, high = np.array(config.target_low_m), np.array(config.target_high_m)
    assert (goals >= low).all() and (goals <= high).all()
    np.testing.assert_allclose(goals.min(axis=0), low, atol=0.01)
    np.testing.assert_allclose(goals.max(axis=0), high, atol=0.01)
    box = ["task.target_low_m=[0.5, 0.0, 0.6]", "task.target_high_m=[0.5, 0.0, 0.6]"]
    fixed = make_task(load_fleet(FLEET, box), "robot1")
    np.testing.assert_array_equal(fixed.sample_goal(rng), [0.5, 0.0, 0.6])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("override.sensors=[]", r"task\.object: .*number object/x.*have: none\. Give every robot"),
        ("task.object=rod", r"task\.object: .*number rod/x.*have: object/x, object/y, object/z"),
        ("task.gripper=jaw", r"task\.gripper: .*no joint 'jaw'; they have: joint_1, .*, gripper\."),
        ("task.scene.object=null", "scene has no object"),
        ("task.closed_rad=0.6", r"closed_rad 0\.6, and that below open_rad 0\.45"),
        ("task.target_low_m=[0.7, 0, 0.6]", "target_low_m .* must not be above target_high_m"),
        ("task.target_low_m=[0.5, 0, 0.5]", r"above the highest start of the object, z = 0\.47"),
        ("task.target_high_m=[3, 0.15, 0.66]", r"beyond its string_m 0\.8"),
        ("task.scene.object.radius_m=0.2", r"length_m 0\.2 must be at least twice radius_m 0\.2"),
        ("override.sim.simulator=gazebo", "robot1 is simulated in Gazebo, but .* only MuJoCo"),
    ],
)
def test_what_cannot_be_is_told_with_what_to_change(change: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make_task(load_fleet(FLEET, [change]), "robot1")


def test_no_gazebo_takes_it(fleet: FleetConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only MuJoCo"), simulated_arm(fleet, "robot1", 0, "gazebo"):
        pass
    with pytest.raises(GazeboError, match="only MuJoCo"):
        export(fleet, tmp_path)


# A script that does it ---------------------------------------------------------------------------


def episodes(
    fleet: FleetConfig,
    number: int,
    on_batch: Callable[[TransitionBatch], None] = lambda batch: None,
    *,
    closes: bool = True,
) -> list[EpisodeResult]:
    """Of the script, through the control loop and its guard."""
    message = script_message(fleet)
    with simulated_arm(fleet, "robot1", 1, "mujoco") as arm:
        rollout = Rollout(fleet, "robot1", message, seed=0, arm=arm, on_batch=on_batch)
        rollout.set_policy(PickScript(fleet, message, closes=closes))
        return [rollout.episode() for _ in range(number)]


def test_the_script_picks_and_places(fleet: FleetConfig, tmp_path: Path) -> None:
    batches: list[TransitionBatch] = []
    results = episodes(fleet, 6, batches.append)
    assert all(result.success for result in results)
    for result in results:
        start, lifted = result.scene[0], result.scene[:, 2] - result.scene[0, 2] > 0.02
        held_rad = result.joints[lifted, 7]
        assert held_rad.min() > -0.1 and held_rad.max() < 0.02, "the object keeps the fingers apart"
        assert 10 <= int(np.argmax(lifted)) <= 50, "after a second or two"
        assert result.metrics["hand_distance_m"] < 0.03, "it is held, not thrown"
        assert (np.abs(start - [0.56, 0.0, 0.45]) <= [0.016, 0.021, 0.021]).all()
    starts = np.array([result.scene[0] for result in results])
    assert np.ptp(starts, axis=0).min() > 0.008, "it starts elsewhere each time"
    observed = np.concatenate([batch.observation[:, -3:] for batch in batches])
    np.testing.assert_allclose(observed, np.concatenate([r.scene for r in results]), atol=1e-6)
    summary = Evaluation("robot1", "mujoco", results).summary
    assert summary["success_rate"] == 1.0 and summary["mean_final_distance_m"] < 0.02


def test_an_open_gripper_lifts_nothing(fleet: FleetConfig) -> None:
    result = episodes(fleet, 1, closes=False)[0]
    assert not result.success
    assert result.scene[:, 2] == pytest.approx(result.scene[0, 2], abs=0.01)


def test_a_film_shows_fingers_object_and_target(fleet: FleetConfig, tmp_path: Path) -> None:
    home = np.array(fleet.robots[0].robot.reset.home_rad)
    target = {f"target_{axis}_m": value for axis, value in zip("xyz", GOAL, strict=True)}
    frames = []
    for gripper, thing in [(0.45, [0.56, 0, 0.45]), (0.0, [0.56, 0, 0.45]), (0.0, [0.56, 0, 0.6])]:
        joints = np.array([[*home[:7], gripper]])
        episode = EpisodeResult(False, target, 1, joints, np.array([thing]))
        write_film(fleet, Evaluation("robot1", "mujoco", [episode]), tmp_path / "pick.gif")
        with Image.open(tmp_path / "pick.gif") as film:
            frames.append(np.asarray(film.convert("RGB"), float)[40:])  # below the title
    fingers, thing_moved = (np.abs(frames[i + 1] - frames[i]).max(axis=2) > 50 for i in range(2))
    assert fingers.sum() > 10 and thing_moved.sum() > 50
