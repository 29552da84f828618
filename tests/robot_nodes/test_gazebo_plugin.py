"""The world plugin, in a real gzserver: its protocol, lock-step, resets, motors, and what it survives."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robot_nodes.gazebo.connection import GazeboConnection, GazeboConnectionError, Kind, State
from robot_nodes.gazebo.installation import GazeboInstallation

# Two arms of two joints and a latched door. Joint 1 turns about the vertical axis, joint 2 lifts 2 kg at
# 0.5 m: held level it needs 2 · 9.81 · 0.5 N m; seen from joint 1 the inertia is then
# 0.1 + 0.1 + 2 · 0.5² = 0.7 kg m².
ARM = """
<model name="{name}">
  <pose>0 {y} 1 0 0 0</pose>
  <link name="base"><inertial><mass>5</mass></inertial></link>
  <joint name="mount" type="fixed"><parent>world</parent><child>base</child></joint>
  <link name="link_1">
    <inertial><mass>1</mass><inertia><ixx>0.1</ixx><iyy>0.1</iyy><izz>0.1</izz></inertia></inertial>
  </link>
  <joint name="joint_1" type="revolute">
    <parent>base</parent><child>link_1</child>
    <axis><xyz>0 0 1</xyz><limit><lower>-6</lower><upper>6</upper><effort>50</effort></limit></axis>
  </joint>
  <link name="link_2">
    <inertial>
      <pose>0.5 0 0 0 0 0</pose><mass>2</mass><inertia><ixx>0.1</ixx><iyy>0.1</iyy><izz>0.1</izz></inertia>
    </inertial>
  </link>
  <joint name="joint_2" type="revolute">
    <parent>link_1</parent><child>link_2</child>
    <axis><xyz>0 1 0</xyz><limit><lower>-3</lower><upper>3</upper><effort>50</effort></limit></axis>
  </joint>
</model>"""
WORLD = """<?xml version="1.0"?>
<sdf version="1.7"><world name="plugin_test">
  <gravity>0 0 -9.81</gravity>
  <physics type="ode">
    <max_step_size>0.001</max_step_size><real_time_update_rate>0</real_time_update_rate>
  </physics>
  {arms}
  <model name="door">
    <pose>5 0 0 0 0 0</pose>
    <link name="frame"><inertial><mass>5</mass></inertial></link>
    <joint name="mount" type="fixed"><parent>world</parent><child>frame</child></joint>
    <link name="panel"><inertial><pose>0.4 0 0 0 0 0</pose><mass>10</mass></inertial></link>
    <joint name="hinge" type="revolute">
      <parent>frame</parent><child>panel</child>
      <axis>
        <xyz>0 0 1</xyz><limit><lower>0</lower><upper>1.5</upper></limit>
        <dynamics><damping>0.5</damping><friction>0.1</friction></dynamics>
      </axis>
    </joint>
    <link name="lever">
      <pose>0.7 0 0 0 0 0</pose>
      <inertial><mass>0.3</mass><inertia><ixx>0.01</ixx><iyy>0.01</iyy><izz>0.01</izz></inertia></inertial>
    </link>
    <joint name="handle" type="revolute">
      <parent>panel</parent><child>lever</child>
      <axis>
        <xyz>0 1 0</xyz><limit><lower>0</lower><upper>0.8</upper></limit>
        <dynamics><damping>0.3</damping><spring_stiffness>2</spring_stiffness></dynamics>
      </axis>
    </joint>
  </model>
  <plugin name="pnaf_world" filename="{plugin}">
    <brake><joint>arm_a::joint_1</joint><position>-4.5</position></brake>
    <brake><joint>arm_a::joint_2</joint><position>0.7</position></brake>
    <brake><joint>arm_b::joint_2</joint><position>0</position></brake>
    <latch><hinge>door::hinge</hinge><handle>{handle}</handle><angle>0.4</angle></latch>
  </plugin>
