"""setup.cfg, package.xml, the lock and the code agree with each other."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
SCRIPTS = dict(
    re.split(r"\s*=\s*", line)
    for line in SETUP["options.entry_points"]["console_scripts"].strip().splitlines()
)
LOCK = [
    line
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
]


def names(requirements: str) -> set[str]:
    """Distribution names, normalised as PyPI does."""
    found = (re.match(r"[\w.-]+", line) for line in requirements.strip().splitlines())
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


def test_package_xml_agrees_with_setup_cfg() -> None:
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    assert manifest.findtext("name") == SETUP["metadata"]["name"].replace("-", "_")
    assert manifest.findtext("version") == SETUP["metadata"]["version"]
    assert manifest.findtext("license") == SETUP["metadata"]["license"]
    assert manifest.findtext("export/build_type") == "ament_python"
    assert (ROOT / "resource" / "parallel_naf").is_file()


def test_every_ros_package_of_the_wheels_is_in_package_xml() -> None:
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    declared = {element.text for element in manifest.findall("exec_depend")}
    wheels = names(SETUP["options.extras_require"]["ros"])
    assert {wheel.removeprefix("ros-kilted-").replace("-", "_") for wheel in wheels} <= declared


def test_every_requirement_is_locked() -> None:
    wanted = names(SETUP["options"]["install_requires"])
    for extra in SETUP["options.extras_require"].values():
        wanted |= names(extra)
    assert wanted - names("\n".join(LOCK)) == set()


def test_lock_lines_are_exact_public_versions() -> None:
    """No local label (torch+cpu is on one index only), no URL, no range."""
    marker = r'python_version >= "3\.1[14]"( and python_version < "3\.14")?'
    line_format = re.compile(rf"[a-z0-9-]+==[0-9][\w.]*( ; {marker})?")
    assert [line for line in LOCK if not line_format.fullmatch(line)] == []


@pytest.mark.parametrize(("script", "target"), SCRIPTS.items(), ids=SCRIPTS)
def test_entry_point_resolves(script: str, target: str) -> None:
    module, _, attribute = target.partition(":")
    code = f"import {module}; assert callable({module}.{attribute})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_installed_version_is_that_of_setup_cfg() -> None:
    assert importlib.metadata.version("parallel-naf") == SETUP["metadata"]["version"]


def test_setup_py_gives_plain_values_that_colcon_can_read() -> None:
    """colcon reads options back from their repr: python_requires in setup.cfg would be an object."""
    code = """
import setuptools
from distutils.core import run_setup
keys = ("python_requires", "data_files", "packages", "package_data")
options = run_setup("setup.py", script_args=["--dry-run"], stop_after="config")
print(repr({key: getattr(options, key) for key in keys}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    options = ast.literal_eval(done.stdout)
    assert options["python_requires"] == ">=3.10"
    assert options["package_data"]["robot_nodes.gazebo"] == ["plugin/*.cc"]
    assert options["package_data"]["learner.fused"] == ["*.cc"]
    installed = dict(options["data_files"])
    assert installed["share/ament_index/resource_index/packages"] == ["resource/parallel_naf"]
    assert "package.xml" in installed["share/parallel_naf"]
    assert "launch/fleet.launch.py" in installed["share/parallel_naf/launch"]
    for file in ("fleets/sim2.yaml", "urdf/ur5e.urdf", "systemd/pnaf-robot@.service"):
        path = Path("hardware_configs") / file
        assert str(path) in installed[f"share/parallel_naf/{path.parent}"]
        assert ".".join(path.parent.parts) in options["packages"]
