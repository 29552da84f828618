"""`pnaf keys` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fleet.cli import app
from fleet.key_files import KeyFolder


class Answer:
    """What came of a command."""

    def __init__(self, status: int, out: str, errors: str) -> None:
        self.status, self.out, self.errors = status, out, errors


def pnaf(*args: str) -> Answer:
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, ["keys", *args], prog_name="pnaf")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


def facts(folder: Path) -> dict:
    return json.loads(pnaf("show", "--json", "--keys", str(folder)).out)


def test_two_machines_learn_of_each_other(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    made = pnaf("new", "robot1", "--role", "robot", "--keys", str(here))
    assert made.status == 0 and "robot1.key" in made.out and "stays on this machine" in made.out
    assert pnaf("new", "server", "--role", "server", "--keys", str(there)).status == 0

    installed = pnaf("allow", str(here / "robot1.pub"), str(there / "server.pub"), "--keys", str(there))
    assert installed.status == 0
    assert "allowed: robot1, robot, acts for robot1, fingerprint " in installed.out
    own, allowed = facts(here)["own"], facts(there)["allowed"]
    assert own == [
        {"name": "robot1", "role": "robot", "robots": ["robot1"], "fingerprint": own[0]["fingerprint"]}
    ]
    assert own[0] in allowed and [key["name"] for key in allowed] == ["robot1", "server"]

    assert pnaf("revoke", "robot1", "--keys", str(there)).out == "revoked: robot1\n"
    assert [key["name"] for key in facts(there)["allowed"]] == ["server"]


def test_a_key_for_several_robots(tmp_path: Path) -> None:
    pnaf("new", "cell", "--role", "robot", "--robot", "left", "--robot", "right", "--keys", str(tmp_path))
    assert facts(tmp_path)["own"][0]["robots"] == ["left", "right"]


def test_a_wrong_name_or_role_is_one_line_and_status_2(tmp_path: Path) -> None:
    for args, words in {
        ("new", "Robot", "--role", "robot"): "name = Robot",
        ("new", "boss", "--role", "boss"): "role = boss",
        ("allow", str(tmp_path / "no.pub")): "no.pub: no such file",
        ("revoke", "nobody"): "allows no nobody, only: nobody",
    }.items():
        answer = pnaf(*args, "--keys", str(tmp_path))
        assert answer.status == 2 and words in answer.errors and answer.out == ""


def test_one_bad_file_among_several_installs_none(keys: KeyFolder, tmp_path: Path) -> None:
    new = tmp_path / "new"
    assert (
        pnaf("allow", str(keys.path / "robot1.pub"), str(keys.path / "robot2.key"), "--keys", str(new)).status
        == 2
    )
    assert not new.exists()


def test_an_existing_name_wants_a_word(keys: KeyFolder, tmp_path: Path) -> None:
    pnaf("new", "robot1", "--role", "robot", "--keys", str(tmp_path / "new"))
    file, folder = str(tmp_path / "new/robot1.pub"), str(keys.path)
    refused = pnaf("allow", file, "--keys", folder)
    assert refused.status == 2 and "--replace" in refused.errors
    assert pnaf("allow", file, "--replace", "--keys", folder).status == 0


def test_secrets_are_never_shown_and_open_ones_are_warned_of(keys: KeyFolder) -> None:
    secrets = [key.secret for key in keys.own()]
    (keys.path / "robot1.key").chmod(0o644)
    for answer in (pnaf("show", "--keys", str(keys.path)), pnaf("show", "--json", "--keys", str(keys.path))):
        assert answer.status == 0
        assert not [secret for secret in secrets if secret in answer.out + answer.errors]
        assert "robot1.key can be read by others" in answer.out + answer.errors
    for key in keys.own():
        assert key.fingerprint in pnaf("show", "--keys", str(keys.path)).out


def test_an_empty_folder_is_shown_as_such(tmp_path: Path) -> None:
    answer = pnaf("show", "--keys", str(tmp_path))
    assert answer.status == 0 and answer.out.splitlines() == [
        f"own keys in {tmp_path}: none",
        "allowed here: none",
    ]


def test_the_default_folder_is_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pnaf("new", "operator", "--role", "operator")
    assert (tmp_path / ".config/parallel-naf/keys/operator.key").exists()
