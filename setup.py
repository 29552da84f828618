"""Makes this repository the pip package parallel-naf and the ament_python package parallel_naf.

Everything that is fixed stands in setup.cfg; here is only what has to be collected from the folders.
"""

from collections import defaultdict
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
NAME = "parallel_naf"
SHARE = f"share/{NAME}"

code = find_packages(
    include=[p + s for p in ("fleet", "replay_server", "learner", "robot_nodes") for s in ("", ".*")]
)
config_files = sorted(p.relative_to(ROOT) for p in (ROOT / "hardware_configs").rglob("*") if p.is_file())
config_folders = sorted({p.parent for p in config_files} | {Path("hardware_configs")})

# ROS tools look under share/: the package's marker, its manifest, launch files and configs.
shared = defaultdict(list)
shared["share/ament_index/resource_index/packages"] = [f"resource/{NAME}"]
shared[SHARE] = ["package.xml"]
shared[f"{SHARE}/launch"] = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "launch").glob("*.py"))
for path in config_files:
    shared[f"{SHARE}/{path.parent}"].append(str(path))

setup(
    # Not in setup.cfg: there setuptools turns it into an object that colcon cannot read back.
    python_requires=">=3.10",
    # The configs are data without __init__.py, yet listed as packages: so they are installed beside
    # the fleet package, where fleet/config_file.py finds them in a checkout as in site-packages.
    packages=[*code, *(".".join(folder.parts) for folder in config_folders)],
    package_data={
        "": ["py.typed"],
        "robot_nodes.gazebo": ["plugin/*.cc"],  # compiled where it is used, for the Gazebo that is there
        "learner.fused": ["*.cc"],  # likewise, for the CPU that is there
        **{".".join(folder.parts): ["*"] for folder in config_folders},
    },
    data_files=sorted(shared.items()),
)
