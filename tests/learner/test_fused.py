"""The fused update does what the eager one does, wherever there is a compiler; elsewhere it steps aside."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fleet.messages import OBSERVATION_CLIP
from learner.adam import Adam
from learner.fused import build, engine
from learner.fused.build import FusedBuildError, load_library
from learner.fused.engine import FusedNaf, fused_engine
from learner.gradients import NafGradient
from learner.naf import NafShape, evaluate, naf_loss, polyak_update, q_value
from learner.packed_rows import RowLayout

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler"
)

SHAPE = NafShape(nx=13, nu=3, hidden_sizes=(16, 12))
BATCH = 24
ROWS = 100
RATE, TAU, GAMMA, SCALE, LOW, HIGH = 3e-3, 0.02, 0.9, 0.5, -1.0, 0.8

ANY_SHAPE = st.builds(
    NafShape,
    nx=st.integers(1, 40),
    nu=st.integers(1, 8),
    hidden_sizes=st.lists(st.integers(1, 70), min_size=1, max_size=3).map(tuple),
    off_diagonal=st.booleans(),
    values=st.integers(1, 3),
    diagonal=st.sampled_from(["bounded", "scaled", "exp"]),
)


def make_fused(shape: NafShape = SHAPE, batch_size: int = BATCH) -> FusedNaf:
    fused = fused_engine(shape, batch_size)
    assert fused is not None
    return fused


def nearest_kink(shape: NafShape, flat: Tensor, h: Tensor) -> float:
    """How far from 0 the inputs of all ReLU are at least: at 0 their gradient is a matter of rounding."""
    nearest = torch.inf
    for W, b in shape.layers(flat)[:-1]:
        h = h @ W.t() + b
        nearest = min(nearest, h.abs().min().item())
        h = h.relu()
    return nearest


@pytest.mark.parametrize("low, high", [(-torch.inf, torch.inf), (-0.4, 0.2)])
@settings(max_examples=40, deadline=None, derandomize=True)
@example(shape=NafShape(1, 1, (1,)), batch_size=1, seed=0)  # its one TD error is not a small one
@given(shape=ANY_SHAPE, batch_size=st.integers(8, 150), seed=st.integers(0, 99))
def test_gradient_is_that_of_autograd(
    low: float, high: float, shape: NafShape, batch_size: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    online, target = (shape.initial_parameters(generator) for _ in range(2))
    online += 0.1 * torch.randn(shape.parameters, generator=generator)
    x, next_x = (torch.randn(batch_size, shape.nx, generator=generator) for _ in range(2))
    u = 2 * torch.rand(batch_size, shape.nu, generator=generator) - 1
    reward, discount = (
        torch.randn(batch_size, generator=generator),
        torch.rand(batch_size, generator=generator),
    )

    fused = make_fused(shape, batch_size)
    gradient = fused.gradient(x, u, reward, discount, next_x, online, target, low, high)

    next_value = evaluate(shape, target, next_x).V.amin(dim=1)
    y = (reward + discount * next_value).clamp(low, high)
    flat = online.double().requires_grad_()  # the plain loss, and the exact one of these parameters
    assume(nearest_kink(shape, flat.detach(), x.double()) > 1e-5)
    naf = evaluate(shape, flat, x.double())
    (expected,) = torch.autograd.grad(naf_loss(naf, u.double(), y.double()), flat)
    assert (gradient - expected).norm() <= 1e-5 * expected.norm() + 1e-7
    td_error = q_value(naf.V, u.double(), naf.mu, naf.L) - y[:, None]
    assert (fused.td_error - td_error).norm() <= 1e-5 * td_error.norm() + 1e-6


@dataclass
class Learner:
    """What a trainer hands to the fused update."""

    shape: NafShape
    online: Tensor
    target: Tensor
    first: Tensor
    second: Tensor
    steps: int = 0

    def update(self, fused: FusedNaf, rows: Tensor, index: Tensor, mean: Tensor, scale: Tensor) -> None:
        fused.update(
            rows, index, mean, scale, self.online, self.target, self.first, self.second,
            self.steps, RATE, TAU, GAMMA, SCALE, LOW, HIGH,
        )  # fmt: skip
        self.steps += len(index)


def make_learner(shape: NafShape = SHAPE) -> Learner:
    flat = shape.initial_parameters(torch.Generator().manual_seed(0))
    return Learner(shape, flat, flat.clone(), torch.zeros_like(flat), torch.zeros_like(flat))


def make_rows(shape: NafShape = SHAPE) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of a mirror, and the normaliser's mean and scale; a few observations are far outside the clip."""
    generator, layout = torch.Generator().manual_seed(1), RowLayout(shape.nx, shape.nu)
    rows = torch.randn(ROWS, layout.width, generator=generator)
    rows[:5] *= 100
    rows[:, layout.action].clamp_(-1, 1)
    rows[:, layout.bootstrap] = (torch.rand(ROWS, generator=generator) < 0.7).float()
    mean, scale = torch.randn(shape.nx, generator=generator), 0.5 + torch.rand(shape.nx, generator=generator)
    return rows, mean.repeat(2), scale.repeat(2)


