"""The real gzserver: as a fleet's process and as a private one; its arms move as their URDF says."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pinocchio as pin
import pytest

import robot_nodes.gazebo.server
from fleet.config import FleetConfig
from fleet.config_file import load_fleet, save_fleet
from fleet.ready import READY_FD_VARIABLE
from robot_nodes.gazebo.connection import GazeboConnection
from robot_nodes.gazebo.gazebo_arm import GazeboArm
from robot_nodes.gazebo.installation import GazeboError, GazeboInstallation
from robot_nodes.gazebo.private_gazebo import PrivateGazebo
from robot_nodes.gazebo.server_state import lock_file, read_state, state_file
from robot_nodes.kinematics import Kinematics
from robot_nodes.urdf_source import load_urdf

pytestmark = pytest.mark.usefixtures("gazebo")

DT_S = 0.001
OVERRIDE = (
    f"override={{sim: {{simulator: gazebo, command_interface: effort, speed: 0.0, timestep_s: {DT_S}}}, "
    "topics: {joint_states: states, command: commands}}"
)
KINDS = {"generic": "generic_arm7", "fr3": "franka_fr3", "gen3": "kinova_gen3", "xarm": "xarm7"}
SERVER = (
    "import sys; from pathlib import Path; from fleet.config_file import load_fleet;"
    "from robot_nodes.gazebo.server import run_server;"
    "run_server(load_fleet(sys.argv[1]), 'world', Path(sys.argv[2]))"
)
FOUR_ARMS = "robots=[{}]".format(
    ", ".join(f"{{id: {i}, robot: ../robots/{k}.yaml}}" for i, k in KINDS.items())
)


# A fleet's gzserver ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet() -> FleetConfig:
    """Four kinds of arms in one world."""
    return load_fleet("fleets/sim2.yaml", [FOUR_ARMS, OVERRIDE, "goal=null"])


@pytest.fixture(scope="module")
def run_dir(
    fleet: FleetConfig, gazebo: GazeboInstallation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Of a gzserver with that world, which is ready."""
    folder = tmp_path_factory.mktemp("run")
    save_fleet(fleet, folder / "config.yaml")
    state_file(folder, "world").parent.mkdir(parents=True)
    state_file(folder, "world").write_text('{"port": 1, "pid": 1}')  # stale
    read_fd, write_fd = os.pipe()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(folder / "config.yaml"), str(folder)],
            env=os.environ | {READY_FD_VARIABLE: str(write_fd)},
            pass_fds=(write_fd,),
            stdout=log,
            stderr=log,
        )
    os.close(write_fd)
    try:
        assert os.read(read_fd, 1) == b"1", (folder / "log").read_text()
        assert read_state(state_file(folder, "world"))["pid"] == process.pid, "it has become gzserver"
        yield folder
        process.terminate()
        assert process.wait(10) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
        os.close(read_fd)


@pytest.fixture(scope="module")
def world(fleet: FleetConfig, run_dir: Path) -> Iterator[GazeboConnection]:
    """A connection that has bound all joints, in lock-step."""
    with GazeboConnection(int(read_state(state_file(run_dir, "world"))["port"])) as connection:
        connection.bind([f"{e.id}::{joint} effort" for e in fleet.robots for joint in e.robot.joints])
        connection.hold()
        yield connection


def test_the_server_says_where_it_is(run_dir: Path) -> None:
    state = json.loads(state_file(run_dir, "world").read_text())
    assert set(state) == {"port", "pid", "master_uri", "world"}
    assert state["master_uri"].startswith("http://127.0.0.1:")
    assert (run_dir / "gazebo/world/world.sdf").is_file()


