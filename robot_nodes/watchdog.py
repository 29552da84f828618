"""One watchdog, and what all of them are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fleet.robot_config import Reaction


@dataclass(slots=True)
class Watchdog:
    """One of them.

    Attributes:
        name: Its key in the robot's config.
        limit: In words.
        reaction: What follows when it trips; `keep_acting` is only told.
        text: What is wrong, the limit, and what to do; empty while all is well.
        armed: It has seen what it watches; until then it only lets the robot wait.
        by_loop: The control loop reacts by itself; here it is only told.
        trips: How often it has tripped.
    """

    name: str
    limit: str
    reaction: Reaction | Literal["keep_acting"]
    text: str = ""
    armed: bool = True
    by_loop: bool = False
    trips: int = 0

    @property
    def latches(self) -> bool:
        """Whether a person has to let the robot go on afterwards."""
        return self.reaction == "latch" and self.armed


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the watchdogs are told at each check.

    Attributes:
        steady_s: Steady wall time (s).
        ros_ns: ROS time (ns).
        subscribers: How many hear our commands.
        zero_problem: What is wrong with the process that commands zeros, or with our own loop.
        zero_ready: That process runs and a controller hears it.
        external_estop: What is missing of the e-stop input from outside.
        sensor: Which extra sensor is too old.
        spool: Why the spool takes nothing more.
        other_commander: Who else publishes on the command topic.
        policy_age_s: Wall-clock age of the newest policy (s); None: there is none yet.
    """

    steady_s: float
    ros_ns: int
    subscribers: int
    zero_problem: str = ""
    zero_ready: bool = True
    external_estop: str = ""
    sensor: str = ""
    spool: str = ""
    other_commander: str = ""
    policy_age_s: float | None = None
