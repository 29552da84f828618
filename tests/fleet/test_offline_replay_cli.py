"""`pnaf offline replay`, as an operator sees it: keys, refusals, and what was typed wrongly."""

from __future__ import annotations

import json
import math
import queue
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fleet import offline_replay_cli
from fleet.cli import app
from fleet.config import ReplayServerConfig
from fleet.key_files import KeyFolder
from fleet.keys import find_credentials, make_fleet_keys
from fleet.messages import Transitions, row_dtype
from fleet.spaces import Space, SpaceSpec
from replay_server.episode_file import EpisodeInfo
from replay_server.log_writer import LogWriter
from replay_server.logs import open_logs
from replay_server.server import run_replay_server
from replay_server.verify import verify_run
from robot_nodes import log_player
from robot_nodes.log_plan import plan_replay
from robot_nodes.log_player import LogPlayer, PlayerError
from robot_nodes.synthetic_rows import SPEC

OTHER = SpaceSpec(Space(("a",), ("rad",), (-1.0,), (1.0,)), SPEC.action)
FLEET = Path(__file__).parents[2] / "hardware_configs/fleets/sim2.yaml"


@pytest.fixture(autouse=True)
def no_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_replay_cli, "stop_on_signals", threading.Event)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return write(tmp_path / "logs")


def write(folder: Path, spec: SpaceSpec = SPEC, episodes: int = 1) -> Path:
    """Episodes of ten rows of two robots."""
    with LogWriter(folder, spec, "by a test") as writer:
        for number, episode in product(range(2), range(episodes)):
            rows = np.zeros(10, row_dtype(spec.observation.size, 2))
            rows["reward"], rows["stamp_ns"] = number, episode * 10**9 + np.arange(10) * 50_000_000
            info = EpisodeInfo(
                run_id="", robot_id=f"robot{number + 1}", boot_id="b0", episode=episode, rows=0, first_seq=0,
                last_seq=0, first_cursor=0, last_cursor=0, received_ns=10**18 + episode * 10**9,
                spec_hash="", policy_version=0, evaluation=False, end="success", success=True,
                metrics={}, complete=True,
            )  # fmt: skip
            writer.add(info, Transitions.from_packed(rows))
    return folder


def replay(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["offline", "replay", *map(str, words)])
    plain = re.sub(r"\x1b\[[0-9;]*[a-zA-Z]", "", result.stderr)
    return result.exit_code, result.stdout, " ".join(plain.split())


@contextmanager
def serving(endpoint: str, run_dir: Path, run_id: str = "run2", keys: Path | None = None) -> Iterator[None]:
    stop, ready = threading.Event(), threading.Event()
    run_dir.mkdir(exist_ok=True)
    credentials = find_credentials(KeyFolder(keys), "server") if keys else None
    thread = threading.Thread(
        target=run_replay_server,
        args=(ReplayServerConfig(endpoint=endpoint), run_dir, run_id, stop, ready.set),
        kwargs={"credentials": credentials},
    )
    thread.start()
    try:
        assert ready.wait(20)
        yield
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def test_with_keys(logs: Path, tmp_path: Path, free_endpoint: str) -> None:
    make_fleet_keys(tmp_path / "keys", ["robot1", "robot2"])
    with serving(free_endpoint, tmp_path / "run", keys=tmp_path / "keys"):
        status, out, err = replay(
            logs, "--into", free_endpoint, "--keys", tmp_path / "keys", "--speed", "max", "--json"
        )
        assert status == 0, err
        assert json.loads(out)["rows_now"] == 20
        assert "all 20 rows of 2 episodes are stored" in err

        # without, and with a key that the server does not know: it says nothing to such people
        status, _, err = replay(logs, "--into", free_endpoint, "--speed", "max", "--wait", "0.5")
        assert status == 1
        assert "no answer to robot2" in err
        assert "Does it want keys? (--keys)" in err
        stranger = KeyFolder(tmp_path / "stranger")
        make_fleet_keys(stranger.path, ["robot1", "robot2"])
        stranger.revoke("server")
        for own in ("server.key", "server.pub"):
            (stranger.path / own).unlink()
        stranger.allow(find_credentials(KeyFolder(tmp_path / "keys"), "server").own.public_part())
        words = logs, "--into", free_endpoint, "--keys", stranger.path, "--speed", "max", "--wait", "0.5"
        status, _, err = replay(*words)
        assert status == 1
        assert "does it allow the key robot2" in err
    check = verify_run(tmp_path / "run")
    assert (check.ok, check.rows) == (True, 20)


def test_a_robot_without_a_key_is_named_before_anything_is_sent(logs: Path, tmp_path: Path) -> None:
    make_fleet_keys(tmp_path / "keys", ["robot1"])
    status, _, err = replay(logs, "--into", "tcp://10.0.0.1:5710", "--keys", tmp_path / "keys")
    assert status == 2
    assert "has no key for robot robot2: make it with `pnaf keys new robot2 --role robot --keys" in err


