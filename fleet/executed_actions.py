"""What robots would have executed, had a policy been asked at every logged observation: μ through the guard.

A policy that was learned with a guard below it leans on it: it asks for full speed where only a part of that
is allowed. Logs hold what was executed, so only that may be compared with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fleet.config import FleetConfig
from fleet.guard_sample import robot_of

if TYPE_CHECKING:
    from learner.row_file import RowFile
    from robot_nodes.guard_preview import GuardPreview

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class ExecutedActions:
    """A policy's actions on logs of N rows and E episodes.

    Attributes:
        first: At the first observation of each episode [E, nu].
        following: At each row's next observation [N, nu].
        here: At each row's observation [N, nu].
    """

    first: Array
    following: Array
    here: Array

    @classmethod
    def of(
        cls,
        rows: RowFile,
        act: Callable[[Array], Array],
        fleet: FleetConfig | None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> ExecutedActions:
        """Ask the policy, and then the guard of each episode's robot.

        Args:
            rows: The logs.
            act: The policy, observations [B, nx] to actions [B, nu].
            fleet: Whose robots have the guards; None, or a robot that it lacks: actions as asked.
            on_progress: Called after each episode with the rows done and their total.

        Raises:
            GuardPreviewError: There is no guard of this robot, or the logs do not say where the arm was.
        """
        from robot_nodes.guard_preview import GuardPreview, Moments

        layout, values = rows.layout, rows.values.numpy()
        guards: dict[str, GuardPreview] = {}
        following = np.empty((rows.rows, layout.nu), np.float32)
        first = np.empty((rows.episodes, layout.nu), np.float32)
        for number, (info, place) in enumerate(zip(rows.infos, rows.slices, strict=True)):
            episode = values[place]
            observations = np.concatenate([episode[:1, : layout.nx], episode[:, layout.nx : 2 * layout.nx]])
            actions = act(observations)
            robot = None if fleet is None else robot_of(fleet, info.robot_id)
            if robot is not None:
                if info.robot_id not in guards:
                    guards[info.robot_id] = GuardPreview(robot)
                before = np.pad(episode[:, layout.action], ((2, 0), (0, 0)))
                moments = Moments.of(observations, np.stack([before[1:], before[:-1]]), rows.spec, robot)
                actions = guards[info.robot_id](moments, actions)
            first[number], following[place] = actions[0], actions[1:]
            on_progress(place.stop, rows.rows)
        here = np.roll(following, 1, axis=0)  # where a row's next observation is the next row's own
        here[rows.starts.numpy()] = first
        return cls(first, following, here)
