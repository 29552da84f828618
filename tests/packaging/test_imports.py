"""Imports flow one way: what a package must not pull in is not in sys.modules after importing all of it."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Modules whose import must stay light: they run in every process.
FLEET_CORE = ["fleet.messages", "fleet.codec", "fleet.spaces", "fleet.config", "fleet.sockets"]

# Reports the first module whose import brought something forbidden.
PROBE = """
import importlib, sys
forbidden = sys.argv[1].split(",")
for module in sys.argv[2:]:
    importlib.import_module(module)
    found = [name for name in forbidden if name in sys.modules]
    if found:
        sys.exit(f"importing {module} pulls in {', '.join(found)}")
"""


def modules_of(package: str) -> list[str]:
    """All modules of a package of this checkout, found without importing any."""

    def walk(folder: Path, prefix: str) -> list[str]:
        names = []
        for info in pkgutil.iter_modules([str(folder)], prefix):
            if info.name.rpartition(".")[2] == "__main__":
                continue  # would run
            names.append(info.name)
            if info.ispkg:
                names += walk(folder / info.name.rpartition(".")[2], f"{info.name}.")
        return names

    return [package, *walk(ROOT / package, f"{package}.")]


def import_all(modules: list[str], forbidden: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROBE, ",".join(forbidden), *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (FLEET_CORE, ["torch", "rclpy", "h5py", "mujoco", "replay_server", "learner", "robot_nodes"]),
        (modules_of("fleet"), ["torch", "rclpy"]),
        (modules_of("replay_server"), ["torch", "rclpy", "learner", "robot_nodes"]),
        (modules_of("learner"), ["rclpy", "robot_nodes"]),
        (modules_of("robot_nodes"), ["torch", "learner"]),
    ],
    ids=["fleet core", "fleet", "replay_server", "learner", "robot_nodes"],
)
def test_package_does_not_import(modules: list[str], forbidden: list[str]) -> None:
    done = import_all(modules, forbidden)
    assert done.returncode == 0, done.stderr


def test_the_probe_can_fail() -> None:
    done = import_all(["json", "fleet.config"], ["pydantic"])
    assert done.returncode == 1
    assert done.stderr.strip() == "importing fleet.config pulls in pydantic"


def test_modules_of_finds_subpackages() -> None:
    found = modules_of("robot_nodes")
    assert {"robot_nodes", "robot_nodes.sim", "robot_nodes.tasks"} <= set(found)
