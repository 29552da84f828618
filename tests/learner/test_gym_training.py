"""The fleet's learner on Gymnasium environments, most of them made here so that the answers are known."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Sequence

from fleet.algorithm_config import AlgorithmConfig
from fleet.config import ConfigError, LearnerConfig
from fleet.gym_run import gym_config, parse_settings, train
from fleet.messages import PolicyMessage, policy_checksum
from learner.gym_training import CurvePoint, GymResult, GymTraining
from robot_nodes.gym_robot import GymError, GymRobot

EPISODE = 5
LOW, HIGH = np.array([-2.0, 0.0]), np.array([6.0, 1.0])


class Target(gymnasium.Env[Any, Any]):
    """The reward is −(distance to the best action, (2 x, 1))², of actions in [-2, 6] × [0, 1].

    The observation x is another number in [0, 1] at each step; the best return is 0.
    """

    observation_space = Box(-1.0, 1.0, (1,), np.float64)
    action_space = Box(LOW, HIGH, dtype=np.float64)

    def __init__(self) -> None:
        self.actions: list[Any] = []

    def _draw(self) -> Any:
        self._x = self.np_random.uniform(0.0, 1.0, 1)
        return self._x

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.actions.append(action)
        distance = action - [2.0 * self._x[0], 1.0]
        return self._draw(), -float(distance @ distance), False, False, {}


class Counter(gymnasium.Env[Any, Any]):
    """The observation is the numbers of episode and step, as a row; episode 2 ends after 3 steps."""

    observation_space = Box(-np.inf, np.inf, (1, 2), np.float32)
    action_space = Box(-1.0, 1.0, (1, 1), np.float32)

    def __init__(self, shape: Any = None, actions: Any = None) -> None:
        self._episode = self._step = 0
        self.observation_space = shape or self.observation_space
        self.action_space = actions or self.action_space

    def _observe(self) -> Any:
        if isinstance(self.observation_space, Dict):
            return {"a": np.array([self._episode], "f4"), "b": np.array([self._step], "f4")}
        return np.array([[self._episode, self._step]], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._episode, self._step = self._episode + 1, 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        return self._observe(), 10.0 * self._step, self._episode == 2 and self._step == 3, False, {}


class Broken(Counter):
    """Its simulation fails at the third step."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, *rest = super().step(action)
        return observation, float("nan") if self._step == 3 else reward, *rest


UNBOUNDED = Box(-np.inf, np.inf, (1,), np.float32)
NUMBER = Box(-np.inf, np.inf, (1,), np.float32)
for name, entry, settings in (
    ("Target-v0", Target, {"max_episode_steps": EPISODE}),
    ("Counter-v0", Counter, {"max_episode_steps": EPISODE}),
    ("Broken-v0", Broken, {"max_episode_steps": EPISODE}),
    ("Endless-v0", Counter, {}),
    ("Pixels-v0", Counter, {"max_episode_steps": 9, "kwargs": {"shape": Box(0, 1, (96, 96, 3))}}),
    ("Steps-v0", Counter, {"max_episode_steps": 9, "kwargs": {"actions": Box(0, 9, (2,), np.int64)}}),
    ("Discrete-v0", Counter, {"max_episode_steps": 9, "kwargs": {"actions": Discrete(3)}}),
    ("Unbounded-v0", Counter, {"max_episode_steps": 9, "kwargs": {"actions": UNBOUNDED}}),
    ("Sequence-v0", Counter, {"max_episode_steps": 9, "kwargs": {"shape": Sequence(NUMBER)}}),
    ("Dict-v0", Counter, {"max_episode_steps": 9, "kwargs": {"shape": Dict(a=NUMBER, b=NUMBER)}}),
):
    gymnasium.register(name, entry, **settings)


def constant_policy(robot: GymRobot, bias: list[float], std: float = 0.0) -> PolicyMessage:
    """μ = tanh(bias), whatever is observed."""
    nx = robot.spec.observation.size
    parameters = np.array([0.0] * nx * len(bias) + bias, dtype="<f4")
    mean, scale = np.zeros(nx, "<f4"), np.ones(nx, "<f4")
    return PolicyMessage(
        run_id="test",
        version=3,
        learner_step=0,
        spec_hash=robot.spec.hash,
        layer_sizes=[nx, len(bias)],
        exploration_std=std,
        exploration_correlation=0.0,
        published_ns=0,
        checksum=policy_checksum(parameters, mean, scale),
        parameters=parameters,
        observation_mean=mean,
        observation_scale=scale,
    )