</world></sdf>"""
ARM_A = ("arm_a::joint_1", "arm_a::joint_2")
ARM_B = ("arm_b::joint_1", "arm_b::joint_2")
DOOR = ("door::hinge", "door::handle")
EFFORT_LIMIT_NM = 50.0


@dataclass
class Server:
    """A gzserver with the plugin, and what it wrote when it was ready."""

    process: subprocess.Popen[bytes]
    state: dict[str, object]
    master_uri: str

    @property
    def port(self) -> int:
        return int(str(self.state["port"]))


@contextmanager
def gzserver(gazebo: GazeboInstallation, folder: Path, handle: str = DOOR[1]) -> Iterator[Server]:
    """The world in a gzserver that is ready; one that ends instead is a `ChildProcessError`."""
    (folder / "home").mkdir()
    arms = ARM.format(name="arm_a", y=0) + ARM.format(name="arm_b", y=3)
    world, state = folder / "world.sdf", folder / "server.json"
    world.write_text(WORLD.format(arms=arms, plugin=gazebo.plugin(), handle=handle))
    environment = gazebo.environment(folder / "home")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        environment["GAZEBO_MASTER_URI"] = f"http://127.0.0.1:{probe.getsockname()[1]}"
    environment["PNAF_GAZEBO_STATE"] = str(state)
    ready, ready_write = os.pipe()
    environment["PNAF_READY_FD"] = str(ready_write)
    with (folder / "log").open("wb") as log, open(ready, "rb") as pipe:
        process = subprocess.Popen(
            [gazebo.gzserver, "--verbose", world],
            env=environment,
            pass_fds=[ready_write],
            stdout=log,
            stderr=log,
        )
        os.close(ready_write)
        try:
            assert select.select([pipe], [], [], 60.0)[0], "gzserver is not ready"
            if pipe.read(1) != b"1":
                raise ChildProcessError(process.wait(10.0), (folder / "log").read_text())
            yield Server(process, json.loads(state.read_text()), environment["GAZEBO_MASTER_URI"])
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def server(gazebo: GazeboInstallation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One gzserver for this file; it runs as fast as it can while nobody holds it."""
    with gzserver(gazebo, tmp_path_factory.mktemp("world")) as running:
        yield running


Connect = Callable[..., GazeboConnection]


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    """Makes clients that have bound joints in one way; they are gone after the test."""
    with ExitStack() as stack:

        def make(*joints: str, interface: str = "velocity") -> GazeboConnection:
            connection = stack.enter_context(closing(GazeboConnection(server.port, "plugin_test", 10.0)))
            bound = connection.bind([f"{joint} {interface}" for joint in joints])
            assert bound.joints == len(joints) and bound.timestep_ns == 1_000_000
            return connection

        yield make


def frame(kind: int, payload: bytes = b"", version: int = 1) -> bytes:
    return struct.pack("<IHH", len(payload), kind, version) + payload


def exchange(server: Server, data: bytes) -> bytes:
    """All that the plugin answers to these bytes and the end of the connection after them."""
    with socket.create_connection(("127.0.0.1", server.port), 10.0) as raw:
        answer = b""
        try:
            raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before all was sent
        try:
            while part := raw.recv(65536):
                answer += part
        except ConnectionResetError:
            pass  # it had not read all, as it need not
        return answer


def first_frame(data: bytes) -> tuple[int, bytes]:
    size, kind, version = struct.unpack_from("<IHH", data)
    assert version == 1 and len(data) >= 8 + size
    return kind, data[8 : 8 + size]


def run_to(connection: GazeboConnection, done: Callable[[State], bool], what: str) -> State:
    """Steps until the condition holds, for at most 5 s of simulated time."""
    for _ in range(500):
        state = connection.step(10)
        if done(state):
            return state
    pytest.fail(what)


# ---- who may connect, and with what ------------------------------------------------------------


def test_says_where_it_is_and_listens_on_loopback_only(server: Server) -> None:
    assert server.state == {
        "port": server.port,
        "pid": server.process.pid,
        "master_uri": server.master_uri,
        "world": "plugin_test",
    }
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in (Path("/proc/net") / table).read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{server.port:04X}") and line.split()[3] == "0A"
    ]
    assert listening == [f"0100007F:{server.port:04X}"]


