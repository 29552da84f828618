"""K updates of a plain NAF network in one call, without PyTorch: `naf_update.cc` through ctypes.

The parameters, the target and Adam's moments stay the trainer's tensors; the call works on their memory.
While it runs, Python's other threads do as well.
"""

from __future__ import annotations

import ctypes
import functools
import logging

import torch
from torch import Tensor

from fleet.messages import OBSERVATION_CLIP
from learner.behaviour import Behaviour
from learner.fused.build import FusedBuildError, load_library
from learner.naf import NafShape
from learner.packed_rows import RowLayout

logger = logging.getLogger(__name__)

MAX_HIDDEN_LAYERS = 16
_DIAGONALS = {"bounded": 0, "scaled": 1, "exp": 2}
_POINTERS = [
    "rows",
    "index",
    "mean",
    "scale",
    "online",
    "target",
    "first",
    "second",
    "gradient",
    "td_error",
    "workspace",
]
_COUNTS = ["row_count", "updates", "steps_done"]
_NUMBERS = [
    *("tau", "gamma", "reward_scale", "clip", "low", "high", "weight"),
    *("behaviour_weight", "temperature"),
]


class _Call(ctypes.Structure):
    """`Call` of naf_update.cc."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _COUNTS),
        ("learning_rate", ctypes.c_double),
        *((name, ctypes.c_float) for name in _NUMBERS),
        ("precision", ctypes.c_void_p),
    )


class FusedNaf:
    """The updates of one network with minibatches of one size.

        fused = fused_engine(shape, batch_size)     # None: use learner/gradients.py
        fused.update(rows, index, mean, scale, online, target, first, second, steps_done, ...)

    What K updates do is the same, bit by bit, however they are divided into calls.

    Attributes:
        behaviour: What keeps μ near the data.
        td_error: Q − y of the last minibatch [batch_size, values].
    """

    def __init__(
        self, library: ctypes.CDLL, shape: NafShape, batch_size: int, behaviour: Behaviour | None = None
    ) -> None:
        """Allocate what a call works in."""
        self.shape, self.batch_size = shape, batch_size
        self.behaviour = behaviour or Behaviour(0.0, 0.0, torch.zeros(0), shape.nu)
        self.layout = RowLayout(shape.nx, shape.nu)
        sizes = (
            *(shape.nx, shape.nu, shape.values, _DIAGONALS[shape.diagonal], int(shape.off_diagonal)),
            *(batch_size, len(shape.hidden_sizes), *shape.hidden_sizes),
        )
        self._sizes = (ctypes.c_int64 * len(sizes))(*sizes)
        self._run = library.pnaf_update
        self._run.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        self._run.restype = ctypes.c_int32
        count = library.pnaf_workspace
        count.argtypes, count.restype = (ctypes.c_void_p,), ctypes.c_int64
        self._workspace = torch.zeros(count(self._sizes))
        if self._workspace.data_ptr() % 64:
            raise RuntimeError("PyTorch's memory on the CPU is not aligned to 64 bytes")
        self._gradient = torch.zeros(shape.parameters)
        chunks = -(-batch_size // 64)
        self._td_error = torch.zeros(shape.values, 64 * chunks)
        self.td_error = self._td_error[:, :batch_size].t()

    def update(
        self,
        rows: Tensor,
        index: Tensor,
        mean: Tensor,
        scale: Tensor,
        online: Tensor,
        target: Tensor,
        first: Tensor,
        second: Tensor,
        steps_done: int,
        learning_rate: float,
        tau: float,
        gamma: float,
        reward_scale: float,
        y_low: float,
        y_high: float,
    ) -> None:
        """Do K updates, one after the other, each on its own minibatch.

        Args:
            rows: The mirror's rows [N, width], see `RowLayout`.
            index: Rows of each minibatch [K, batch_size], int64.
            mean: Of the observation and next observation [2 nx].
            scale: 1 / their standard deviation [2 nx].
            online: Flat parameters [parameters], changed in place like the next three.
            target: Those of the target network [parameters].
            first: Adam's running mean of the gradient [parameters].
            second: Adam's running mean of its square [parameters].
            steps_done: Adam's steps before this call.
            learning_rate: Adam's.
            tau: Polyak rate.
            gamma: Discount.
            reward_scale: Factor of rewards.
            y_low: Smallest TD target; −inf: no limit.
            y_high: Largest TD target.

        Raises:
            ValueError: A tensor is not what it must be.
            IndexError: An index is not that of a row; nothing was changed.
        """
        if index.ndim != 2:
            raise ValueError(f"index has shape {tuple(index.shape)}, not [updates, {self.batch_size}]")
        if not len(index):
            return
        self._call(
            rows, index, mean, scale, online, target, first, second,
            updates=len(index), steps_done=steps_done, learning_rate=learning_rate, tau=tau, gamma=gamma,
            reward_scale=reward_scale, clip=OBSERVATION_CLIP, low=y_low, high=y_high,
        )  # fmt: skip

    def gradient(
        self,
        x: Tensor,
        u: Tensor,
        reward: Tensor,
        discount: Tensor,
        next_x: Tensor,
        online: Tensor,
        target: Tensor,
        y_low: float = -float("inf"),
        y_high: float = float("inf"),
    ) -> Tensor:
        """∂loss/∂θ [parameters] as `learner.gradients.NafGradient.compute` gives it; fills `td_error`."""
        rows = torch.cat([x, next_x, u, reward[:, None], discount[:, None]], dim=1)
        index = torch.arange(self.batch_size)[None]
        mean, scale = torch.zeros(2 * self.shape.nx), torch.ones(2 * self.shape.nx)
        self._call(
            rows, index, mean, scale, online, target, None, None,
            updates=0, steps_done=0, learning_rate=0.0, tau=0.0, gamma=1.0,
            reward_scale=1.0, clip=float("inf"), low=y_low, high=y_high,
        )  # fmt: skip
        return self._gradient.clone()

    def _call(
        self,
        rows: Tensor,
        index: Tensor,
        mean: Tensor,
        scale: Tensor,
        online: Tensor,
        target: Tensor,
        first: Tensor | None,
        second: Tensor | None,
        **numbers: float,
    ) -> None:
        parameters, observations = (self.shape.parameters,), (2 * self.shape.nx,)
        call = _Call(
            rows=_address("rows", rows, (len(rows), self.layout.width)),
            index=_address("index", index, (len(index), self.batch_size), torch.int64),
            mean=_address("mean", mean, observations),
            scale=_address("scale", scale, observations),
            online=_address("online", online, parameters),
            target=_address("target", target, parameters),
            first=None if first is None else _address("first", first, parameters),
            second=None if second is None else _address("second", second, parameters),
            gradient=self._gradient.data_ptr(),
            td_error=self._td_error.data_ptr(),
            workspace=self._workspace.data_ptr(),
            row_count=len(rows),
            weight=(1.0 - self.behaviour.weight) / self.batch_size,
            behaviour_weight=self.behaviour.weight / self.batch_size,
            temperature=self.behaviour.temperature,
            precision=_address("precision", self.behaviour.precision, (self.shape.nu,)),
            **numbers,
        )
        if self._run(self._sizes, ctypes.byref(call)):
            low, high = int(index.min()), int(index.max())
            raise IndexError(f"indices from {low} to {high} in a mirror of {len(rows)} rows")


def _address(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    fits = tensor.shape == shape and tensor.dtype == dtype and tensor.is_contiguous()
    if not fits or tensor.device.type != "cpu":
        raise ValueError(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}, "
            f"not contiguous {dtype} {shape} on the cpu"
        )
    return tensor.data_ptr()


def fused_engine(shape: NafShape, batch_size: int, behaviour: Behaviour | None = None) -> FusedNaf | None:
    """The fused updates of a network, or None where there are none: a log line says why, once a process."""
    plain = not (shape.layer_norm or shape.residual or shape.linear_mean)
    if not plain or len(shape.hidden_sizes) > MAX_HIDDEN_LAYERS:
        return None
    library = _library()
    return None if library is None else FusedNaf(library, shape, batch_size, behaviour)


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        return load_library()
    except FusedBuildError as error:
        logger.warning("updates run in PyTorch, which takes two to five times as long: %s", error)
        return None
