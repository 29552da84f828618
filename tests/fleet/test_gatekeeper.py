"""The allow-list at the door: who gets in, who is who, and revocation while everything runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
import zmq

from fleet.config import ConfigError
from fleet.gatekeeper import AllowList, Gatekeeper
from fleet.handshakes import HandshakeCounter
from fleet.key_files import KeyFolder, read_public
from fleet.keys import Credentials, find_credentials
from fleet.sockets import (
    AddressInUseError,
    Context,
    Socket,
    bind_policy_publisher,
    bind_router,
    bound_endpoint,
    connect_dealer,
    connect_policy_subscriber,
    drop_connections,
)

ANY_PORT = "tcp://127.0.0.1:*"
CredentialsOf = Callable[..., Credentials]
WaitUntil = Callable[..., None]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that are refused try again soon."""
    monkeypatch.setattr("fleet.sockets._HANDSHAKE_TIMEOUT_MS", 200)


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def gatekeeper(context: Context, credentials_of: CredentialsOf) -> Iterator[Gatekeeper]:
    with Gatekeeper(context, credentials_of("server")) as gatekeeper:
        yield gatekeeper


@pytest.fixture
def router(context: Context, gatekeeper: Gatekeeper, credentials_of: CredentialsOf) -> Socket:
    return bind_router(context, ANY_PORT, credentials_of("server"))


@pytest.fixture
def publisher(context: Context, gatekeeper: Gatekeeper, credentials_of: CredentialsOf) -> Socket:
    return bind_policy_publisher(context, ANY_PORT, credentials_of("learner"))


def stranger(tmp_path, keys: KeyFolder, role: str = "robot") -> Credentials:
    """A key that nobody allowed, of somebody who knows the fleet's public keys."""
    folder = KeyFolder(tmp_path / "stranger")
    for name in ("server", "learner"):
        folder.allow(read_public(keys.path / f"{name}.pub"))
    folder.new("stranger", role)
    return find_credentials(folder, role, "stranger")


def receive(socket: Socket) -> zmq.Frame:
    assert socket.poll(10_000), "nothing received in 10 s"
    return socket.recv_multipart(copy=False)[-1]


# Handshakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "robot_id"), [("robot", "robot1"), ("learner", ""), ("operator", ""), ("monitor", "")]
)
def test_an_allowed_key_gets_in_and_is_known_by_name(
    router, outside, gatekeeper, credentials_of, role: str, robot_id: str
) -> None:
    credentials = credentials_of(role, robot_id)
    dealer = connect_dealer(outside, bound_endpoint(router), b"me", credentials)
    dealer.send(b"hello")
    frame = receive(router)
    assert frame.bytes == b"hello"
    assert gatekeeper.who(frame.get("User-Id")) == credentials.own.public_part()
    router.send_multipart([b"me", b"welcome"])
    assert receive(dealer).bytes == b"welcome"
    assert gatekeeper.denied == 0


def test_an_unknown_key_is_refused_counted_and_let_in_once_it_is_allowed(
    router, outside, gatekeeper, keys, tmp_path, wait_until: WaitUntil, caplog
) -> None:
    credentials = stranger(tmp_path, keys)
    dealer = connect_dealer(outside, bound_endpoint(router), b"me", credentials)
    dealer.send(b"hello")
    wait_until(lambda: gatekeeper.denied >= 2, what="two refused handshakes")
    assert not router.poll(100)
    assert gatekeeper.stats()["security/handshakes_denied"] == gatekeeper.denied
    assert caplog.text.count("refused a key that is not allowed") == 1  # not each time
    assert credentials.own.fingerprint in caplog.text
    keys.allow(credentials.own.public_part())
    assert gatekeeper.who(receive(router).get("User-Id")).name == "stranger"


def test_a_server_key_opens_no_door(router, outside, gatekeeper, credentials_of, wait_until) -> None:
    connect_dealer(outside, bound_endpoint(router), b"me", credentials_of("server")).send(b"hello")
    wait_until(lambda: gatekeeper.denied, what="a refused handshake")
    assert not router.poll(100)


@pytest.mark.parametrize(
    ("role", "robot_id", "hears"),
    [("robot", "robot1", True), ("operator", "", True), ("monitor", "", False), ("learner", "", False)],
)
def test_policies_are_for_robots_and_the_operator(
    publisher, outside, gatekeeper, credentials_of, wait_until, role: str, robot_id: str, hears: bool
) -> None:
    connect_policy_subscriber(outside, bound_endpoint(publisher), credentials_of(role, robot_id))
    if hears:
        assert receive(publisher).bytes == b"\x01"
    else:
        wait_until(lambda: gatekeeper.denied, what="a refused handshake")
        assert not publisher.poll(100)