BIND = frame(Kind.BIND, b"arm_a::joint_1 velocity\n")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (frame(Kind.HOLD), "first frame must be BIND"),
        (BIND + BIND, "only once"),
        (frame(Kind.BIND), "no joint"),
        (frame(Kind.BIND, b"arm_a::joint_9 velocity\n"), "no joint 'arm_a::joint_9'"),
        (frame(Kind.BIND, b"joint_1 velocity\n"), "no joint 'joint_1'"),
        (frame(Kind.BIND, b"::joint_1 velocity\n"), "no joint '::joint_1'"),
        (frame(Kind.BIND, b"arm_a::mount velocity\n"), "not one axis"),
        (frame(Kind.BIND, b"arm_a::joint_1 position\n"), "is not '<model>::<joint>"),
        (frame(Kind.BIND, b"arm_a::joint_1 passive\narm_a::joint_1 effort\n"), "named twice"),
        (frame(Kind.BIND, b"\xff" * 65536), "is not '<model>::<joint>"),
        (frame(Kind.BIND, b"arm_a::joint_1 velocity\n", version=2), "version 2"),
        (struct.pack("<IHH", 65537, Kind.BIND, 1), "65537 bytes"),
        (BIND + frame(99), "unknown kind of frame: 99"),
        (BIND + frame(Kind.COMMAND, bytes(16)), "16 bytes, not 8"),
        (BIND + frame(Kind.COMMAND, struct.pack("<d", math.inf)), "finite"),
        (BIND + frame(Kind.COMMAND, struct.pack("<d", -1e7)), "1e6"),
        (BIND + frame(Kind.RESET, struct.pack("<Idd", 0, 6.1, 0.0)), "limits are -6.0"),
        (BIND + frame(Kind.RESET, struct.pack("<Idd", 0, 0.0, math.nan)), "limits"),
        (BIND + frame(Kind.FREE, struct.pack("<I", 0)), "at least 1 step"),
        (BIND + frame(Kind.STEP, struct.pack("<I", 1)), "STEP needs HOLD"),
        (BIND + frame(Kind.HOLD) + frame(Kind.STEP, struct.pack("<I", 0)), "not 1 to 100000"),
        (BIND + frame(Kind.HOLD) + frame(Kind.STEP, struct.pack("<I", 100001)), "not 1 to 100000"),
        (BIND + frame(Kind.HOLD) + 2 * frame(Kind.STEP, struct.pack("<I", 9)), "only COMMAND"),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_what_is_not_allowed_gets_a_reason_and_the_end(server: Server, data: bytes, why: str) -> None:
    answer = exchange(server, data)
    kind = 0
    while answer:
        kind, text = first_frame(answer)
        answer = answer[8 + len(text) :]
    assert kind == Kind.ERROR
    assert why in text.decode(errors="replace")


def test_a_joint_has_one_driver_and_any_number_of_watchers(server: Server, connect: Connect) -> None:
    first = connect(*ARM_A)
    connect(*ARM_A, interface="passive")
    connect(*ARM_A, interface="passive")
    for interface in ("velocity", "effort"):
        with pytest.raises(GazeboConnectionError, match=r"'plugin_test'.*driven by another client"):
            connect(*ARM_A, interface=interface)
    first.close()
    connect(*ARM_A)


def test_the_client_says_what_is_wrong(server: Server, connect: Connect) -> None:
    connection = connect(*ARM_A)
    with pytest.raises(ValueError, match=r"expected \[2\] values.*shape \(3,\)"):
        connection.command([1.0, 2.0, 3.0])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(GazeboConnectionError, match=r"'lab'.*cannot connect.*does its gzserver run"):
            GazeboConnection(closed.getsockname()[1], "lab")


def test_at_most_32_clients(server: Server, connect: Connect) -> None:
    witness = connect(*ARM_B)
    others: list[socket.socket] = []
    with ExitStack() as stack:
        while True:
            raw = socket.create_connection(("127.0.0.1", server.port), 10.0)
            others.append(stack.enter_context(raw))
            witness.hold()  # in this round the other is accepted, or told that it is one too many,
            witness.hold()  # and this answer comes after that
            if select.select([raw], [], [], 0)[0]:
                break
        kind, text = first_frame(others[-1].recv(4096))
        assert (kind, text) == (Kind.ERROR, b"this world has 32 clients already")
        assert len(others) == 32
    connect(*ARM_A).hold()


# ---- time --------------------------------------------------------------------------------------


def test_the_world_waits_for_steps(connect: Connect) -> None:
    connection = connect(*ARM_A)
    held = connection.hold()
    for steps in (1, 2, 50):
        state = connection.step(steps)
        assert state.iterations == held.iterations + steps
        assert state.time_ns == held.time_ns + steps * 1_000_000
        held = connection.hold()  # also after an answer that took its time, nothing has moved
        assert held.iterations == state.iterations
        np.testing.assert_array_equal(held.position, state.position)


