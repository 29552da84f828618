"""Running mean and standard deviation of observations; robots get the result with every policy.

x = clip((observation − mean) · scale, ±OBSERVATION_CLIP), the same formula on the robots (numpy) and
where the network is trained (`learner/trainer.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

MIN_STD = 1e-3

Array = npt.NDArray[Any]


class Normaliser:
    """Mean and scale of everything seen so far, merged batch by batch in float64.

    normaliser.extend(observations)     # with every tail of the replay log
    normaliser.mean, normaliser.scale   # to the mirror's device and into PolicyMessage

    Attributes:
        mean: Mean of each dimension [nx], float32.
        scale: 1 / standard deviation [nx], float32; 1 before any data, bounded for constant dimensions.
    """

    def __init__(self, size: int) -> None:
        """Before any data: mean 0 and scale 1 of `size` dimensions."""
        self.count = 0
        self._mean: Array = np.zeros(size)
        self._squares: Array = np.zeros(size)
        self.mean: Array = np.zeros(size, dtype="<f4")
        self.scale: Array = np.ones(size, dtype="<f4")

    def extend(self, observation: Array) -> None:
        """Merge observations [N, nx] (Chan et al.'s pairwise form of Welford's update)."""
        observation = np.asarray(observation, dtype=np.float64)
        n = len(observation)
        if n == 0:
            return
        if not np.isfinite(observation).all():
            raise ValueError("an observation is not finite; the replay server must refuse such rows")
        mean = observation.mean(axis=0)
        difference = mean - self._mean
        total = self.count + n
        self._squares += np.square(observation - mean).sum(axis=0)
        self._squares += np.square(difference) * (self.count * n / total)
        self._mean += difference * (n / total)
        self.count = total
        self._refresh()

    def _refresh(self) -> None:
        self.mean = self._mean.astype("<f4")
        if self.count >= 2:
            std = np.sqrt(self._squares / self.count)
            self.scale = (1.0 / np.maximum(std, MIN_STD)).astype("<f4")

    def state(self) -> dict[str, Any]:
        """Everything `load_state` needs, as plain lists and numbers."""
        return {"count": self.count, "mean": self._mean.tolist(), "squares": self._squares.tolist()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.count = int(state["count"])
        self._mean = np.array(state["mean"], dtype=np.float64)
        self._squares = np.array(state["squares"], dtype=np.float64)
        self.scale = np.ones_like(self.mean)
        self._refresh()
