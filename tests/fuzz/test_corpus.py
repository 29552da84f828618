"""What the fuzzer found worth keeping is checked again, without the fuzzer: `make fuzz` searches on."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
TARGETS = ("codec", "records", "policy", "replay")


@pytest.fixture
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(HERE)
    return importlib.import_module(f"fuzz_{request.param}")


def corpus(name: str) -> list[Path]:
    return sorted((HERE / "corpus" / name).iterdir())


@pytest.mark.parametrize("target", TARGETS, indirect=True)
def test_every_seed_passes(target: ModuleType) -> None:
    for seed in target.seeds():
        target.check(seed)


@pytest.mark.parametrize(
    ("target", "path"),
    [(name, path) for name in TARGETS for path in corpus(name)],
    indirect=["target"],
    ids=lambda value: value.name[:8] if isinstance(value, Path) else value,
)
def test_every_input_of_the_corpus_passes(target: ModuleType, path: Path) -> None:
    target.check(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_small(name: str) -> None:
    files = corpus(name)
    assert 0 < len(files) < 200
    assert sum(path.stat().st_size for path in files) < 200_000
