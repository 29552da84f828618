from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from learner.sealed_folder import (
    MANIFEST_FILE,
    DamagedFolderError,
    read_sealed,
    remove_sealed,
    sweep,
    write_sealed,
)

FILES = {"a.bin": bytes(range(256)), "b.bin": b""}
FACTS = {"updates": 3, "run_id": "run", "normal": [1.5, None]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_sealed(tmp_path / "parent" / "7", FILES, FACTS)
    return tmp_path / "parent" / "7"


def test_what_was_written_is_read(folder: Path) -> None:
    assert read_sealed(folder) == (FACTS, FILES)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["7"]
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    assert {name: entry["bytes"] for name, entry in manifest["files"].items()} == {"a.bin": 256, "b.bin": 0}


@pytest.mark.parametrize("name", ["a.bin", "b.bin", MANIFEST_FILE])
def test_every_damage_is_found_and_names_the_file(folder: Path, name: str) -> None:
    file = folder / name
    whole = file.read_bytes()
    damages = [whole[:-1], whole + b"x", b"x"]
    damages += [whole[:i] + bytes([whole[i] ^ 2]) + whole[i + 1 :] for i in range(len(whole))]
    for damage in {*damages} - {whole}:
        file.write_bytes(damage)
        with pytest.raises(DamagedFolderError, match=f"{name}: is damaged"):
            read_sealed(folder)
    file.unlink()
    with pytest.raises(DamagedFolderError, match=f"{name}: cannot be read: No such file"):
        read_sealed(folder)
    file.write_bytes(whole)
    assert read_sealed(folder) == (FACTS, FILES)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b'{"checksum": 3}', b"nul"])
def test_a_manifest_that_is_none_is_damage(folder: Path, text: bytes) -> None:
    (folder / MANIFEST_FILE).write_bytes(text)
    with pytest.raises(DamagedFolderError, match=r"manifest\.json: is damaged"):
        read_sealed(folder)


def test_a_disk_that_fills_up_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError):
            write_sealed(tmp_path / "7", {"small": b"x" * 50, "large": b"x" * 5000}, FACTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    write_sealed(tmp_path / "7", {"large": b"x" * 5000}, FACTS)


def test_remove_and_sweep(folder: Path) -> None:
    (folder.parent / ".8.tmp").mkdir()
    (folder.parent / ".8.tmp" / "a.bin").write_bytes(b"half")
    (folder.parent / "policy_version").touch()
    remove_sealed(folder)
    remove_sealed(folder.parent / "never was")
    sweep(folder.parent)
    assert [path.name for path in folder.parent.iterdir()] == ["policy_version"]


# A parent that never imports PyTorch again forks savers, kills each at another moment, and looks.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from fleet.config import LearnerConfig
from fleet.spaces import Space, SpaceSpec
from learner.checkpoint import Progress, list_checkpoints, load_checkpoint, save_checkpoint
from learner.publisher import policy_message
from learner.trainer import Trainer

torch.set_num_threads(1)
folder, kills = Path(sys.argv[1]), int(sys.argv[2])
space = Space(("x", "y"), ("1", "1"), (-1.0, -1.0), (1.0, 1.0))
def make():
    return Trainer(LearnerConfig(hidden_sizes=[32, 32], batch_size=4), SpaceSpec(space, space))

def save(trainer):
    trainer.updates += 1
    trainer.target.fill_(trainer.updates)
    policy = policy_message(trainer, "run", trainer.updates, 0.1, 0)
    progress = Progress("run", trainer.updates, trainer.updates, 10 * trainer.updates)
    save_checkpoint(folder, trainer, progress, policy, keep=2)

rng = random.Random(0)
reported = leftovers = 0
trainer, reader = make(), make()
for _ in range(3):
    start = time.monotonic()
    save(trainer)
    save_s = time.monotonic() - start  # of the last one: the first is slow
for kill in range(kills):
    out, pipe = os.pipe()
    child = os.fork()
    if not child:
        try:
            while True:
                save(trainer)
                os.write(pipe, trainer.updates.to_bytes(4, "little"))
        finally:
            os._exit(1)
    os.close(pipe)
    time.sleep(rng.uniform(0.0, 4 * save_s))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the saver failed"
    with os.fdopen(out, "rb") as rest:
        data = rest.read()
    reported = max(reported, int.from_bytes(data[-4:], "little"))
    leftovers += any(folder.glob(".*.tmp"))
    checkpoints = list_checkpoints(folder)
    assert checkpoints  # some above `keep` when a kill came just before the old ones went
    for path in checkpoints:
        progress = load_checkpoint(path, reader, "run")
        assert progress.cursor == 10 * reader.updates and bool((reader.target == reader.updates).all())
    assert reader.updates >= reported, (reader.updates, reported)
    load_checkpoint(checkpoints[-1], trainer, "run")
policy = policy_message(trainer, "run", 10**9, 0.1, 0)
save_checkpoint(folder, trainer, Progress("run", 10**9, 0, 0), policy, keep=2)
assert not any(folder.glob(".*.tmp")) and len(list_checkpoints(folder)) == 2
print(kills, leftovers, reader.updates)
"""


def test_whenever_the_saver_is_killed_the_newest_checkpoint_is_whole(tmp_path: Path) -> None:
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", KILLER, str(tmp_path / "checkpoints"), "100"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    kills, leftovers, updates = map(int, result.stdout.split())
    assert kills == 100
    assert leftovers > 10, "hardly any kill met a save: it proves nothing"
    assert updates > 10, "hardly any save was finished: it proves nothing"