def test_the_fleets_config_says_where_and_with_which_keys(
    logs: Path, tmp_path: Path, free_endpoint: str
) -> None:
    make_fleet_keys(tmp_path / "keys", ["robot1", "robot2"])
    config = "--fleet", FLEET, "--set", f"replay_server.endpoint={free_endpoint}"
    config += "--set", f"security={{keys: {tmp_path / 'keys'}}}"
    with serving(free_endpoint, tmp_path / "run", keys=tmp_path / "keys"):
        status, _, err = replay(logs, *config, "--where", "robot=robot1", "--speed", "1000")
        assert status == 0, err
    assert verify_run(tmp_path / "run").rows == 10


def test_a_log_that_has_grown_goes_on(logs: Path, tmp_path: Path, free_endpoint: str) -> None:
    longer = write(tmp_path / "longer", episodes=3)
    words = "--into", free_endpoint, "--speed", "max", "--json"
    with serving(free_endpoint, tmp_path / "run"):
        assert replay(logs, *words)[0] == 0
        for rows_now in (40, 0):
            made = json.loads(replay(longer, *words)[1])
            assert (made["rows_now"], made["rows_before"]) == (rows_now, 60 - rows_now)
    check = verify_run(tmp_path / "run")
    assert (check.ok, check.rows, len(check.streams)) == (True, 60, 2)


def test_a_server_of_another_task_refuses_in_its_own_words(
    logs: Path, tmp_path: Path, free_endpoint: str
) -> None:
    with serving(free_endpoint, tmp_path / "run"):
        assert replay(write(tmp_path / "other", OTHER), "--into", free_endpoint, "--speed", "max")[0] == 0
        status, _, err = replay(logs, "--into", free_endpoint, "--speed", "max")
    assert status == 1
    assert "refuses robot1: robot robot1 has another spec than run run2: observation has" in err


def test_a_run_is_not_replayed_into_itself(logs: Path, free_endpoint: str) -> None:
    with serving(free_endpoint, logs, (logs / "run_id").read_text().strip()):
        status, _, err = replay(logs, "--into", free_endpoint, "--speed", "max")
    assert status == 1
    assert "which these logs are of: its rows would be there twice" in err
    assert verify_run(logs).rows == 20


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "say where to play them: --into tcp://HOST:PORT, or --fleet FLEET.yaml"),
        (["--into", "localhost:5710"], "must be tcp://HOST:PORT"),
        (["--into", "tcp://127.0.0.1:99999"], "must be tcp://HOST:PORT"),
        (["--into", "tcp://10.0.0.1:5710"], "takes keys: give --keys FOLDER"),
        (["--into", "tcp://127.0.0.1:5710", "--keys", "nowhere"], "--keys nowhere: no such folder"),
        (["--into", "tcp://127.0.0.1:5710", "--speed", "fast"], "--speed fast: must be a number above 0"),
        (["--into", "tcp://127.0.0.1:5710", "--speed", "-1"], "--speed -1: must be a number above 0"),
        (["--into", "tcp://127.0.0.1:5710", "--speed", "inf"], "--speed inf: must be a number above 0"),
        (["--into", "tcp://127.0.0.1:5710", "--set", "seed=1"], "it goes with --fleet"),
        (["--into", "tcp://127.0.0.1:5710", "--where", "robot=nobody"], "none meets the conditions"),
    ],
)
def test_what_was_typed_wrongly_is_said(logs: Path, words: list[str], text: str) -> None:
    status, _, err = replay(logs, *words)
    assert status == 2
    assert text in err


def test_a_damaged_episode_is_named_and_left_out(logs: Path, tmp_path: Path, free_endpoint: str) -> None:
    (file,) = (logs / "episodes" / "robot2").glob("*.h5")
    content = bytearray(file.read_bytes())
    content[content.find(np.ones(10, "<f4").tobytes())] ^= 255
    file.write_bytes(content)
    with serving(free_endpoint, tmp_path / "run"):
        status, out, err = replay(logs, "--into", free_endpoint, "--speed", "max", "--json")
    assert status == 0
    assert "left out:" in err
    assert "damaged" in err
    assert list(json.loads(out)["left_out"]) == [str(file)]
    assert verify_run(tmp_path / "run").rows == 10


def test_a_file_that_vanishes_meanwhile_is_named(logs: Path, tmp_path: Path, free_endpoint: str) -> None:
    plan = plan_replay(open_logs([logs]), longest_gap_s=10.0)
    (file,) = (logs / "episodes" / "robot1").glob("*.h5")
    file.unlink()
    player = LogPlayer(plan, free_endpoint, speed=math.inf)
    with (
        serving(free_endpoint, tmp_path / "run"),
        pytest.raises(PlayerError, match=rf"{file}: .*; it was whole when this replay began"),
    ):
        player.run(threading.Event())


def test_an_absent_server_is_waited_for(
    logs: Path, tmp_path: Path, free_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_player, "_QUIET_S", 0.05)
    plan = plan_replay(open_logs([logs]), longest_gap_s=10.0)
    notes: queue.SimpleQueue[str] = queue.SimpleQueue()
    player = LogPlayer(plan, free_endpoint, speed=math.inf, on_note=notes.put)
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(player.run, threading.Event())
        assert notes.get(timeout=20) == f"no answer to robot2 from {free_endpoint}; waiting, 60 s at most"
        with serving(free_endpoint, tmp_path / "run"):
            assert notes.get(timeout=20) == "the replay server answers"
            assert outcome.result(20).complete
