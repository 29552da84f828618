"""A replay server with keys, over real sockets: each role gets what is its own, and no more."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from fleet.codec import decode, encode
from fleet.config import ReplayServerConfig
from fleet.key_files import KeyFolder
from fleet.keys import Credentials, find_credentials, make_fleet_keys
from fleet.messages import FleetCommand, Heartbeat, Hello, Message, Refusal, StatusRequest
from fleet.sockets import connect_dealer
from replay_server.client import ReplayClient, ReplayRefused, ReplayTimeout
from replay_server.server import run_replay_server


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    folder = KeyFolder(tmp_path / "keys")
    make_fleet_keys(folder.path, ["robot1", "robot2"])
    folder.allow(folder.new("monitor", "monitor").public_part())
    return folder


@pytest.fixture
def credentials_of(keys: KeyFolder) -> Callable[..., Credentials]:
    return lambda role, robot_id="": find_credentials(keys, role, robot_id)


@pytest.fixture
def endpoint(tmp_path: Path, make_endpoint, credentials_of) -> Iterator[str]:
    """Of a running server."""
    endpoint, stop, ready = make_endpoint(), threading.Event(), threading.Event()
    config = ReplayServerConfig(endpoint=endpoint)
    thread = threading.Thread(
        target=run_replay_server,
        args=(config, tmp_path / "run", "run1", stop, ready.set),
        kwargs={"credentials": credentials_of("server")},
    )
    (tmp_path / "run").mkdir()
    thread.start()
    assert ready.wait(20)
    yield endpoint
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def client(endpoint: str, credentials_of) -> Iterator[Callable[..., ReplayClient]]:
    """`client(key_role, claimed_role)`."""
    made: list[ReplayClient] = []
    context: Any = zmq.Context()

    def make(role: str, claims: str, credentials: Credentials | None = None) -> ReplayClient:
        credentials = credentials or credentials_of(role)
        made.append(ReplayClient(endpoint, claims, role, context=context, credentials=credentials))
        return made[-1]

    yield make
    for each in made:
        each.close()
    context.term()


@pytest.fixture
def robot(endpoint: str, credentials_of) -> Iterator[Callable[[Message], Message]]:
    """Asks with the key of robot1."""
    context: Any = zmq.Context()
    identity = f"robot1:{secrets.token_hex(8)}".encode()
    dealer = connect_dealer(context, endpoint, identity, credentials_of("robot", "robot1"))

    def ask(message: Message) -> Message:
        dealer.send(encode(message))
        assert dealer.poll(10_000), "no answer"
        return decode(dealer.recv())

    yield ask
    dealer.close()
    context.term()


def test_operator_and_monitor_see_the_status_and_only_one_may_command(client) -> None:
    operator, monitor = client("operator", "monitor"), client("monitor", "monitor")
    assert operator.status().run_id == monitor.status().run_id == "run1"
    assert monitor.hello().run_id == "run1"
    assert operator.command("stop").kind == "stop"
    with pytest.raises(ReplayRefused, match="role monitor, which must not send a FleetCommand"):
        monitor.command("estop")
    assert operator.status().last_command == "stop"
    with pytest.raises(ReplayRefused, match="role monitor, which must not send a TailRequest"):
        monitor.tail(0, 10)


def test_the_learner_reads_and_commands_nobody(client) -> None:
    learner = client("learner", "learner")
    assert learner.hello().run_id == "run1"
    assert learner.tail(0, 10).rows == 0
    with pytest.raises(ReplayRefused, match="role learner, which must not send a FleetCommand"):
        learner.command("estop")


def test_a_learners_key_does_not_make_a_robot(client) -> None:
    with pytest.raises(ReplayRefused, match=r"key learner \(learner\) must not pose as a 'robot'"):
        client("learner", "robot").hello()


def test_a_robot_speaks_for_itself_only(robot) -> None:
    for name, message in {
        "Hello": Hello(role="robot", process_id="robot2", boot_id="b"),
        "Heartbeat": Heartbeat(role="robot", process_id="robot2", boot_id="b", state="s", stamp_ns=0),
    }.items():
        assert robot(message) == Refusal(
            request=name, reason="key robot1 may act for robot1, not for 'robot2'"
        )
    for message in (FleetCommand(kind="resume"), StatusRequest(request_id=1)):
        assert "which must not send" in robot(message).reason
    # Its own hello gets past the door, to where a spec is asked for.
    own = robot(Hello(role="robot", process_id="robot1", boot_id="b"))
    assert "a robot must bring its spec" in own.reason


def test_a_stranger_gets_no_answer_and_is_counted(
    client, keys: KeyFolder, tmp_path: Path, wait_until
) -> None:
    elsewhere = KeyFolder(tmp_path / "elsewhere")
    elsewhere.new("operator", "operator")
    server = next(key for key in keys.allowed() if key.role == "server")
    elsewhere.allow(server)
    stranger = client("operator", "monitor", find_credentials(elsewhere, "operator"))
    own = stranger._credentials.own.fingerprint
    with pytest.raises(ReplayTimeout, match=rf"does it allow the key operator {own}\?"):
        stranger.status(timeout_s=0.5)
    operator = client("operator", "monitor")

    def denied() -> float:
        return operator.status().stats["security/handshakes_denied"]

    wait_until(denied, what="the stranger in the stats")
    assert operator.status().stats["security/keys_allowed"] == 6


def test_a_revoked_key_gets_no_more_answers_while_others_do(client, keys: KeyFolder, wait_until) -> None:
    operator, monitor = client("operator", "monitor"), client("monitor", "monitor")
    assert monitor.status().run_id == "run1"
    keys.revoke("monitor")

    def refused() -> bool:
        try:
            monitor.status(timeout_s=0.3)
        except (ReplayRefused, ReplayTimeout):
            return True
        return False

    wait_until(refused, timeout_s=5, what="a refusal")
    assert operator.status(timeout_s=10).run_id == "run1"
    assert refused()