def small(**settings: Any) -> AlgorithmConfig:
    fast = {"hidden_sizes": [16], "batch_size": 16, "warmup_rows": 50, "updates_per_row": 2.0}
    return gym_config({**fast, **settings})


def short_run(seed: int = 0, episodes: int = 2, env_id: str = "Target-v0") -> GymResult:
    return train(env_id, small(), seed, steps=125, every=50, episodes=episodes)


# The environment as a robot --------------------------------------------------------------------


def test_actions_are_scaled_to_the_bounds_of_the_environment() -> None:
    robot = GymRobot("Target-v0", seed=0)
    robot.set_policy(constant_policy(robot, [np.arctanh(0.5), np.arctanh(-0.5)]))
    rows = robot.collect(2)
    assert rows.action == pytest.approx(np.array([[0.5, -0.5]] * 2), abs=1e-6)
    assert robot._env.unwrapped.actions == [pytest.approx([4.0, 0.25], abs=1e-5)] * 2
    assert robot.spec.action.low == (-1.0, -1.0)
    assert robot.spec.action.high == (1.0, 1.0)


def test_what_is_recorded_is_the_clipped_action_that_was_executed() -> None:
    robot = GymRobot("Target-v0", seed=0)
    robot.set_policy(constant_policy(robot, [0.0, 0.0], std=1000.0))
    rows = robot.collect(20)
    assert set(np.unique(rows.action)) == {-1.0, 1.0}
    executed = np.array(robot._env.unwrapped.actions)
    assert np.array_equal(executed, np.where(rows.action > 0, HIGH, LOW))


def test_rows_follow_the_episodes_and_end_as_the_environment_says() -> None:
    robot = GymRobot("Counter-v0", seed=0)
    robot.set_policy(constant_policy(robot, [0.0], std=0.1))
    first, second = robot.collect(7), robot.collect(3)  # an episode goes on from call to call
    assert first.observation.tolist() == [[1, i] for i in range(5)] + [[2, 0], [2, 1]]
    assert first.next_observation.tolist() == [[1, i + 1] for i in range(5)] + [[2, 1], [2, 2]]
    assert first.truncated.tolist() == [False] * 4 + [True, False, False]  # the time limit
    assert not first.terminated.any()
    assert second.observation.tolist() == [[2, 2], [3, 0], [3, 1]]
    assert second.terminated.tolist() == [True, False, False]  # the environment itself
    assert not second.truncated.any()
    assert first.reward.tolist() == [10, 20, 30, 40, 50, 10, 20]
    assert first.policy_version.tolist() == [3] * 7


def test_each_episode_of_training_begins_elsewhere() -> None:
    robot = GymRobot("Target-v0", seed=0)
    robot.set_policy(constant_policy(robot, [0.0, 0.0]))
    x = robot.collect(4 * EPISODE).observation
    assert len(np.unique(x)) == 4 * EPISODE


def test_returns_are_of_noise_free_episodes_from_the_seeds() -> None:
    robot = GymRobot("Target-v0", seed=0)
    robot.set_policy(constant_policy(robot, [0.0, 20.0], std=5.0))
    x = []
    for seed in (11, 12):
        rng = np.random.default_rng(np.random.PCG64(seed))
        x.append([rng.uniform(0.0, 1.0) for _ in range(EPISODE)])
    expected = -((2.0 - 2.0 * np.array(x)) ** 2).sum(axis=1)  # μ = (0, 1) is the action (2, 1)
    assert robot.returns([11, 12, 11]) == pytest.approx([expected[0], expected[1], expected[0]])