def test_a_state_is_that_of_the_end_of_its_step(connect: Connect) -> None:
    connection = connect(*ARM_A)
    connection.hold()
    connection.reset([0.0, 0.0])
    connection.command([0.05, 0.0])
    state = connection.step(1)
    assert state.velocity[0] == pytest.approx(0.05, abs=1e-4)  # the motor reaches it in one step
    assert state.position[0] == pytest.approx(0.05e-3, abs=1e-7)


def test_two_clients_hold_the_world_together(connect: Connect) -> None:
    a, b = connect(*ARM_A), connect(*ARM_B)
    a.hold()
    start = b.hold()
    a._send(Kind.STEP, struct.pack("<I", 3))
    state = b.step(2)
    assert state.iterations == start.iterations + 2
    assert not a.readable()
    state = b.step(1)
    assert state.iterations == start.iterations + 3
    assert a.readable(5.0) and a._state(a._answer(Kind.STATE)).iterations == start.iterations + 3
    a._send(Kind.STEP, struct.pack("<I", 5))
    b.close()  # one that is gone holds no longer
    assert a.readable(5.0)
    assert a._state(a._answer(Kind.STATE)).iterations == start.iterations + 8


def test_free_streams_a_state_every_so_many_steps(connect: Connect) -> None:
    connection = connect(*ARM_A)
    connection.hold()
    start = connection.free(7)
    states = [connection.receive() for _ in range(5)]
    assert [state.iterations - start.iterations for state in states] == [7, 14, 21, 28, 35]
    held = connection.hold()  # its answer is not one of the states on the way
    assert connection.step(1).iterations == held.iterations + 1


def test_a_client_that_does_not_read_loses_states_and_stops_nobody(connect: Connect) -> None:
    lazy, other = connect(*ARM_A), connect(*ARM_B)
    other.hold()
    start = lazy.free(1).iterations
    end = other.step(4000).iterations
    got = [lazy.receive().iterations]
    assert got[0] == start + 1
    while got[-1] < end:
        got.append(lazy.receive().iterations)
    assert got == sorted(set(got)) and got[-1] == end
    assert len(got) < 2000, "the states were queued"


# ---- motors and torques ------------------------------------------------------------------------


def test_motors_follow_velocities_and_hold_against_gravity(connect: Connect) -> None:
    connection = connect(*ARM_A)
    connection.hold()
    connection.reset([0.0, 0.0])
    state = connection.step(100)
    assert state.effort[1] == pytest.approx(-2 * 9.81 * 0.5, rel=1e-3)  # gravity pulls it to positive angles
    assert np.abs(state.position).max() < 1e-3
    connection.command([1.0, -0.5])
    state = connection.step(500)
    np.testing.assert_allclose(state.velocity, [1.0, -0.5], atol=2e-3)
    # Until 50 N m have accelerated 0.7 kg m², it lags behind by v²/2a = 0.007 rad.
    np.testing.assert_allclose(state.position, [0.493, -0.248], atol=2e-3)
    connection.command([-1e6, 0.0])
    assert connection.step(1).effort[0] == pytest.approx(-EFFORT_LIMIT_NM, rel=1e-3)


def test_a_torque_accelerates_by_the_computed_amount(connect: Connect) -> None:
    connection = connect(*ARM_A, interface="effort")
    connection.hold()
    connection.reset([0.0, 0.0])
    connection.command([7.0, -2 * 9.81 * 0.5])
    state = connection.step(100)
    # 7 N m / 0.7 kg m² = 10 rad/s², in 100 steps of semi-implicit Euler.
    assert state.velocity[0] == pytest.approx(1.0, rel=1e-3)
    assert state.position[0] == pytest.approx(10 * 1e-6 * 100 * 101 / 2, rel=1e-3)
    np.testing.assert_allclose(state.effort, [7.0, -9.81])
    connection.reset([0.0, 0.0])
    connection.command([1e6, -9.81])
    state = connection.step(10)
    assert state.velocity[0] == pytest.approx(EFFORT_LIMIT_NM / 0.7 * 0.01, rel=1e-3)
    assert state.effort[0] == EFFORT_LIMIT_NM


def test_a_command_with_a_nan_brakes_its_arm_and_no_other(connect: Connect) -> None:
    bad, good, watcher = connect(*ARM_A), connect(*ARM_B), connect(*ARM_A, interface="passive")
    bad.hold(), good.hold(), watcher.hold()
    for connection in (bad, good):
        connection.command([0.3, 0.3])
    bad.command([math.nan, 0.3])
    with pytest.raises(GazeboConnectionError, match="command nan for joint 'arm_a::joint_1'"):
        bad.step(1)
    good._send(Kind.STEP, struct.pack("<I", 20))
    assert np.abs(watcher.step(20).velocity).max() < 1e-2
    np.testing.assert_allclose(good._state(good._answer(Kind.STATE)).velocity, [0.3, 0.3], atol=1e-2)


