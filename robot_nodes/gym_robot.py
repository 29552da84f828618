"""A Gymnasium environment as a robot: it acts with published policies and gives transitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.messages import PolicyMessage, Transitions
from fleet.spaces import Space, SpaceError, SpaceSpec
from robot_nodes.exploration import GaussianExploration
from robot_nodes.policy import NumpyPolicy

_BOUND = 1e9
"""Shown as the bound of all observations: those of an environment may be infinite, or equal."""

Vector = npt.NDArray[np.float32]


class GymError(ValueError):
    """An environment cannot be had, or is not one of continuous control; the text says why."""


class GymRobot:
    """One environment, driven as a robot of the fleet is: μ(x) in numpy plus noise, clipped to [-1, 1].

        robot = GymRobot("Pendulum-v1", seed=0)
        robot.set_policy(message)
        rows = robot.collect(10)                    # training, on and on
        returns = judge.returns(range(10))          # noise-free, on another one

    Actions in [-1, 1] are mapped to the bounds of the action space; observations are flattened. An episode
    that the environment terminates does not bootstrap, one that its time limit truncates does.

    Attributes:
        spec: The environment's spaces as the fleet describes them.
    """

    def __init__(self, env_id: str, seed: int) -> None:
        """Make the environment.

        Raises:
            GymError: Gymnasium or the environment is missing, or its spaces are not continuous and bounded.
        """
        self._env_id = env_id
        self._env = make_environment(env_id)
        self._low, self._range = _action_bounds(self._env, env_id)
        try:
            self.spec = _spec(self._env.observation_space.shape, self._low.size)
        except SpaceError as error:
            raise GymError(f"{env_id}: {error}") from error
        self._exploration = GaussianExploration(
            self.spec.action.size, np.random.default_rng(np.random.SeedSequence([seed, 1]))
        )
        self._seed: int | None = seed
        self._observation: Vector | None = None
        self._policy: NumpyPolicy | None = None

    def set_policy(self, message: PolicyMessage) -> None:
        """Act with this policy from the next step on.

        Raises:
            robot_nodes.policy.PolicyError: It is for other spaces, or damaged.
        """
        self._policy = NumpyPolicy.from_message(message, self.spec)

    def collect(self, rows: int) -> Transitions:
        """The next `rows` steps with exploration; episodes follow each other.

        Raises:
            GymError: The environment gave numbers that are not finite.
        """
        assert self._policy is not None
        steps = [self._explore(self._policy) for _ in range(rows)]
        observation, action, reward, next_observation, terminated, truncated = map(
            np.asarray, zip(*steps, strict=True)
        )
        if not (np.isfinite(next_observation).all() and np.isfinite(reward).all()):
            raise GymError(f"{self._env_id}: gave an observation or a reward that is not finite")
        return Transitions(
            observation=observation,
            action=action.astype(np.float32),
            policy_action=action.astype(np.float32),
            reward=reward.astype(np.float32),
            next_observation=next_observation,
            terminated=terminated,
            truncated=truncated,
            intervened=np.zeros(rows, dtype=bool),
            clipped=np.zeros(rows, dtype=bool),
            policy_version=np.full(rows, self._policy.version, dtype=np.int64),
            stamp_ns=np.zeros(rows, dtype=np.int64),
        )

    def _explore(self, policy: NumpyPolicy) -> tuple[Any, ...]:
        if self._observation is None:
            self._observation = _as_vector(self._env.reset(seed=self._seed)[0])
            self._seed = None  # later episodes go on with the environment's own random numbers
            self._exploration.reset()
        observation = self._observation
        mu, factor = policy.mean_action(observation), policy.precision_factor()
        noise = self._exploration.sample(policy.exploration_std, policy.exploration_correlation, factor)
        action = np.clip(mu + noise, -1.0, 1.0)
        next_observation, reward, terminated, truncated = self._step(action)
        self._observation = None if terminated or truncated else next_observation
        return observation, action, reward, next_observation, terminated, truncated

    def returns(self, seeds: Sequence[int]) -> list[float]:
        """Sum of rewards of one noise-free episode for each seed; ends the episode that was going on."""
        assert self._policy is not None
        self._observation = None
        returns = []
        for seed in seeds:
            observation, total, over = _as_vector(self._env.reset(seed=seed)[0]), 0.0, False
            while not over:
                action = self._policy.mean_action(observation)
                observation, reward, terminated, truncated = self._step(action)
                total += reward
                over = terminated or truncated
            returns.append(total)
        return returns

    def _step(self, action: npt.NDArray[Any]) -> tuple[Vector, float, bool, bool]:
        """(next observation [nx], reward, terminated, truncated) of an action in [-1, 1] [nu]."""
        space = self._env.action_space
        scaled = self._low + 0.5 * (action + 1.0) * self._range
        observation, reward, terminated, truncated, _ = self._env.step(
            scaled.astype(space.dtype).reshape(space.shape)
        )
        return _as_vector(observation), float(reward), bool(terminated), bool(truncated)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def make_environment(env_id: str) -> Any:
    """The environment with observations as a flat Box.

    Raises:
        GymError: There is none of that name, its packages are missing, or it has no time limit.
    """
    try:
        import gymnasium
    except ImportError:
        raise GymError("gymnasium is not installed; pip install 'parallel-naf[gym]'") from None
    try:
        env = gymnasium.make(env_id)
    except (gymnasium.error.Error, ImportError) as error:
        raise GymError(f"{env_id}: Gymnasium cannot make this environment: {error}") from error
    if env.spec is None or env.spec.max_episode_steps is None:
        raise GymError(f"{env_id}: has no time limit; register it with max_episode_steps")
    space = env.observation_space
    if not isinstance(space, gymnasium.spaces.Box):
        if not space.is_np_flattenable:
            raise GymError(f"{env_id}: observations are {space}, which cannot be flattened into numbers")
        env = gymnasium.wrappers.FlattenObservation(env)
    return env


def _action_bounds(env: Any, env_id: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lowest action and range [nu]."""
    import gymnasium

    space = env.action_space
    if not (isinstance(space, gymnasium.spaces.Box) and np.issubdtype(space.dtype, np.floating)):
        raise GymError(f"{env_id}: actions are {space}; only continuous ones (Box) can be learned")
    low, high = (np.asarray(bound, dtype=np.float64).ravel() for bound in (space.low, space.high))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise GymError(
            f"{env_id}: actions are {space}; their bounds must be finite (RescaleAction, ClipAction)"
        )
    return low, high - low


def _as_vector(observation: Any) -> Vector:
    return np.array(observation, dtype=np.float32).ravel()


def _spec(shape: tuple[int, ...], actions: int) -> SpaceSpec:
    return SpaceSpec(_space("observation", math.prod(shape), _BOUND), _space("action", actions, 1.0))


def _space(name: str, size: int, bound: float) -> Space:
    return Space(tuple(f"{name}_{i}" for i in range(size)), ("1",) * size, (-bound,) * size, (bound,) * size)
