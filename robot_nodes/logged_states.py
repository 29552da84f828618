"""The arm's state in logged observations, found by the names of their numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fleet.spaces import SpaceSpec
from robot_nodes.tasks.shared_arm import SharedArm
from robot_nodes.tasks.task import ArmState


class RelabelError(ValueError):
    """These logs cannot be told for that task; the text says why and what to do."""


class LoggedStates:
    """Reads the arm's states out of logged observations.

    logged = LoggedStates(logs.spec, SharedArm.of(robots), sensors.names)
    states = logged.states(transitions.observation)
    """

    def __init__(self, spec: SpaceSpec, arm: SharedArm, sensors: tuple[str, ...]) -> None:
        """Find it.

        Raises:
            RelabelError: Something is not there.
        """
        names = spec.observation.names
        if missing := [name for name in arm.state.names if name not in names]:
            raise RelabelError(
                f"the logs' observations have no {', '.join(missing[:4])}{', …' if missing[4:] else ''}: "
                "they are of other robots than the config's; name their fleet's file with --fleet"
            )
        if missing := [name for name in sensors if name not in names]:
            raise RelabelError(
                f"the logs' observations have no {', '.join(missing)}: sensors that the config's robots have "
                "and that were not there when this was recorded; it cannot be told for a task that needs them"
            )
        n = len(arm.joints)
        columns = [names.index(name) for name in (*arm.state.names, *sensors)]
        self._parts = columns[:n], columns[n : 2 * n], columns[2 * n : 2 * n + 3], columns[2 * n + 3 :]

    def states(self, observations: npt.NDArray[np.float32]) -> list[ArmState]:
        """The arm in each observation [N, nx]; without a stamp, of which tasks make no use."""
        parts = (observations[:, columns].astype(np.float64) for columns in self._parts)
        return [ArmState(q, qd, tool, 0, sensors) for q, qd, tool, sensors in zip(*parts, strict=True)]