@pytest.mark.parametrize("interface", ["velocity", "effort"])
def test_a_client_that_disconnects_leaves_braked_joints(connect: Connect, interface: str) -> None:
    driver, watcher = connect(*ARM_A, interface=interface), connect(*ARM_A, interface="passive")
    driver.hold()
    driver.reset([0.0, 0.0], [1.0, -1.0])
    driver.command([1.0, -1.0])
    assert driver.step(5).velocity[0] > 0.5
    watcher.hold()
    driver.close()
    after = run_to(watcher, lambda s: np.abs(s.velocity).max() < 1e-2, "braked").position
    np.testing.assert_allclose(watcher.step(500).position, after, atol=5e-3)


# ---- resets ------------------------------------------------------------------------------------


def test_reset_is_exact_from_anywhere_to_anywhere(connect: Connect) -> None:
    connection = connect(*ARM_A, *DOOR)
    connection.hold()
    rng = np.random.default_rng(0)
    for _ in range(100):
        q = rng.uniform([-6, -3, 0, 0], [6, 3, 1.5, 0.8])  # joint 1 turns by more than a full turn
        qd = rng.uniform(-3, 3, 4)
        state = connection.reset(q, qd)
        np.testing.assert_allclose(state.position, q, rtol=0, atol=1e-12)
        np.testing.assert_allclose(state.velocity, qd, rtol=0, atol=1e-12)
        connection.command(rng.uniform(-3, 3, 4))
        after = connection.step(rng.integers(1, 20)).position
        assert np.abs(after - q).max() < 0.2, "it was put on another turn"
    for angle in (4.0, 4.0 - 2 * math.pi, 4.0):  # one place, but not one angle
        assert connection.reset([angle, 0.0, 0.0, 0.0]).position[0] == pytest.approx(angle, abs=1e-12)
        assert connection.step(1).position[0] == pytest.approx(angle, abs=1e-6)