def test_observations_of_any_shape_are_flattened() -> None:
    for env_id in ("Counter-v0", "Dict-v0"):
        robot = GymRobot(env_id, seed=0)
        robot.set_policy(constant_policy(robot, [0.0]))
        rows = robot.collect(2)
        assert rows.observation.tolist() == [[1, 0], [1, 1]]
        assert rows.observation.dtype == np.float32


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("Discrete-v0", "actions are Discrete(3); only continuous ones (Box)"),
        ("Steps-v0", "only continuous ones (Box)"),
        ("Pixels-v0", "1 to 4096 dimensions, got 27648"),
        ("Unbounded-v0", "bounds must be finite"),
        ("Endless-v0", "has no time limit"),
        ("Sequence-v0", "cannot be flattened"),
        ("Nowhere-v0", "Gymnasium cannot make this environment"),
        ("no_such_module:Nowhere-v0", "Gymnasium cannot make this environment"),
    ],
)
def test_what_cannot_be_learned_is_said(env_id: str, words: str) -> None:
    with pytest.raises(GymError) as caught:
        GymRobot(env_id, seed=0)
    assert str(caught.value).startswith(env_id)
    assert words in str(caught.value)


def test_numbers_that_are_not_finite_end_the_training() -> None:
    with pytest.raises(GymError, match="Broken-v0: gave an observation or a reward that is not finite"):
        short_run(env_id="Broken-v0")


def test_without_gymnasium_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(GymError, match=r"pip install 'parallel-naf\[gym\]'"):
        GymRobot("Pendulum-v1", seed=0)


# Training --------------------------------------------------------------------------------------


def test_it_finds_the_best_action() -> None:
    config = small(gamma=0.5, learning_rate=0.003)
    curve = train("Target-v0", config, seed=0, steps=1500, every=500, episodes=10).curve
    # Always the best constant action, (1, 1), would come to −EPISODE · 4 · Var(x) = −1.67.
    assert curve[-1][1] > -0.5
    assert curve[0][1] < curve[-1][1]


def test_it_measures_at_regular_steps_and_at_the_end_and_updates_as_the_rows_allow() -> None:
    points: list[CurvePoint] = []
    result = train("Target-v0", small(), 0, steps=125, every=50, episodes=2, on_point=points.append)
    assert [step for step, _, _ in result.curve] == [50, 100, 125]
    assert points == result.points
    assert result.updates == result.policy.learner_step == 250
    assert result.policy.exploration_std == small().exploration_std
    assert "learner/mu_saturation" in result.points[-1].metrics
    assert result.updates_per_s > 0
    none = train("Target-v0", small(warmup_rows=1000), 0, steps=20, every=20, episodes=1)
    assert (none.updates, none.updates_per_s, none.points[0].metrics) == (0, 0.0, {})
    assert none.policy.exploration_std == small().warmup_exploration_std


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    one, again, other = short_run(), short_run(), short_run(seed=1)
    assert one.curve == again.curve
    assert np.array_equal(one.policy.parameters, again.policy.parameters)
    assert other.curve != one.curve


def test_measuring_changes_nothing() -> None:
    assert np.array_equal(short_run().policy.parameters, short_run(episodes=5).policy.parameters)


def test_the_robot_acts_with_the_policy_that_was_just_trained() -> None:
    class Ears(GymRobot):
        def __init__(self) -> None:
            super().__init__("Target-v0", seed=0)
            self.heard: list[tuple[int, float]] = []

        def set_policy(self, message: PolicyMessage) -> None:
            super().set_policy(message)
            self.heard.append((message.learner_step, message.exploration_std))

    robot, config = Ears(), LearnerConfig.model_validate(small().model_dump())
    GymTraining(config, robot, GymRobot("Target-v0", 0), seed=0).run(75, every=75, episodes=1)
    wide, usual = config.warmup_exploration_std, config.exploration_std
    assert robot.heard == [(0, wide)] * 5 + [(100, usual), (120, usual), (140, usual)]


# Settings --------------------------------------------------------------------------------------


def test_settings_win_over_the_preset_which_wins_over_the_defaults() -> None:
    assert gym_config({}).normalise_rewards
    published = gym_config({"algorithm": "naf_2016", "gamma": 0.9})
    assert (published.normalise_rewards, published.diagonal, published.gamma) == (False, "exp", 0.9)


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"--set: gamma = 2\.0") as caught:
        gym_config(parse_settings(["gamma=2.0", "nonsense=[1, 2]"]))
    assert "--set: nonsense: unknown key" in str(caught.value)
    with pytest.raises(ConfigError, match=r"leave the 'learner\.' out"):
        parse_settings(["learner.gamma=0.9"])
    with pytest.raises(ConfigError, match="must look like learning_rate"):
        parse_settings(["gamma"])
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_settings(["hidden_sizes=[1"])
