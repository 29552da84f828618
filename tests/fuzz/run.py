"""Run the fuzz targets one after the other, each for some time: `make fuzz`, or

    python tests/fuzz/run.py --seconds 60 codec records

Each begins with its seeds, the committed corpus and what earlier runs found in .fuzz/TARGET. A crash,
a timeout or too much memory ends it; the input that did it is kept in .fuzz/ and
`python tests/fuzz/run.py TARGET --input FILE` repeats it, without the fuzzer.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
WORK = HERE.parents[1] / ".fuzz"
TARGETS = ("codec", "records", "policy", "replay")
EDGES_ONLY = ("policy", "replay")
"""Targets whose corpus would be too large if it kept how often each edge is taken, too."""
INSTRUMENTED = ["fleet", "replay_server", "robot_nodes"]
TIMEOUT_S = 10
RSS_LIMIT_MIB = 1024


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Fuzz the decoder, the record files, policies and the server."
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all if none")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--input", type=Path, help="only check the one target with this file")
    parser.add_argument(
        "--minimise", action="store_true", help="put the smallest corpus into tests/fuzz/corpus"
    )
    parser.add_argument("--child", nargs=argparse.REMAINDER, default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    targets = options.targets or TARGETS
    if options.child:
        fuzz(targets[0], options.child)
        return 0
    if options.input:
        load(targets[0]).check(options.input.read_bytes())
        say(f"{options.input} is fine")
        return 0
    act = minimise if options.minimise else lambda target: campaign(target, options.seconds)
    return 0 if all([act(target) for target in targets]) else 1


def load(target: str) -> ModuleType:
    return importlib.import_module(f"fuzz_{target}")


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def campaign(target: str, seconds: int) -> bool:
    """Fuzz one target for some time; False if something was found."""
    work, corpus = WORK / target, CORPUS / target
    for folder in (work, corpus):
        folder.mkdir(parents=True, exist_ok=True)
    known = {path.name for path in WORK.glob(f"{target}-*")}
    for index, seed in enumerate(load(target).seeds()):
        (work / f"seed{index:02d}").write_bytes(seed)
    say(f"== {target}: {seconds} s")
    arguments = [f"-max_total_time={seconds}", f"-artifact_prefix={WORK}/{target}-", "-print_final_stats=1"]
    done = run_child(target, [*arguments, str(work), str(corpus)])
    if done == 0:
        return True
    say(f"== {target}: FOUND something (exit status {done})")
    for path in sorted(WORK.glob(f"{target}-*")):
        if path.name not in known:
            say(f"== the input is in {path}")
            say(f"== to repeat it: {sys.executable} {Path(__file__)} {target} --input {path}")
    return False


def minimise(target: str) -> bool:
    """Replace the committed corpus by the fewest and smallest inputs that reach as much."""
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    how = ["-set_cover_merge=1", f"-use_counters={int(target not in EDGES_ONLY)}"]
    with tempfile.TemporaryDirectory() as folder:
        done = run_child(target, [*how, folder, str(CORPUS / target), str(WORK / target)])
        if done == 0:
            for old in (CORPUS / target).iterdir():
                old.unlink()
            for path in sorted(Path(folder).iterdir()):
                (CORPUS / target / path.name[:16]).write_bytes(path.read_bytes())
    return done == 0


def run_child(target: str, arguments: list[str]) -> int:
    """libFuzzer ends the process it runs in, so it gets one of its own."""
    limits = [
        f"-timeout={TIMEOUT_S}",
        f"-rss_limit_mb={RSS_LIMIT_MIB}",
        f"-malloc_limit_mb={RSS_LIMIT_MIB // 2}",
    ]
    limits.append(f"-max_len={load(target).MAX_BYTES}")
    command = [sys.executable, __file__, target, "--child", *limits, *arguments]
    return subprocess.run(command, check=False).returncode


def fuzz(target: str, arguments: list[str]) -> None:
    """Give this process to libFuzzer."""
    import atheris

    logging.disable()  # what it says about thousands of wrong messages a second
    with atheris.instrument_imports(include=INSTRUMENTED):
        module = load(target)

    def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
        return module.mutate(data, max_bytes, random.Random(seed), atheris.Mutate)

    # libFuzzer hands its first argument to the shell when it runs itself again, to minimise.
    itself = f"{sys.executable} {__file__} {target} --child"
    atheris.Setup([itself, *arguments], module.check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
