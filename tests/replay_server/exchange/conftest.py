"""Logs to be exported, and the real readers of what comes out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fleet.messages import COLUMNS, Transitions
from fleet.spaces import Space, SpaceSpec
from replay_server.episode_file import EpisodeInfo
from replay_server.log_writer import LogWriter
from replay_server.logs import open_logs

READERS = Path(__file__).resolve().parents[3] / ".readers"

_SPEC = SpaceSpec(
    Space(
        ("joint_1/position", "joint_2/position", "joint_1/velocity", "tool/x", "joint_2/velocity", "heat"),
        ("rad", "rad", "rad/s", "m", "rad/s", "K"),
        (-3.0, -3.0, -1.0, -0.25999999999999995, -1.0, 0.0),
        (3.0, 3.0, 1.0, 1.0, 1.0, 400.0),
    ),
    Space(("joint_1/velocity_command", "joint_2/velocity_command"), ("1", "1"), (-1.0, -1.0), (1.0, 1.0)),
)

Read = Callable[..., Mapping[str, np.ndarray]]


def _rows(count: int, seed: int = 0, spec: SpaceSpec = _SPEC, **changes: Any) -> Transitions:
    """Random rows that follow each other."""
    rng = np.random.default_rng(seed)
    nx, nu = spec.observation.size, spec.action.size
    states = rng.standard_normal((count + 1, nx)).astype(np.float32)
    action = rng.uniform(-1, 1, (count, nu)).astype(np.float32)
    columns = dict(
        observation=states[:-1].copy(),
        action=action,
        policy_action=(action * 2).astype(np.float32),
        reward=rng.standard_normal(count).astype(np.float32),
        next_observation=states[1:].copy(),
        terminated=np.zeros(count, bool),
        truncated=np.arange(count) == count - 1,
        intervened=rng.random(count) < 0.3,
        clipped=rng.random(count) < 0.3,
        policy_version=rng.integers(-1, 2**60, count),
        stamp_ns=1_767_225_600_000_000_000 + np.arange(count) * 50_000_000,
    )
    return Transitions(**(columns | changes))


def _info(episode: int, **changes: Any) -> EpisodeInfo:
    values = dict(
        run_id="", robot_id="robot1", boot_id="b0", episode=episode, rows=0, first_seq=0, last_seq=0,
        first_cursor=0, last_cursor=0, received_ns=1000 + episode, spec_hash="", policy_version=0,
        evaluation=episode == 1, end="time_limit", success=episode % 2 == 0,
        metrics={"return": 0.1 + episode, "guard/workspace": float("nan")}, complete=True, task="reach",
    )  # fmt: skip
    return EpisodeInfo(**(values | changes))


@pytest.fixture
def sample() -> SimpleNamespace:
    """`spec`, `rows(count, seed, **columns)`, `info(episode, **facts)`, `assert_same(run, copy, origin)`."""
    return SimpleNamespace(spec=_SPEC, rows=_rows, info=_info, assert_same=_assert_same)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three episodes of two robots: 7, 1 and 12 rows; the last one ends its task."""
    with LogWriter(tmp_path / "run", _SPEC, "") as writer:
        writer.add(_info(0), _rows(7, 0))
        writer.add(_info(1), _rows(1, 1))
        ended = np.arange(12) == 11
        rows = _rows(12, 2, terminated=ended, truncated=~ended & ended)
        writer.add(_info(2, robot_id="robot2", boot_id="b7", end="success"), rows)
    return tmp_path / "run"


def _assert_same(run: Path, imported: Path, origin: str) -> None:
    """Rows, ids and facts of two run folders are the same, bit for bit."""
    before, after = open_logs([run]), open_logs([imported])
    assert after.spec == before.spec
    pairs = list(zip(before.read(), after.read(), strict=True))
    assert pairs
    for (old, old_rows), (new, new_rows) in pairs:
        assert repr(new.info) == repr(replace(old.info, run_id=new.info.run_id, origin=origin))  # with NaN
        for name in COLUMNS:
            a, b = getattr(old_rows, name), getattr(new_rows, name)
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), name
    assert not before.damaged
    assert not after.damaged


@pytest.fixture
def read_with(tmp_path: Path) -> Read:
    """`read_with("robomimic", path, *keys)`: what the project's own reader reads, in a process of its own.

    Without .readers such tests are skipped, or fail if PNAF_REQUIRE_READERS=1.
    """
    if not (READERS / ".installed").is_file():
        missing = "the real readers of robomimic and LeRobot are not here: make readers"
        if os.environ.get("PNAF_REQUIRE_READERS") == "1":
            pytest.fail(missing)
        pytest.skip(missing)

    def read(kind: str, path: Path, *arguments: str) -> Mapping[str, np.ndarray]:
        program, out = Path(__file__).with_name("real_readers.py"), tmp_path / f"{kind}.npz"
        offline = {name: "1" for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")}
        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "ignore",
                str(program),
                str(READERS),
                kind,
                str(path),
                str(out),
                *arguments,
            ],
            env=os.environ | offline | {"HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(out) as found:
            return dict(found)

    return read