def test_a_second_server_of_a_world_is_refused_and_changes_nothing(run_dir: Path) -> None:
    def files() -> dict[str, bytes]:
        return {name: (run_dir / "gazebo/world" / name).read_bytes() for name in ("server.json", "world.sdf")}

    before = files()
    argv = [sys.executable, "-c", SERVER, str(run_dir / "config.yaml"), str(run_dir)]
    second = subprocess.run(argv, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert second.returncode == 1
    folder = run_dir / "gazebo/world"
    assert f"GazeboError: Gazebo world 'world' in {folder} has a gzserver already: end" in second.stderr
    assert files() == before
    assert lock_file(run_dir, "world").read_text() == str(read_state(state_file(run_dir, "world"))["pid"])


@pytest.mark.parametrize("robot_id", KINDS)
def test_torques_accelerate_an_arm_as_its_urdf_says(
    fleet: FleetConfig, world: GazeboConnection, robot_id: str
) -> None:
    """Masses, inertias, axes and places are all in this: Pinocchio's inverse dynamics of the same URDF."""
    ids = [entry.id for entry in fleet.robots]
    mine = slice(7 * ids.index(robot_id), 7 * ids.index(robot_id) + 7)
    home = np.concatenate([entry.robot.reset.home_rad for entry in fleet.robots])

    def after(q: np.ndarray, torques: np.ndarray) -> np.ndarray:
        position, command = home.copy(), np.zeros(len(home))
        position[mine], command[mine] = q, torques
        world.reset(position)
        world.command(command)
        return world.step(1).velocity[mine]

    check_dynamics(fleet, robot_id, after)


def check_dynamics(
    fleet: FleetConfig, robot_id: str, after: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    """Compare velocities after one step from rest, with torques for random accelerations, with those."""
    robot = fleet.entry(robot_id).robot
    kinematics = Kinematics(load_urdf(robot.urdf), robot.joints, robot.tool_link)
    model, data = kinematics.model, kinematics.model.createData()
    assert list(model.names)[1:] == robot.joints
    rng = np.random.default_rng(1)
    low, high = np.array(robot.limits.position_low_rad), np.array(robot.limits.position_high_rad)
    for _ in range(5):
        q, acceleration = rng.uniform(low, high), rng.uniform(-1.0, 1.0, len(low))
        torques = pin.rnea(model, data, q, np.zeros(len(q)), acceleration)
        assert (np.abs(torques) < model.upperEffortLimit).all()
        np.testing.assert_allclose(after(q, torques) / DT_S, acceleration, atol=0.01)  # of up to 1 rad/s²


# A private one -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ur5e_fleet() -> FleetConfig:
    return load_fleet("fleets/sim2.yaml", ["robot=../robots/ur5e.yaml", OVERRIDE])


@pytest.fixture(scope="module")
def private(ur5e_fleet: FleetConfig, gazebo: GazeboInstallation) -> Iterator[PrivateGazebo]:
    with PrivateGazebo(ur5e_fleet, "robot2") as private:
        yield private


@pytest.fixture
def arm(private: PrivateGazebo) -> Iterator[GazeboArm]:
    arm = private.arm()
    yield arm
    arm.close()


def test_an_arm_of_six_joints_moves_as_its_urdf_says(ur5e_fleet: FleetConfig, arm: GazeboArm) -> None:
    def after(q: np.ndarray, torques: np.ndarray) -> np.ndarray:
        arm.reset(q)
        arm.command(torques)
        arm.step(DT_S)
        return arm.qd

    check_dynamics(ur5e_fleet, "robot2", after)


def test_an_arm_can_be_taken_over_again_and_again(private: PrivateGazebo, arm: GazeboArm) -> None:
    arm.step(0.01)
    arm.close()
    with contextlib.closing(private.arm(np.random.default_rng(0))) as again:
        again.reset()
        assert 0 < np.abs(again.q - [0.0, -1.57, 1.57, -1.57, -1.57, 0.0]).max() <= 0.2, "near home"


def test_a_fleet_of_another_simulator_will_do_and_is_closed_for_good() -> None:
    with PrivateGazebo(load_fleet("fleets/sim2.yaml"), "robot1") as private:
        arm = private.arm()
        pid = private.pid
        folder = Path(os.readlink(f"/proc/{pid}/fd/1")).parent  # of its log
        arm.command(np.full(7, 0.2))
        arm.step(0.5)
        np.testing.assert_allclose(arm.qd, 0.2, atol=1e-3)
        arm.close()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    private.close()


def test_a_world_that_gazebo_cannot_load_is_shown_with_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    world_sdf = robot_nodes.gazebo.server.world_sdf

    def broken(*arguments: object) -> str:
        return world_sdf(*arguments).replace("<parent>link_1<", "<parent>nowhere<")  # type: ignore[arg-type]

    monkeypatch.setattr("robot_nodes.gazebo.server.world_sdf", broken)
    with pytest.raises(
        GazeboError, match=r"(?s)gzserver ended; the end of its log:.*no joint 'robot1::joint_2'"
    ):
        PrivateGazebo(load_fleet("fleets/sim2.yaml"), "robot1").__enter__()


def test_real_hardware_is_not_simulated() -> None:
    fleet = load_fleet("fleets/sim2.yaml", ["robot=../robots/generic_arm7.yaml"])
    with pytest.raises(ValueError, match="'generic_arm7' has no sim group"):
        PrivateGazebo(fleet, "robot1")


def test_it_dies_with_who_started_it(wait_until: Callable[..., None]) -> None:
    script = (
        "import signal, sys; from fleet.config_file import load_fleet;"
        "from robot_nodes.gazebo.private_gazebo import PrivateGazebo;"
        "private = PrivateGazebo(load_fleet('fleets/sim2.yaml'), 'robot1').__enter__();"
        "print(private.pid, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = owner.stdout.readline().strip()
        folder = Path(os.readlink(f"/proc/{pid}/fd/1")).parent
        owner.kill()
        wait_until(lambda: not Path("/proc", pid).exists(), what="gzserver ends")
    shutil.rmtree(folder)