def test_a_client_without_keys_gets_nothing_from_a_server_with_keys(router, outside, wait_until) -> None:
    counter = HandshakeCounter(router)
    dealer = connect_dealer(outside, bound_endpoint(router), b"me")
    dealer.send(b"hello")
    wait_until(lambda: counter.failed, what="a failed handshake")
    assert not router.poll(100) and not dealer.poll(0)
    assert counter.completed == 0
    counter.close()


def test_a_client_with_keys_does_not_talk_to_a_server_without(outside, credentials_of, context) -> None:
    router = bind_router(context, ANY_PORT)
    connect_dealer(outside, bound_endpoint(router), b"me", credentials_of("robot", "robot1")).send(b"rows")
    assert not router.poll(300)


def test_a_server_with_another_key_hears_nothing(
    context, outside, gatekeeper, credentials_of, keys, tmp_path, wait_until
) -> None:
    folder = KeyFolder(tmp_path / "imposter")
    folder.new("server", "server")
    router = bind_router(context, ANY_PORT, find_credentials(folder, "server"))
    counter = HandshakeCounter(router)
    connect_dealer(outside, bound_endpoint(router), b"me", credentials_of("robot", "robot1")).send(b"rows")
    wait_until(lambda: counter.failed >= 2, what="two failed handshakes")
    assert not router.poll(100) and counter.completed == 0
    counter.close()


def rebind(context: Context, endpoint: str, credentials: Credentials, wait_until: WaitUntil) -> Socket:
    """A policy publisher at an address that another socket has just left: ZeroMQ closes in the background."""
    bound: list[Socket] = []

    def is_bound() -> bool:
        with contextlib.suppress(AddressInUseError):
            bound.append(bind_policy_publisher(context, endpoint, credentials))
        return bool(bound)

    wait_until(is_bound, what="an address that is free")
    return bound[0]


@pytest.mark.parametrize(("role", "robot_id"), [("robot", "robot2"), ("operator", ""), ("server", "")])
def test_nobody_but_the_learner_can_publish_policies(
    context, outside, gatekeeper, credentials_of, wait_until, role: str, robot_id: str
) -> None:
    """Whoever takes the learner's address with another key of the fleet is not listened to."""
    imposter = bind_policy_publisher(context, ANY_PORT, credentials_of(role, robot_id))
    counter = HandshakeCounter(imposter)
    endpoint = bound_endpoint(imposter)
    robot = connect_policy_subscriber(outside, endpoint, credentials_of("robot", "robot1"))
    wait_until(lambda: counter.failed >= 2, what="two failed handshakes")
    imposter.send(b"evil policy")
    assert not robot.poll(200) and counter.completed == 0
    counter.close()
    imposter.close()
    learner = rebind(context, endpoint, credentials_of("learner"), wait_until)
    wait_until(lambda: robot.poll(10) or learner.poll(10), what="a subscription")  # robots poll all the time
    learner.send(b"policy")
    assert receive(robot).bytes == b"policy"


def test_without_a_gatekeeper_nobody_gets_in(context, outside, credentials_of, wait_until) -> None:
    router = bind_router(context, ANY_PORT, credentials_of("server"))
    counter = HandshakeCounter(router)
    connect_dealer(outside, bound_endpoint(router), b"me", credentials_of("robot", "robot1")).send(b"rows")
    wait_until(lambda: counter.accepted, what="a connection")
    assert not router.poll(300) and counter.completed == 0
    counter.close()


def test_a_frame_without_keys_has_no_user(context, outside) -> None:
    """What a replay server without keys must be ready for."""
    router = bind_router(context, ANY_PORT)
    connect_dealer(outside, bound_endpoint(router), b"me").send(b"hello")
    with pytest.raises(zmq.ZMQError):
        receive(router).get("User-Id")


def test_the_thread_ends_and_the_context_can_be_terminated(credentials_of) -> None:
    before = set(threading.enumerate())
    for _ in range(3):
        context: Context = zmq.Context()
        with Gatekeeper(context, credentials_of("server")):
            router = bind_router(context, ANY_PORT, credentials_of("server"))
            counter = HandshakeCounter(router)
            counter.close()
            router.close()
        context.term()
    assert set(threading.enumerate()) == before


# Revocation ------------------------------------------------------------------------------------


