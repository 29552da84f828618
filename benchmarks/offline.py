"""How fast logs are read, made ready for training and exported; against h5py and against the disk.

Logs of `--rows` transitions of the size of reach (20 + 7 numbers) in episodes of 80, written as a fleet's
replay server writes them. Every way to read them is timed in the same run, files out of the page cache
(`cold`: the kernel is told to forget them) and in it (`warm`):

    bytes of the files      each file read whole, nothing done with it: the limit
    h5py                    each file opened with h5py and every dataset read
    logs                    `open_logs(…).read()`: through the catalog, every checksum checked
    training rows           `RowStore.build`: that, packed and written as the file that training maps
    scan, no catalog        facts about every episode, from the files
    scan, catalog           the same, from the catalog

Minibatches of 64 rows are gathered from those training rows as training does, and from the same rows in
memory. `memory MB` is by how much this process grew, mapped files left out, until the training rows were
made and 20,000 minibatches drawn. Exports are timed from logs to a finished file.

    python benchmarks/offline.py --rows 200000 --json offline.json
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
# `fleet` is the package and not the script beside this one, however this script was started.
sys.path[:] = [str(ROOT), *(path for path in sys.path if path != str(ROOT / "benchmarks"))]

from benchmarks.common.table import show
from fleet.messages import Transitions
from fleet.spaces import Space, SpaceSpec
from learner.mirror import ReplayMirror
from learner.row_store import RowStore
from replay_server.episode_file import DATASETS
from replay_server.log_writer import LogWriter, new_info
from replay_server.logs import Logs, open_logs

NX, NU, EPISODE_ROWS, BATCH = 20, 7, 80, 64
SPEC = SpaceSpec(
    *(
        Space(tuple(f"{letter}{i}" for i in range(n)), ("1",) * n, (-1.0,) * n, (1.0,) * n)
        for letter, n in (("x", NX), ("u", NU))
    )
)


def make_logs(folder: Path, rows: int) -> None:
    """Episodes of one robot, random numbers in them."""
    rng = np.random.default_rng(0)
    with LogWriter(folder, SPEC, "made by a benchmark") as writer:
        for episode in range(rows // EPISODE_ROWS):
            state = rng.normal(size=(EPISODE_ROWS + 1, NX)).astype("f4")
            action = rng.uniform(-1, 1, (EPISODE_ROWS, NU)).astype("f4")
            no = np.zeros(EPISODE_ROWS, bool)
            transitions = Transitions(
                observation=state[:-1],
                action=action,
                policy_action=action,
                reward=rng.normal(size=EPISODE_ROWS).astype("f4"),
                next_observation=state[1:],
                terminated=no,
                truncated=np.arange(EPISODE_ROWS) == EPISODE_ROWS - 1,
                intervened=no,
                clipped=no,
                policy_version=np.full(EPISODE_ROWS, episode),
                stamp_ns=(episode * 100 + np.arange(EPISODE_ROWS)) * 50_000_000,
            )
            writer.add(
                new_info(
                    "robot1", "b0", episode, received_ns=episode, end="time_limit", success=True,
                    metrics={"return": 0.0}, task="reach",
                ),
                transitions,
            )  # fmt: skip


def files_of(folder: Path) -> list[Path]:
    return sorted((folder / "episodes").rglob("*.h5"))


def forget(folder: Path) -> None:
    """Let the page cache forget a folder's files."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def read_bytes(folder: Path) -> None:
    for path in files_of(folder):
        path.read_bytes()


def read_h5py(folder: Path) -> None:
    for path in files_of(folder):
        with h5py.File(path, "r") as file:
            for name in DATASETS:
                file[name][()]


def read_logs(folder: Path) -> None:
    for _ in open_logs([folder]).read():
        pass


def build_rows(folder: Path) -> None:
    shutil.rmtree(folder.parent / "rows", ignore_errors=True)
    RowStore.build(folder.parent / "rows", open_logs([folder]))


def scan_files(folder: Path) -> None:
    (folder / "episodes" / "catalog").unlink(missing_ok=True)
    open_logs([folder])


def scan_catalog(folder: Path) -> None:
    open_logs([folder])