def test_reset_ends_commands_and_leaves_joints_whose_position_is_nan(connect: Connect) -> None:
    connection = connect(*ARM_A)
    connection.hold()
    connection.reset([1.0, 0.5])
    connection.command([0.4, 0.4])
    before = connection.step(100)
    state = connection.reset([math.nan, -1.0], [9.0, 0.0])
    np.testing.assert_allclose(state.position, [before.position[0], -1.0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(state.velocity, [before.velocity[0], 0.0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(connection.step(10).velocity, [0.4, 0.0], atol=5e-3)


def rollout(connection: GazeboConnection, commands: np.ndarray) -> np.ndarray:
    """States [T, 3n] after a reset and 10 steps of each command."""
    connection.reset([0.5, -1.0, 0.0, 0.6], [0.1, 0.0, 0.5, 0.0], seed=7)
    states = []
    for command in commands:
        connection.command(command)
        state = connection.step(10)
        states.append(np.concatenate([state.position, state.velocity, state.effort]))
    return np.array(states)


def test_the_same_seed_and_commands_give_the_same_bits(connect: Connect) -> None:
    connection = connect(*ARM_A, *DOOR)
    connection.hold()
    rng = np.random.default_rng(0)
    commands = rng.uniform(-2, 2, (30, 4))
    first = rollout(connection, commands)
    np.testing.assert_array_equal(rollout(connection, commands), first)
    for command in rng.uniform(-3, 3, (10, 4)):  # another past
        connection.command(command)
        connection.step(17)
    np.testing.assert_array_equal(rollout(connection, commands), first)
    assert np.ptp(first[:, :2], axis=0).min() > 0.1


def test_a_reset_does_not_disturb_other_robots(connect: Connect) -> None:
    a, b = connect(*ARM_A), connect(*ARM_B)
    b.hold()
    trajectories = []
    for resets in (0, 5):
        b.reset([0.2, 0.3], seed=1)
        b.command([0.5, -0.5])
        trajectory = []
        for i in range(10):
            if i < resets:
                a.reset([-5.0 + i, 1.0], [2.0, -2.0], seed=0)
            trajectory.append(b.step(10).position)
        trajectories.append(trajectory)
    np.testing.assert_allclose(trajectories[1], trajectories[0], rtol=0, atol=1e-5)


# ---- the door ----------------------------------------------------------------------------------


def test_the_closed_door_opens_only_with_the_handle_pressed(connect: Connect) -> None:
    connection = connect(*DOOR, interface="effort")
    connection.hold()
    connection.reset([0.0, 0.0])
    connection.command([5.0, 0.7])
    state = connection.step(2000)
    assert state.position[1] == pytest.approx(0.35, abs=0.01)  # of a spring of 2 N m/rad: not far enough
    assert abs(state.position[0]) < 2e-3
    connection.command([5.0, 1.4])
    run_to(connection, lambda s: s.position[0] > 0.5, "open")
    connection.command([5.0, 0.0])  # open, it needs no handle
    run_to(connection, lambda s: s.position[0] > 1.45 and s.position[1] < 0.05, "wide open, handle up")
    connection.command([-5.0, 0.0])
    run_to(connection, lambda s: s.position[0] < 1e-3, "closed")
    connection.command([5.0, 0.0])
    assert connection.step(500).position[0] < 2e-3, "not locked again"


def test_reset_opens_a_locked_door_and_closes_an_open_one(connect: Connect) -> None:
    connection = connect(*DOOR, interface="passive")
    connection.hold()
    connection.reset([0.0, 0.0])
    connection.step(10)
    assert connection.reset([1.0, 0.0]).position[0] == pytest.approx(1.0, abs=1e-12)
    assert connection.step(100).position[0] == pytest.approx(1.0, abs=1e-2)
    connection.reset([0.0, 0.0])
    np.testing.assert_allclose(connection.step(100).position, [0.0, 0.0], atol=1e-3)


# ---- what must not end it ----------------------------------------------------------------------

numbers = st.one_of(st.floats(), st.floats(-3, 3), st.sampled_from([math.nan, 1e6, 1e308]))
payloads = st.one_of(
    st.binary(max_size=100),
    st.lists(numbers, max_size=5).map(lambda values: struct.pack(f"<{len(values)}d", *values)),
    st.tuples(st.integers(0, 2**32 - 1), st.lists(numbers, max_size=5)).map(
        lambda pair: struct.pack(f"<I{len(pair[1])}d", pair[0], *pair[1])
    ),
    st.integers(0, 20).map(lambda value: struct.pack("<I", value)),
    st.just(b"arm_a::joint_1 velocity\narm_a::joint_2 effort\n"),
)
frames = st.one_of(
    st.tuples(st.integers(0, 8), payloads).map(lambda pair: frame(*pair)),
    st.sampled_from([frame(Kind.HOLD), frame(Kind.COMMAND, struct.pack("<2d", 1.0, -1.0))]),
    st.binary(max_size=30),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.sampled_from([b"", frame(Kind.BIND, b"arm_a::joint_1 velocity\narm_a::joint_2 effort\n")]),
       data=st.lists(frames, max_size=8).map(b"".join))  # fmt: skip
def test_no_bytes_end_the_world(server: Server, connect: Connect, start: bytes, data: bytes) -> None:
    exchange(server, start + data)
    with closing(connect(*ARM_B)) as witness:
        held = witness.hold()
        assert witness.step(2).iterations == held.iterations + 2
        assert np.isfinite([held.position, held.velocity]).all()
    with closing(connect(*ARM_A)) as released:
        assert np.isfinite(released.hold().position).all()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_world_that_is_held(
    gazebo: GazeboInstallation, tmp_path: Path, number: signal.Signals
) -> None:
    with gzserver(gazebo, tmp_path) as own, GazeboConnection(own.port, "own") as holder:
        holder.bind([f"{joint} passive" for joint in ARM_A])
        with GazeboConnection(own.port) as other:
            other.bind(["arm_b::joint_1 velocity"])
            np.testing.assert_allclose(holder.hold().position, [-4.5, 0.7], atol=1e-3)  # of the world file
            own.process.send_signal(number)
            own.process.wait(5.0)
            with pytest.raises(GazeboConnectionError, match=r"'own'.*gzserver has ended.*reconnect"):
                holder.step(1)


def test_a_wrong_world_file_ends_gzserver_with_a_reason(gazebo: GazeboInstallation, tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError) as error, gzserver(gazebo, tmp_path, handle="door::knob"):
        pass
    status, log = error.value.args
    assert status == 2
    assert "world file: no joint 'door::knob' in this world" in log
