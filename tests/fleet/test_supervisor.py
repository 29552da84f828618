"""Real processes: started in order, kept alive, and taken down to the last grandchild."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fleet.supervisor
from fleet.node_specs import NodeSpec
from fleet.ready import EXIT_CONFIG
from fleet.supervisor import Supervisor, SupervisorError

REPOSITORY = Path(__file__).parents[2]

PRELUDE = """
import os, signal, subprocess, sys, time
from fleet.ready import notify_ready, stop_on_signals
name, folder = sys.argv[1:]
def say(event):
    with open(folder + "/events", "a") as file:
        file.write(f"{name} {event}\\n")
def wait_for(file):
    while not os.path.exists(f"{folder}/{file}"):
        time.sleep(0.01)
say(f"start {os.getpid()}")
"""
SERVE = """
stop = stop_on_signals()
say("ready")
notify_ready()
stop.wait()
say("down")
"""

WaitUntil = Callable[..., None]


class Scene:
    """Scripts that tell in one file what happens to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self._supervisors: list[Supervisor] = []

    def spec(self, name: str, script: str, **fields: Any) -> NodeSpec:
        argv = (sys.executable, "-c", PRELUDE + script, name, str(self.folder))
        return NodeSpec(name, argv, {"PYTHONPATH": str(REPOSITORY)} | fields.pop("env", {}), **fields)

    def supervise(self, *specs: NodeSpec) -> Supervisor:
        self._supervisors.append(Supervisor(specs, self.logs))
        return self._supervisors[-1]

    @property
    def events(self) -> list[str]:
        """`name event`, without the pids."""
        lines = self._lines()
        return [line.rpartition(" ")[0] if " start " in line else line for line in lines]

    def pids(self, name: str) -> list[int]:
        return [int(line.split()[2]) for line in self._lines() if line.startswith(f"{name} start ")]

    def _lines(self) -> list[str]:
        path = self.folder / "events"
        return path.read_text().splitlines() if path.exists() else []

    def allow(self, file: str) -> None:
        (self.folder / file).touch()

    def close(self) -> None:
        for supervisor in self._supervisors:
            supervisor.stop(timeout_s=0.0)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The supervisor's time: stands still until a test sets `clock.now_s`."""
    made = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(fleet.supervisor, "time", SimpleNamespace(monotonic=lambda: made.now_s))
    return made


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody reaps does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def polled(supervisor: Supervisor, condition: Callable[[], object]) -> Callable[[], object]:
    """The condition, looked at after a poll."""

    def check() -> object:
        supervisor.poll()
        return condition()

    return check


# Start ---------------------------------------------------------------------------------------


def test_a_process_starts_when_all_it_comes_after_are_ready(scene: Scene, wait_until: WaitUntil) -> None:
    slow = "wait_for('server_may')\n" + SERVE
    supervisor = scene.supervise(
        scene.spec("robot", SERVE, after=("server", "arm")),  # listed first, started last
        scene.spec("server", slow),
        scene.spec("arm", SERVE),
    )
    wait_until(polled(supervisor, lambda: {"server start", "arm ready"} <= set(scene.events)))
    for _ in range(5):
        supervisor.poll(wait_s=0.02)
    assert "robot" not in supervisor.pids
    assert not supervisor.all_ready
    scene.allow("server_may")
    supervisor.start(timeout_s=10)
    assert supervisor.all_ready
    assert scene.events.index("robot start") > scene.events.index("server ready")
    assert set(supervisor.pids) == {"server", "arm", "robot"}
    assert supervisor.restarts == {}


def test_not_ready_in_time_names_the_process_and_shows_its_log(scene: Scene, wait_until: WaitUntil) -> None:
    hang = "print('loading\\n\\033[1;32mstill\\033[0m loading', flush=True)\nsay('hangs')\ntime.sleep(60)"
    supervisor = scene.supervise(scene.spec("server", SERVE), scene.spec("learner", hang))
    wait_until(polled(supervisor, lambda: {"learner hangs", "server ready"} <= set(scene.events)))
    with pytest.raises(SupervisorError) as caught:
        supervisor.start(timeout_s=0.2)
    assert str(caught.value) == (
        "not ready after 0.2 s: learner\n"
        "    loading\n    still loading\n"
        f"    (all of it: {scene.logs / 'learner.log'})"
    )


def test_waiting_for_the_start_can_be_cancelled(scene: Scene) -> None:
    supervisor = scene.supervise(scene.spec("server", "time.sleep(60)"))
    supervisor.start(timeout_s=60, cancelled=lambda: bool(scene.events))
    assert not supervisor.all_ready


def test_coming_after_nobody_known_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"robot comes after \['serve'\], which are not in the fleet"):
        Supervisor([NodeSpec("robot", ("true",), after=("serve",))], tmp_path)


def test_children_get_the_specs_variables_but_not_the_ros_bootstrap(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "1")
    monkeypatch.setenv("KEPT", "yes")
    # A shell, not Python: the wheels' own bootstrap would set the variable again.
    tell = 'echo "$KEPT $ROS_DOMAIN_ID [$_ROS_WHEELS_BOOTSTRAP_COMPLETE]"; exit 2'
    supervisor = scene.supervise(NodeSpec("node", ("sh", "-c", tell), {"ROS_DOMAIN_ID": "71"}))
    with pytest.raises(SupervisorError, match=r"yes 71 \[\]"):
        supervisor.start(timeout_s=10)


