"""Goals of episodes in bags, where nobody wrote down what the robot was asked to reach.

final       where the episode ended: hindsight, as in arXiv:1707.01495, so it always succeeds
sample      a random one, as the task draws it: the episode was an attempt at it by chance
X,Y,Z       one for all (m, in the frame of the robot's root link)
/topic      a geometry_msgs/PoseStamped in the bag: each new position begins an episode
"""

from __future__ import annotations

import numpy as np

from fleet.config import ConfigError
from robot_nodes.tasks.task import ArmState, Task, Vector


class Goals:
    """The goals of one bag.

    Attributes:
        topic: Where the bag has them; empty: it has none.
        heard: The newest on that topic.
    """

    def __init__(self, choice: str, task: Task, rng: np.random.Generator) -> None:
        """Understand the choice; a task without goals needs none.

        Raises:
            ConfigError: It is none of those above, or has another size than the task's goals.
        """
        self._task, self._rng = task, rng
        self._size = len(task.sample_goal(rng))
        self._choice = choice
        self.topic = choice if choice.startswith("/") and self._size else ""
        self.heard: Vector | None = None
        given = self._size > 0 and not self.topic and choice not in ("final", "sample")
        self._fixed = self._parse(choice) if given else None

    def _parse(self, choice: str) -> Vector:
        try:
            goal = np.array([float(part) for part in choice.split(",")])
        except ValueError:
            raise ConfigError(f"--goal {choice}: must be final, sample, X,Y,Z (m) or a /topic") from None
        if len(goal) != self._size or not np.isfinite(goal).all():
            raise ConfigError(f"--goal {choice}: the task's goals are {self._size} finite numbers")
        return goal

    def of_episode(self, last: ArmState) -> Vector:
        """The goal of an episode that ended in `last`."""
        if self.heard is not None:
            return self.heard
        if self._fixed is not None:
            return self._fixed
        return (
            self._task.achieved_goal(last) if self._choice == "final" else self._task.sample_goal(self._rng)
        )