def draw(updates: int, batch_size: int = BATCH) -> Tensor:
    return torch.randint(0, ROWS, (updates, batch_size), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"off_diagonal": True, "values": 1},
        {"diagonal": "scaled", "off_diagonal": True},
        {"diagonal": "exp", "hidden_sizes": (100, 100)},
    ],
    ids=str,
)
def test_a_hundred_updates_end_where_the_eager_ones_do(network: dict[str, Any]) -> None:
    shape = NafShape(nx=13, nu=3, **{"hidden_sizes": (16, 12), **network})
    rows, mean, scale = make_rows(shape)
    index, fused_learner, eager = draw(100), make_learner(shape), make_learner(shape)
    begin = eager.online.clone()

    fused = make_fused(shape)
    fused_learner.update(fused, rows, index, mean, scale)

    gradient = NafGradient(shape, BATCH, eager.online, eager.target, BATCH)
    gradient.bound(LOW, HIGH)
    adam = Adam(eager.online, gradient.flat, RATE)
    for batch in rows[index]:
        layout = RowLayout(shape.nx, shape.nu)
        observations = (batch[:, layout.observations] - mean) * scale
        observations.clamp_(-OBSERVATION_CLIP, OBSERVATION_CLIP)
        x, next_x = observations.split(shape.nx, dim=1)
        discount = GAMMA * batch[:, layout.bootstrap]
        gradient.compute(x, batch[:, layout.action], SCALE * batch[:, layout.reward], discount, next_x)
        adam.step()
        polyak_update(eager.target, eager.online, TAU)

    for ours, theirs in [
        (fused_learner.online, eager.online),
        (fused_learner.target, eager.target),
        (fused_learner.first, adam.first),
        (fused_learner.second, adam.second),
    ]:
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()
    assert (fused_learner.online - eager.online).norm() < 1e-3 * (begin - eager.online).norm()
    torch.testing.assert_close(fused.td_error, gradient.td_error, rtol=1e-2, atol=1e-3)


def test_the_same_bits_however_updates_are_divided_into_calls() -> None:
    rows, mean, scale = make_rows()
    index, whole = draw(12), make_learner()
    whole.update(make_fused(), rows, index, mean, scale)
    divided, fused = make_learner(), make_fused()
    for part in index.split([1, 4, 0, 7]):
        divided.update(fused, rows, part.clone(), mean, scale)
    assert divided.steps == whole.steps == 12
    for name in ("online", "target", "first", "second"):
        assert torch.equal(getattr(divided, name), getattr(whole, name)), name


def test_nan_reaches_the_parameters() -> None:
    rows, mean, scale = make_rows()
    rows[3, 0] = torch.nan
    learner = make_learner()
    learner.update(make_fused(), rows, torch.full((1, BATCH), 3), mean, scale)
    assert learner.online.isnan().any()


def test_a_batch_is_not_touched_by_what_was_computed_before() -> None:
    rows, mean, scale = make_rows()
    bad, fused = torch.full_like(rows, torch.nan), make_fused()
    make_learner().update(fused, bad, draw(1), mean, scale)
    after, fresh = make_learner(), make_learner()
    after.update(fused, rows, draw(3), mean, scale)
    fresh.update(make_fused(), rows, draw(3), mean, scale)
    assert torch.equal(after.online, fresh.online)


@pytest.mark.parametrize("bad", [-1, ROWS])
def test_an_index_outside_the_mirror_is_refused(bad: int) -> None:
    rows, mean, scale = make_rows()
    index, learner = draw(2), make_learner()
    index[1, -1] = bad
    before = learner.online.clone()
    with pytest.raises(IndexError, match=rf"{bad}.* in a mirror of {ROWS} rows"):
        learner.update(make_fused(), rows, index, mean, scale)
    assert torch.equal(learner.online, before)