# Keep alive ----------------------------------------------------------------------------------


def test_a_crashed_process_is_started_again_after_a_back_off(
    scene: Scene, clock: SimpleNamespace, wait_until: WaitUntil
) -> None:
    crash = "say('restarts ' + os.environ['PNAF_RESTARTS'])\nsys.exit(3)"
    supervisor = scene.supervise(scene.spec("robot", crash), scene.spec("server", SERVE))
    for number, delay_s in enumerate((0.5, 1.0, 2.0), start=1):
        wait_until(polled(supervisor, lambda number=number: supervisor.restarts.get("robot") == number))
        clock.now_s += delay_s - 0.01
        supervisor.poll()
        assert "robot" not in supervisor.pids, f"started again before {delay_s} s"
        clock.now_s += 0.02
        supervisor.poll()
        assert "robot" in supervisor.pids
    wait_until(lambda: "robot restarts 3" in scene.events)
    assert [e for e in scene.events if "restarts" in e] == [f"robot restarts {i}" for i in range(4)]
    assert "server" not in supervisor.restarts


def test_a_restart_does_not_wait_for_others(
    scene: Scene, clock: SimpleNamespace, wait_until: WaitUntil
) -> None:
    crash_once = "if os.environ['PNAF_RESTARTS'] == '0': notify_ready(); wait_for('crash'); sys.exit(1)\n"
    supervisor = scene.supervise(
        scene.spec("server", "if os.environ['PNAF_RESTARTS'] != '0': wait_for('never')\n" + crash_once),
        scene.spec("robot", crash_once + SERVE, after=("server",)),
    )
    supervisor.start(timeout_s=10)
    scene.allow("crash")
    wait_until(polled(supervisor, lambda: len(supervisor.restarts) == 2))
    clock.now_s += 0.6
    wait_until(polled(supervisor, lambda: "robot ready" in scene.events))
    assert supervisor.restarts == {"server": 1, "robot": 1}
    assert not supervisor.all_ready


def test_one_that_keeps_ending_is_given_up_with_its_log(scene: Scene, clock: SimpleNamespace) -> None:
    supervisor = scene.supervise(NodeSpec("robot", ("sh", "-c", "echo no arm here; kill -9 $$")))
    with pytest.raises(SupervisorError) as caught:
        for _ in range(10_000):
            supervisor.poll(wait_s=0.01)
            clock.now_s += 0.0 if supervisor.pids else 0.25
    assert str(caught.value).startswith("robot keeps ending (killed by SIGKILL):\n    no arm here\n")
    assert supervisor.restarts == {"robot": 5}


def test_a_crash_after_a_long_life_is_not_held_against_it(
    scene: Scene, clock: SimpleNamespace, wait_until: WaitUntil
) -> None:
    supervisor = scene.supervise(scene.spec("robot", SERVE))
    for number in range(8):  # more often than one that keeps ending may
        wait_until(polled(supervisor, lambda: supervisor.all_ready))
        clock.now_s += 31
        os.kill(supervisor.pids["robot"], signal.SIGKILL)
        wait_until(polled(supervisor, lambda: not supervisor.pids))
        assert supervisor.restarts == {"robot": number + 1}
        clock.now_s += 0.51


def test_a_wrong_config_is_not_tried_again(scene: Scene) -> None:
    fails = f"print('learner.sede: unknown key', flush=True)\nsys.exit({EXIT_CONFIG})"
    supervisor = scene.supervise(scene.spec("learner", fails))
    with pytest.raises(SupervisorError) as caught:
        supervisor.start(timeout_s=10)
    assert str(caught.value).startswith("learner ended with status 2:\n    learner.sede: unknown key\n")
    for _ in range(5):
        supervisor.poll(wait_s=0.02)
    assert scene.events == ["learner start"]


def test_one_that_must_not_be_started_again_is_not(scene: Scene) -> None:
    supervisor = scene.supervise(scene.spec("once", "sys.exit(0)", respawn=False))
    with pytest.raises(SupervisorError, match="once ended with status 0"):
        supervisor.start(timeout_s=10)


