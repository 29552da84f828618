"""Key files, the allow-list, and which key a process works with."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import yaml

from fleet.config import ConfigError, SecurityConfig
from fleet.config_file import PACKAGED_CONFIGS, load_fleet, save_fleet
from fleet.endpoints import InsecureEndpointError
from fleet.key_files import KeyFolder, SecretKey, read_public
from fleet.keys import (
    find_credentials,
    key_problems,
    load_credentials,
    load_operator_credentials,
    make_fleet_keys,
)

SIM2 = PACKAGED_CONFIGS / "fleets/sim2.yaml"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def fleet_with(keys: Path | None, **endpoints: str):
    fleet = load_fleet(SIM2)
    update = {"security": SecurityConfig(keys=keys) if keys else None}
    if "server" in endpoints:
        server = fleet.replay_server.model_copy(update={"endpoint": endpoints["server"]})
        update["replay_server"] = server
    return fleet.model_copy(update=update)


# Files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_new_key_can_be_read_by_its_owner_only(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = KeyFolder(tmp_path / "a" / "keys")
        folder.new("robot1", "robot")
        folder.allow(read_public(folder.path / "robot1.pub"))
    finally:
        os.umask(before)
    assert mode(folder.path) == 0o700
    assert mode(folder.path / "robot1.key") == 0o600
    assert mode(folder.path / "robot1.pub") == 0o644
    assert folder.exposures() == []


def test_the_public_file_has_no_secret(keys: KeyFolder) -> None:
    secret = yaml.safe_load((keys.path / "robot1.key").read_text())
    assert secret.keys() - {"secret"} == yaml.safe_load((keys.path / "robot1.pub").read_text()).keys()
    for path in (keys.path / "robot1.pub", keys.allowed_path / "robot1.pub"):
        assert secret["secret"] not in path.read_text()


def test_a_secret_is_not_in_what_is_printed(keys: KeyFolder) -> None:
    key = keys.own()[0]
    assert key.secret not in repr(key) and key.secret not in str(key)
    assert key.secret not in repr(find_credentials(keys, "server"))


def test_every_key_is_another(tmp_path: Path) -> None:
    a, b = (
        KeyFolder(tmp_path / "a").new("server", "server"),
        KeyFolder(tmp_path / "b").new("server", "server"),
    )
    assert a.secret != b.secret and a.public != b.public and a.fingerprint != b.fingerprint
    assert len(a.fingerprint) == 16


def test_a_robot_acts_for_its_own_name_unless_told_otherwise(tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path)
    assert folder.new("robot1", "robot").robots == ["robot1"]
    assert folder.new("cell", "robot", ["left", "right"]).robots == ["left", "right"]


@pytest.mark.parametrize(
    ("name", "role", "robots", "words"),
    [
        ("../evil", "robot", None, "name = ../evil"),
        ("Robot", "robot", None, "name = Robot"),
        ("boss", "boss", None, "role = boss"),
        ("server", "server", ["robot1"], "a key of role server names no robots"),
        ("robot1", "robot", ["a b"], "robots.0 = a b"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(tmp_path: Path, name, role, robots, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        KeyFolder(tmp_path / "keys").new(name, role, robots)
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("there", ["robot1.key", "robot1.pub"])
def test_no_key_is_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(ConfigError, match=rf"{there} is there already: choose another name"):
        KeyFolder(tmp_path).new("robot1", "robot")
    assert [(tmp_path / there).read_text()] == ["mine"] and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="no key can be written"):
        KeyFolder(tmp_path / "file" / "keys").new("robot1", "robot")


DAMAGES = {
    "no such file": None,
    "role = boss": {"role": "boss"},
    "may: unknown key": {"may": "everything"},
    "public = tooshort: .* must be the 40 characters of a key": {"public": "tooshort"},
    "public = #####.*must be the 40": {"public": "#" * 40},  # the right letters, but more than 32 bits
    "a key of role robot names its robots": {"robots": []},
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_public_key_is_named(keys: KeyFolder, words: str) -> None:
    path = keys.path / "robot1.pub"
    if (change := DAMAGES[words]) is None:
        path.unlink()
    else:
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(ConfigError, match=f"robot1.pub.*{words}"):
        read_public(path)


def test_a_secret_key_is_not_taken_for_a_public_one(keys: KeyFolder) -> None:
    with pytest.raises(ConfigError, match=r"is a secret key, which stays on its machine: take robot1.pub"):
        read_public(keys.path / "robot1.key")


@pytest.mark.parametrize("secret", ["x" * 39, "x" * 40, None])
def test_a_damaged_secret_is_an_error_that_does_not_show_it(keys: KeyFolder, secret: str | None) -> None:
    path = keys.path / "robot1.key"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"secret": secret}))
    with pytest.raises(ConfigError, match="secret") as error:
        keys.own()
    assert "xxx" not in str(error.value)


# The allow-list --------------------------------------------------------------------------------


def test_a_name_keeps_its_key_unless_it_is_replaced(keys: KeyFolder, tmp_path: Path) -> None:
    new = KeyFolder(tmp_path / "new").new("robot1", "robot").public_part()
    before = keys.allowed()
    with pytest.raises(ConfigError, match=r"holds another key .* use --replace"):
        keys.allow(new)
    assert keys.allowed() == before
    keys.allow(new, replace=True)
    assert new in keys.allowed() and len(keys.allowed()) == len(before)


def test_more_rights_for_the_same_key_are_a_replacement_too(keys: KeyFolder) -> None:
    key = read_public(keys.path / "robot1.pub")
    keys.allow(key)  # the same again changes nothing
    with pytest.raises(ConfigError, match="holds another key"):
        keys.allow(key.model_copy(update={"robots": ["robot1", "robot2"]}))


def test_one_key_has_one_name(keys: KeyFolder) -> None:
    key = read_public(keys.path / "robot1.pub").model_copy(update={"name": "robot3"})
    with pytest.raises(ConfigError, match="allowed already, under the name robot1"):
        keys.allow(key)


@pytest.mark.parametrize("role", ["server", "learner"])
def test_a_fleet_has_one_server_and_one_learner(keys: KeyFolder, tmp_path: Path, role: str) -> None:
    other = KeyFolder(tmp_path / "new").new("other", role).public_part()
    with pytest.raises(ConfigError, match=f"has one {role}, and {role} .* `pnaf keys revoke {role}` first"):
        keys.allow(other)


def test_revoking_removes_and_names_what_there_is(keys: KeyFolder) -> None:
    keys.revoke("robot1")
    assert "robot1" not in [key.name for key in keys.allowed()]
    for name in ("robot1", "../robot1"):
        with pytest.raises(
            ConfigError, match=r"allows no .*robot1, only: learner, monitor, .*robot2, server"
        ):
            keys.revoke(name)


def test_a_copied_file_of_another_name_is_an_error(keys: KeyFolder) -> None:
    (keys.allowed_path / "robot1.pub").rename(keys.allowed_path / "old.pub")
    with pytest.raises(ConfigError, match=r"old.pub holds the key robot1: install keys with `pnaf"):
        keys.allowed()


# Which key a process works with ----------------------------------------------------------------


def test_each_process_finds_its_key_and_its_peers(keys: KeyFolder) -> None:
    robot = find_credentials(keys, "robot", "robot2")
    assert robot.own.name == "robot2"
    for role in ("server", "learner"):
        assert robot.key_of(role) == read_public(keys.path / f"{role}.pub").public.encode()
    assert find_credentials(keys, "server").own.role == "server"


@pytest.mark.parametrize(
    ("role", "robot_id", "command"),
    [
        ("server", "", "pnaf keys new server --role server"),
        ("robot", "robot7", "pnaf keys new robot7 --role robot"),
    ],
)
def test_a_missing_key_says_how_to_make_it(tmp_path: Path, role: str, robot_id: str, command: str) -> None:
    with pytest.raises(ConfigError, match=rf"`{command} --keys {tmp_path}`"):
        find_credentials(KeyFolder(tmp_path), role, robot_id)


@pytest.mark.parametrize(
    ("role", "peers"),
    [("learner", ["server"]), ("robot", ["server", "learner"]), ("operator", ["server"])],
)
def test_a_process_wants_to_know_its_peers_before_it_starts(tmp_path: Path, role: str, peers) -> None:
    folder, elsewhere = KeyFolder(tmp_path / "here"), KeyFolder(tmp_path / "elsewhere")
    folder.new("robot1", role)
    for peer in peers:
        with pytest.raises(ConfigError, match=f"does not know the {peer}'s key.*pnaf keys allow {peer}.pub"):
            find_credentials(folder, role, "robot1")
        folder.allow(elsewhere.new(peer, peer).public_part())
    assert find_credentials(folder, role, "robot1").own.role == role


def test_two_keys_for_one_purpose_are_an_error(keys: KeyFolder) -> None:
    keys.new("spare", "robot", ["robot9", "robot1"])
    with pytest.raises(ConfigError, match=r"several keys for robot robot1 \(robot1.key, spare.key\)"):
        find_credentials(keys, "robot", "robot1")
    keys.new("server2", "server")
    with pytest.raises(ConfigError, match=r"several server keys \(server, server2\)"):
        find_credentials(keys, "robot", "robot9")


@pytest.mark.parametrize(
    ("file", "bits", "words"),
    [
        ("robot1.key", 0o640, "can be read by others .*: chmod 600 "),
        ("robot1.key", 0o604, "can be read by others .*: chmod 600 "),
        ("allowed", 0o777, "can be changed by others .*: chmod go-w "),
        ("allowed/robot1.pub", 0o666, "can be changed by others .*: chmod go-w "),
        (".", 0o720, "can be changed by others .*: chmod go-w "),
    ],
)
def test_files_that_others_could_use_are_refused(keys: KeyFolder, file: str, bits: int, words: str) -> None:
    (keys.path / file).chmod(bits)
    assert len(keys.exposures()) == 1
    with pytest.raises(ConfigError, match=words):
        find_credentials(keys, "robot", "robot1")


def test_a_monitor_key_will_do_where_there_is_no_operators(keys: KeyFolder) -> None:
    fleet = fleet_with(keys.path)
    assert load_operator_credentials(fleet).own.role == "operator"
    (keys.path / "operator.key").unlink()
    assert load_operator_credentials(fleet).own.role == "monitor"
    (keys.path / "monitor.key").unlink()
    with pytest.raises(ConfigError, match="no key for role operator"):
        load_operator_credentials(fleet)


def test_without_a_security_group_everything_stays_on_loopback() -> None:
    assert load_credentials(fleet_with(None), "robot", "robot1") is None
    with pytest.raises(InsecureEndpointError, match=r"set replay_server.endpoint .* or make keys"):
        load_credentials(fleet_with(None, server="tcp://192.168.1.10:5710"), "robot", "robot1")


def test_what_a_whole_fleet_lacks_is_said_at_once(tmp_path: Path) -> None:
    make_fleet_keys(tmp_path, ["robot1", "robot2"])
    fleet = fleet_with(tmp_path, server="tcp://192.168.1.10:5710")
    assert key_problems(fleet) == []
    KeyFolder(tmp_path).revoke("robot1")
    (tmp_path / "robot2.key").unlink()
    problems = key_problems(fleet)
    assert len(problems) == 2
    assert "robot1 is not allowed" in problems[0] and "no key for robot robot2" in problems[1]


def test_robots_may_be_called_like_other_processes(tmp_path: Path) -> None:
    make_fleet_keys(tmp_path, ["server", "operator"])
    assert find_credentials(KeyFolder(tmp_path), "robot", "server").own.robots == ["server"]


# Config ----------------------------------------------------------------------------------------


def test_the_folder_is_relative_to_the_yaml_and_survives_the_run_folder(tmp_path: Path) -> None:
    text = SIM2.read_text().replace("../", f"{PACKAGED_CONFIGS}/")
    (tmp_path / "fleet.yaml").write_text(f"{text}\nsecurity: {{keys: my/keys}}\n")
    fleet = load_fleet(tmp_path / "fleet.yaml")
    assert fleet.security.keys == tmp_path / "my/keys"
    (tmp_path / "run").mkdir()
    save_fleet(fleet, tmp_path / "run/config.yaml")
    assert load_fleet(tmp_path / "run/config.yaml").security.keys == tmp_path / "my/keys"


def test_an_empty_group_means_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_fleet(SIM2).security is None
    default = tmp_path / ".config/parallel-naf/keys"
    assert load_fleet(SIM2, ["security={}"]).security.keys == default
    assert load_fleet(SIM2, ["security.keys=~/k"]).security.keys == tmp_path / "k"
    with pytest.raises(ConfigError, match=r"security\.key: unknown key"):
        load_fleet(SIM2, ["security={key: x}"])


def test_a_secret_does_not_leave_through_the_public_part(keys: KeyFolder) -> None:
    key = keys.own()[0]
    assert isinstance(key, SecretKey) and not isinstance(key.public_part(), SecretKey)
    assert "secret" not in key.public_part().model_dump()