def test_a_revoked_key_is_nobody_within_a_second_and_does_not_get_in_again(
    router, outside, gatekeeper, credentials_of, keys, wait_until: WaitUntil
) -> None:
    lost = connect_dealer(outside, bound_endpoint(router), b"lost", credentials_of("robot", "robot1"))
    other = connect_dealer(outside, bound_endpoint(router), b"other", credentials_of("robot", "robot2"))
    lost.send(b"1")
    user_id = receive(router).get("User-Id")
    other.send(b"1")
    assert gatekeeper.who(receive(router).get("User-Id")).name == "robot2"
    assert gatekeeper.who(user_id).name == "robot1" and gatekeeper.revoked() == []

    keys.revoke("robot1")
    wait_until(lambda: gatekeeper.who(user_id) is None, timeout_s=3, what="revocation")
    lost.send(b"2")  # its connection is there still: each message is looked at
    assert gatekeeper.who(receive(router).get("User-Id")) is None

    assert gatekeeper.revoked() == ["robot1"] and gatekeeper.revoked() == []
    drop_connections(router)
    wait_until(lambda: not router.poll(10) and gatekeeper.denied, what="the refused handshake")

    def sends_again() -> bool:  # what was under way is lost, as the senders expect
        other.send(b"3")
        lost.send(b"3")
        return bool(router.poll(50))

    wait_until(sends_again, what="the other robot")
    while router.poll(300):
        assert gatekeeper.who(receive(router).get("User-Id")).name == "robot2"


def test_a_revoked_robot_hears_no_more_policies(
    publisher, outside, gatekeeper, credentials_of, keys, wait_until
) -> None:
    robot = connect_policy_subscriber(outside, bound_endpoint(publisher), credentials_of("robot", "robot1"))
    receive(publisher)
    publisher.send(b"v1")
    assert receive(robot).bytes == b"v1"
    keys.revoke("robot1")
    wait_until(gatekeeper.revoked, timeout_s=3, what="revocation")
    drop_connections(publisher)

    def is_denied() -> bool:
        # As the learner does all the time: ZeroMQ finishes what it began in calls like this.
        publisher.poll(10)
        return gatekeeper.denied > 0

    # Long enough for two attempts that ended in the gap between two listeners, 5 s each.
    wait_until(is_denied, timeout_s=30, what="the refused handshake of the revoked key")
    publisher.send(b"v2")
    assert not robot.poll(300)


# The list, without sockets ---------------------------------------------------------------------


def test_the_folder_is_looked_at_once_a_second(keys: KeyFolder, now, monkeypatch) -> None:
    allowed = AllowList(keys, lambda: now[0])
    looks: list[float] = []
    signature = allowed._signature
    monkeypatch.setattr(allowed, "_signature", lambda: looks.append(now[0]) or signature())
    public = read_public(keys.path / "robot1.pub").public
    keys.revoke("robot1")
    for now[0] in (0.0, 0.5, 0.99):
        assert allowed.get(public).name == "robot1"
    for now[0] in (1.0, 1.5, 1.9, 2.0):
        assert allowed.get(public) is None
    assert looks == [1.0, 2.0]


def test_files_changed_in_place_are_seen(keys: KeyFolder, tmp_path, now) -> None:
    allowed = AllowList(keys, lambda: now[0])
    path = keys.allowed_path / "robot1.pub"
    old = read_public(path)
    new = KeyFolder(tmp_path / "new").new("robot1", "robot")
    path.write_text((tmp_path / "new/robot1.pub").read_text())  # cp, not pnaf keys allow
    now[0] = 1.0
    assert allowed.get(old.public) is None
    assert allowed.get(new.public) == new.public_part()


def test_damage_later_shuts_out_that_key_only(keys: KeyFolder, now, caplog) -> None:
    allowed = AllowList(keys, lambda: now[0])
    robot1, robot2 = (read_public(keys.path / f"robot{i}.pub").public for i in (1, 2))
    (keys.allowed_path / "robot1.pub").write_text("{")
    now[0] = 1.0
    assert allowed.get(robot1) is None and allowed.get(robot2).name == "robot2"
    assert "robot1.pub" in caplog.text
    with pytest.raises(ConfigError, match=r"robot1.pub: not valid YAML"):
        AllowList(keys)


def test_a_key_under_two_names_is_nobodys(keys: KeyFolder, now, caplog) -> None:
    text = (keys.path / "robot1.pub").read_text()
    (keys.allowed_path / "robot3.pub").write_text(text.replace("name: robot1", "name: robot3"))
    public = read_public(keys.path / "robot1.pub").public
    assert AllowList(keys).get(public) is None
    assert "the same key as robot1" in caplog.text


def test_a_folder_that_vanishes_lets_nobody_in_until_it_is_back(keys: KeyFolder, now, caplog) -> None:
    allowed = AllowList(keys, lambda: now[0])
    public = read_public(keys.path / "robot1.pub").public
    away = keys.path / "away"
    keys.allowed_path.rename(away)
    now[0] = 1.0
    assert allowed.get(public) is None and "nobody is let in" in caplog.text
    away.rename(keys.allowed_path)
    now[0] = 2.0
    assert allowed.get(public).name == "robot1"


def test_no_allow_list_at_all_lets_nobody_in(tmp_path) -> None:
    assert AllowList(KeyFolder(tmp_path)).keys() == {}