def test_tensors_that_do_not_fit_are_refused() -> None:
    rows, mean, scale = make_rows()
    fused, learner = make_fused(), make_learner()
    for change, reason in [
        ({"rows": rows.double()}, r"rows is torch.float64 \(100, 31\) on cpu, not contiguous torch.float32"),
        ({"rows": rows[:, ::2]}, "rows is"),
        ({"rows": rows[:, :-1]}, "rows is"),
        ({"mean": mean[:-1]}, r"mean is torch.float32 \(25,\)"),
        ({"index": draw(2).int()}, "index is torch.int32"),
        ({"index": draw(2)[0]}, r"index has shape \(24,\), not \[updates, 24\]"),
    ]:
        arguments = {"rows": rows, "index": draw(2), "mean": mean, "scale": scale, **change}
        with pytest.raises(ValueError, match=reason):
            learner.update(fused, **arguments)


@pytest.mark.parametrize("part", [{"layer_norm": True}, {"residual": True}, {"linear_mean": True}], ids=str)
def test_networks_with_other_parts_have_no_fused_update(part: dict[str, Any]) -> None:
    assert fused_engine(NafShape(5, 3, (16, 16), **part), BATCH) is None


# ---- compiling ----

SMALL = 'extern "C" double twice(double x) { return 2 * x; }\n'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Something that compiles in a moment."""
    path = tmp_path / "small.cc"
    path.write_text(SMALL)
    return path


@pytest.fixture
def no_library() -> Iterator[None]:
    """As in a process that has not asked for the library yet."""
    engine._library.cache_clear()
    yield
    engine._library.cache_clear()


def test_without_a_compiler_a_line_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, no_library: None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert fused_engine(SHAPE, BATCH) is None
    assert fused_engine(SHAPE, BATCH + 1) is None
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (
            logging.WARNING,
            "updates run in PyTorch, which takes two to five times as long: there is no C++ compiler "
            "(on Debian or Ubuntu: sudo apt install g++)",
        )
    ]


@pytest.mark.parametrize("compiler", ["false", "no-such-program"])
def test_a_compiler_that_does_not_work_is_none(
    compiler: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, no_library: None
) -> None:
    monkeypatch.setenv("CXX", compiler)
    assert fused_engine(SHAPE, BATCH) is None
    assert compiler in caplog.text


def test_a_source_that_does_not_compile_says_where(source: Path, tmp_path: Path) -> None:
    source.write_text("int f() { return x; }\n")
    with pytest.raises(FusedBuildError, match=r"small\.cc.*failed:\n(?s:.*)small\.cc:1:18: error"):
        load_library(source, tmp_path / "cache")


def test_a_compiler_that_hangs_is_given_up(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("CXX", str(slow))
    monkeypatch.setattr(build, "_COMPILE_S", 0.1)
    with pytest.raises(FusedBuildError, match=r"took longer than 0\.1 s"):
        load_library(source, tmp_path / "cache")


def test_a_folder_that_cannot_be_made_is_named(source: Path) -> None:
    with pytest.raises(FusedBuildError, match=r"small\.cc"):
        load_library(source, source / "cache")


def library_in(folder: Path) -> Path:
    (library,) = folder.glob("*.so")
    return library


def test_compiled_once_and_again_only_if_something_is_another(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    load_library(source, folder)
    library = library_in(folder)
    written = library.stat().st_mtime_ns
    load_library(source, folder)
    assert library.stat().st_mtime_ns == written
    source.write_text(SMALL + "// another one\n")
    load_library(source, folder)
    assert len(list(folder.glob("*.so"))) == 2
    monkeypatch.setattr(build, "_cpu_features", lambda: [b"flags: another CPU"])
    load_library(source, folder)
    assert len(list(folder.glob("*.so"))) == 3


@pytest.mark.parametrize("broken", [b"", b"torn", None])
def test_a_torn_library_is_compiled_again(broken: bytes | None, source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    load_library(source, folder)
    library = library_in(folder)
    whole = library.read_bytes()
    library.unlink()  # the loaded one keeps its own
    library.write_bytes(whole[: len(whole) // 2] if broken is None else broken)
    load_library(source, folder)
    assert len(library.read_bytes()) == len(whole)


def test_processes_that_start_at_once_compile_once(source: Path, tmp_path: Path) -> None:
    folder, calls = tmp_path / "cache", tmp_path / "calls"
    counting = tmp_path / "counting"
    counting.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec c++ "$@"\n')
    counting.chmod(0o755)
    script = (
        "import sys; from pathlib import Path; from learner.fused.build import load_library\n"
        "load_library(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(source), str(folder)], env={**os.environ, "CXX": str(counting)}
        )
        for _ in range(3)
    ]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert calls.read_text().count("small.cc") == 1
    assert [path.suffix for path in sorted(folder.iterdir())] == [".lock", ".so"]


def test_without_a_home_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(FusedBuildError, match="set XDG_CACHE_HOME"):
        load_library()
