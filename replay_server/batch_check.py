"""Whether a batch from the network may enter the store."""

from __future__ import annotations

import typing

import numpy as np

from fleet.messages import COLUMNS, EndReason, TransitionBatch
from fleet.spaces import SpaceSpec
from replay_server.columns import shape_error

_END_REASONS = ("", *typing.get_args(EndReason))
_MAX_SEQ = 2**60
_MAX_EPISODE = 10**6 - 1
_MAX_METRICS = 64
_FLOATS = tuple(name for name, column in COLUMNS.items() if column["dtype"].kind == "f")


def batch_error(batch: TransitionBatch, spec: SpaceSpec, spec_hash: str) -> str:
    """Why a batch cannot be stored, in words; empty if it can.

    Args:
        batch: A decoded batch: field types are right, values are not checked yet.
        spec: The run's spec.
        spec_hash: Its hash, precomputed.
    """
    if batch.spec_hash != spec_hash:
        return f"spec_hash is {batch.spec_hash[:32]!r}, this run's is {spec_hash!r}: say hello again"
    if not 0 <= batch.first_seq <= _MAX_SEQ:
        return f"first_seq must be in 0 … 2^60, got {batch.first_seq}"
    if not 0 <= batch.episode <= _MAX_EPISODE:
        return f"episode must be in 0 … {_MAX_EPISODE}, got {batch.episode}"
    if batch.end not in _END_REASONS:
        return f"end must be one of {', '.join(_END_REASONS[1:])} or empty, got {batch.end[:40]!r}"
    if error := metrics_error(batch.metrics):
        return error
    if error := shape_error(batch, spec.observation.size, spec.action.size):
        return error
    # All floats of a packed row lie together, before the rest.
    packed = batch.packed()
    words = packed.view("<f4").reshape(batch.rows, packed.dtype.itemsize // 4)
    floats = 2 * spec.observation.size + 2 * spec.action.size + 1
    if np.isfinite(words[:, :floats]).all():
        return ""
    for name in _FLOATS:
        finite = np.isfinite(getattr(batch, name))
        if not finite.all():
            row = int(np.argwhere(~finite)[0][0])
            return f"{name} of row {row} (seq {batch.first_seq + row}) is not finite"
    return ""


def metrics_error(metrics: dict[str, float]) -> str:
    """Why the metrics of an episode cannot be stored; empty if they can."""
    if len(metrics) > _MAX_METRICS:
        return f"{len(metrics)} metrics, at most {_MAX_METRICS}"
    for name, value in metrics.items():
        if type(name) is not str or len(name) > 64:
            return f"a metric's name must be at most 64 characters, got {str(name)[:80]!r}"
        if type(value) not in (int, float):
            return f"metric {name!r} must be a number, got {type(value).__name__}"
    return ""