READS: dict[str, Callable[[Path], None]] = {
    "bytes of the files": read_bytes,
    "h5py": read_h5py,
    "logs": read_logs,
    "training rows": build_rows,
    "scan, no catalog": scan_files,
    "scan, catalog": scan_catalog,
}


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure_reads(folder: Path, rows: int, repeats: int) -> list[dict[str, Any]]:
    """A row of the table for each way to read; the fastest of `repeats`."""
    cold, warm = dict.fromkeys(READS, np.inf), dict.fromkeys(READS, np.inf)
    for _ in range(repeats):  # in turns, so that a busy moment hits all of them
        for name, read in READS.items():
            forget(folder)
            cold[name] = min(cold[name], seconds(lambda read=read: read(folder)))
            warm[name] = min(warm[name], seconds(lambda read=read: read(folder)))
    mb = sum(path.stat().st_size for path in files_of(folder)) / 1e6
    return [
        {
            "read": name,
            "rows/s cold": round(rows / cold[name]),
            "rows/s warm": round(rows / warm[name]),
            "MB/s warm": round(mb / warm[name]),
            "× h5py warm": warm["h5py"] / warm[name],
            "of the bytes' speed": warm["bytes of the files"] / warm[name],
        }
        for name in READS
    ]


def measure_minibatches(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Minibatches per second, from the mapped file and from memory."""
    file = RowStore.open(folder.parent / "rows").file
    mirrors = {
        "mapped file": ReplayMirror.of(file.values, file.layout, file.demonstrations),
        "memory": ReplayMirror.of(file.values.clone(), file.layout, file.demonstrations),
    }
    best = dict.fromkeys(mirrors, np.inf)
    for _ in range(repeats):
        for name, mirror in mirrors.items():
            generator = torch.Generator().manual_seed(0)

            def gather(mirror: ReplayMirror = mirror, generator: torch.Generator = generator) -> None:
                for _ in range(2000):
                    mirror.sample(generator, BATCH)

            best[name] = min(best[name], seconds(gather))
    return [{"minibatches of 64 from": name, "a second": round(2000 / best[name])} for name in mirrors]


def own_memory_mb() -> float:
    """Memory of this process that no file backs."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) / 1e3


def measure_memory(folder: Path, rows: int) -> list[dict[str, Any]]:
    """What it takes to train from logs, in memory."""
    before = own_memory_mb()
    build_rows(folder)
    file = RowStore.open(folder.parent / "rows").file
    mirror = ReplayMirror.of(file.values, file.layout, file.demonstrations)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20_000):
        mirror.sample(generator, BATCH)
    mb = file.values.numel() * 4e-6
    return [{"rows": rows, "MB of rows": round(mb), "memory MB": round(own_memory_mb() - before, 1)}]


def measure_exports(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Rows per second of each export."""
    from replay_server.exchange.lerobot import export_lerobot
    from replay_server.exchange.minari import export_minari
    from replay_server.exchange.robomimic import export_robomimic

    exports: dict[str, Callable[[Logs, Path], Any]] = {
        "robomimic": lambda logs, out: export_robomimic(logs, out.with_suffix(".hdf5")),
        "minari": lambda logs, out: export_minari(logs, out / "lab" / "logs-v0"),
        "lerobot": lambda logs, out: export_lerobot(logs, out),
    }
    table = []
    for name, export in exports.items():
        took_s = seconds(lambda export=export, name=name: export(open_logs([folder]), folder.parent / name))
        table.append({"export": name, "rows/s": round(rows / took_s)})
    return table


def main() -> None:
    """Measure, print and save."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None, help="one file a table: NAME-reads.json, …")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = arguments.rows // EPISODE_ROWS * EPISODE_ROWS
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "logs"
        took_s = seconds(lambda: make_logs(folder, rows))
        print(f"{rows:,} rows in {rows // EPISODE_ROWS:,} files, written at {rows / took_s:,.0f} rows/s")
        tables = {
            "memory": measure_memory(folder, rows),
            "reads": measure_reads(folder, rows, arguments.repeats),
            "minibatches": measure_minibatches(folder, arguments.repeats),
            "exports": measure_exports(folder, rows),
        }
    for name, table in tables.items():
        path = arguments.json and arguments.json.with_name(f"{arguments.json.stem}-{name}.json")
        show(f"Logs: {name}", table, path)


if __name__ == "__main__":
    main()
