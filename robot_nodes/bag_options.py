"""What bags do not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class BagOptions:
    """What a person knows about bags and they do not say.

    Attributes:
        topics: Names of topics where they are not the config's; keys as in `BagTopics`.
        action: What counts as the action: commands, or velocities measured at the end of each step.
        goal: See `bag_goals.py`.
        episode_s: Longest episode (s); None: the task's.
        marker: Topic whose messages part episodes. If std_msgs/Bool, true begins an episode, false ends it,
            and what comes before the next true is left out. Empty: none.
        demonstrations: A person moved the robot, all the time.
    """

    topics: Mapping[str, str] = field(default_factory=dict)
    action: Literal["command", "measured"] = "command"
    goal: str = "final"
    episode_s: float | None = None
    marker: str = ""
    demonstrations: bool = False