@pytest.mark.parametrize("status", [0, 1, EXIT_CONFIG])
def test_one_that_is_not_essential_may_end(
    scene: Scene, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """As a window: nobody waits for it, and its end ends nothing."""
    window = f"wait_for('close')\nsay('closed')\nsys.exit({status})"
    supervisor = scene.supervise(
        scene.spec("server", SERVE), scene.spec("window", window, after=("server",), essential=False)
    )
    supervisor.start(timeout_s=10)
    wait_until(polled(supervisor, lambda: "window start" in scene.events))
    assert supervisor.all_ready
    scene.allow("close")
    caplog.set_level(logging.INFO)
    wait_until(polled(supervisor, lambda: "window" not in supervisor.pids))
    for _ in range(5):
        supervisor.poll(wait_s=0.02)
    assert scene.events.count("window start") == 1
    assert supervisor.all_ready and set(supervisor.pids) == {"server"}
    assert supervisor.restarts == {}
    (record,) = [record for record in caplog.records if record.name == "fleet.supervisor"]
    text = f"window ended (status {status}); the fleet goes on without it (its log: "
    assert record.getMessage().startswith(text)
    assert record.levelno == (logging.WARNING if status else logging.INFO)


def test_a_crash_leaves_no_grandchild(scene: Scene, wait_until: WaitUntil) -> None:
    crash = "p = subprocess.Popen(['sleep', '600'])\nsay(f'grandchild {p.pid}')\nos.kill(os.getpid(), 9)"
    supervisor = scene.supervise(scene.spec("robot", crash))
    wait_until(polled(supervisor, lambda: supervisor.restarts))
    grandchild = next(int(e.split()[2]) for e in scene.events if "grandchild" in e)
    wait_until(lambda: not is_alive(grandchild), 5, "the end of the grandchild")


# Stop ----------------------------------------------------------------------------------------


def test_a_process_ends_before_those_it_came_after(scene: Scene) -> None:
    ships_late = SERVE.replace('say("down")', 'time.sleep(0.2)\nsay("down")')
    with scene.supervise(
        scene.spec("server", SERVE),
        scene.spec("learner", SERVE, after=("server",)),
        scene.spec("arm", SERVE, after=("server",)),
        scene.spec("robot", ships_late, after=("server", "arm")),
    ) as supervisor:
        supervisor.start(timeout_s=20)
    down = [event.split()[0] for event in scene.events if event.endswith("down")]
    assert sorted(down) == ["arm", "learner", "robot", "server"]
    assert down.index("robot") < down.index("arm") < down.index("server")
    assert down.index("learner") < down.index("server")
    assert supervisor.pids == {}


def test_the_named_ones_can_be_stopped_first(scene: Scene) -> None:
    supervisor = scene.supervise(scene.spec("server", SERVE), scene.spec("robot", SERVE, after=("server",)))
    supervisor.start(timeout_s=10)
    supervisor.stop(["robot"])
    for _ in range(3):
        supervisor.poll(wait_s=0.02)
    assert list(supervisor.pids) == ["server"], "the server stays and the robot is not started again"
    assert [e for e in scene.events if e.endswith("down")] == ["robot down"]


def test_one_that_ignores_sigterm_is_killed(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nnotify_ready()\nwhile True: time.sleep(1)"
    supervisor = scene.supervise(scene.spec("robot", deaf))
    supervisor.start(timeout_s=10)
    with caplog.at_level(logging.ERROR):
        supervisor.stop(timeout_s=0.2)
    assert not is_alive(scene.pids("robot")[0])
    assert caplog.messages == ["robot did not end within 0.2 s of SIGTERM: killed"]


def test_stop_takes_grandchildren_too(scene: Scene, wait_until: WaitUntil) -> None:
    parent = (
        "code = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);'\n"
        "code += 'print(1, flush=True); time.sleep(600)'\n"
        "p = subprocess.Popen([sys.executable, '-S', '-c', code], stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\nsay(f'grandchild {p.pid}')\n" + SERVE
    )
    supervisor = scene.supervise(scene.spec("robot", parent))
    supervisor.start(timeout_s=10)
    grandchild = next(int(e.split()[2]) for e in scene.events if "grandchild" in e)
    assert is_alive(grandchild)
    supervisor.stop()
    wait_until(lambda: not is_alive(grandchild), 5, "the end of the grandchild")
    assert scene.events[-1] == "robot down", "the child itself ended in order"


def test_nothing_outlives_a_killed_supervisor(scene: Scene, wait_until: WaitUntil) -> None:
    program = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY)!r})
from fleet.node_specs import NodeSpec
from fleet.supervisor import Supervisor
specs = [NodeSpec(n, (sys.executable, "-c", {PRELUDE + SERVE!r}, n, {str(scene.folder)!r}),
                  {{"PYTHONPATH": {str(REPOSITORY)!r}}}) for n in ("server", "robot")]
supervisor = Supervisor(specs, Path({str(scene.logs)!r}))
supervisor.start(20)
print("up", flush=True)
while True:
    supervisor.poll(0.1)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        children = scene.pids("server") + scene.pids("robot")
        assert len(children) == 2 and all(map(is_alive, children))
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, children)), 10, "the end of the children")
    assert sorted(e for e in scene.events if e.endswith("down")) == ["robot down", "server down"]


def test_a_file_in_the_current_folder_that_is_called_like_a_module_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("Python 3.10 always looks in the current folder first")
    (tmp_path / "random.py").write_text("raise SystemExit('not the real one')")
    monkeypatch.chdir(tmp_path)
    spec = NodeSpec("child", (sys.executable, "-m", "fleet.cli", "--help"), respawn=False)
    with Supervisor([spec], tmp_path / "logs") as supervisor, pytest.raises(SupervisorError):  # it ends
        supervisor.start(60)
    log = (tmp_path / "logs" / "child.log").read_text()
    assert "asynchronous NAF" in log and "not the real one" not in log
