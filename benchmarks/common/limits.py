"""What one core and its memory can do at most, measured."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import torch

from learner.fused.build import FusedBuildError, load_library

_REPEATS = 5
_ROUNDS = 2_000_000
_COPY_FLOATS = 64 * 2**20


def best_cpu_s(run: Callable[[], object]) -> float:
    """The least processor time (s) of several runs."""
    times = []
    for _ in range(_REPEATS):
        begun = time.process_time()
        run()
        times.append(time.process_time() - begun)
    return min(times)


def sgemm_flops(size: int = 2048) -> float:
    """Of PyTorch's product of large float32 matrices, with its present threads (1/s)."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    return 2.0 * size**3 / best_cpu_s(lambda: a @ b)


def fma_flops() -> float | None:
    """Of multiply-adds in registers on one core (1/s); None without a compiler."""
    try:
        peak = load_library(Path(__file__).parent / "peak.cc").peak
    except FusedBuildError:
        return None
    peak.argtypes, peak.restype = (ctypes.c_long, ctypes.c_float, ctypes.c_void_p), ctypes.c_long
    out = ctypes.c_float()
    operations = int(peak(1, 0.5, ctypes.byref(out)))
    return operations * _ROUNDS / best_cpu_s(lambda: peak(_ROUNDS, 0.5, ctypes.byref(out)))


def copy_bytes() -> float:
    """Read and written by a copy that no cache holds (bytes/s)."""
    a = torch.ones(_COPY_FLOATS)
    b = torch.empty_like(a)
    return 8.0 * _COPY_FLOATS / best_cpu_s(lambda: b.copy_(a))
