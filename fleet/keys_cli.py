"""`pnaf keys`: makes, installs, shows and revokes the keys of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fleet.cli_output import Json, clear_errors, escape, print_json, tell
from fleet.config import DEFAULT_KEYS
from fleet.key_files import ROLES, AllowedKey, KeyFolder, read_public

keys_app = typer.Typer(
    help="Make and install the keys that protect a fleet on a network; docs/security.md goes through it.",
    no_args_is_help=True,
)

Folder = Annotated[
    Path, typer.Option("--keys", metavar="DIR", help="This machine's keys, as in the config: security.keys.")
]
_HERE = Path(DEFAULT_KEYS)


def _say(text: str) -> None:
    Console().print(escape(text), highlight=False, soft_wrap=True)


def _facts(key: AllowedKey) -> dict[str, Any]:
    return key.model_dump(include={"name", "role", "robots"}) | {"fingerprint": key.fingerprint}


@keys_app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the machine or process; the file's name.")],
    role: Annotated[str, typer.Option(metavar="|".join(ROLES), help="What the key may do.")],
    robots: Annotated[
        list[str] | None,
        typer.Option("--robot", metavar="ID", help="Robot that it acts for; repeatable; default: NAME."),
    ] = None,
    folder: Folder = _HERE,
) -> None:
    """Make a key pair: NAME.key stays here, NAME.pub goes to the machines that are to know it."""
    keys = KeyFolder(folder.expanduser())
    with clear_errors():
        key = keys.new(name, role, robots)
    _say(f"{keys.path / name}.key  secret, stays on this machine")
    _say(f"{keys.path / name}.pub  to be copied; role {role}, fingerprint {key.fingerprint}")


@keys_app.command()
def allow(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.pub …", help="Public keys to let in.")],
    replace: Annotated[bool, typer.Option(help="A key of that name may be another one.")] = False,
    folder: Folder = _HERE,
) -> None:
    """Let in the holders of these keys; running servers take notice within a second."""
    keys = KeyFolder(folder.expanduser())
    with clear_errors():
        for key in [read_public(file.expanduser()) for file in files]:
            keys.allow(key, replace)
            _say(f"allowed: {key.name}, {_rights(key)}, fingerprint {key.fingerprint}")


@keys_app.command()
def revoke(
    names: Annotated[list[str], typer.Argument(metavar="NAME …", help="As `pnaf keys show` has them.")],
    folder: Folder = _HERE,
) -> None:
    """Let somebody in no more: at once for new messages and connections, without a restart."""
    keys = KeyFolder(folder.expanduser())
    with clear_errors():
        for name in names:
            keys.revoke(name)
            _say(f"revoked: {name}")


@keys_app.command()
def show(
    folder: Folder = _HERE,
    as_json: Json = False,
) -> None:
    """List this machine's keys and those that it lets in; secrets are never shown."""
    keys = KeyFolder(folder.expanduser())
    with clear_errors():
        own, allowed, warnings = keys.own(), keys.allowed(), keys.exposures()
    if as_json:
        facts = {"keys": str(keys.path), "own": [*map(_facts, own)], "allowed": [*map(_facts, allowed)]}
        print_json(facts | {"warnings": warnings})
        return
    for title, listed in ((f"own keys in {keys.path}", own), ("allowed here", allowed)):
        table = Table("name", "role", "robots", "fingerprint", title=title, title_justify="left", box=None)
        for key in listed:
            table.add_row(key.name, key.role, ", ".join(key.robots), key.fingerprint)
        Console().print(table if listed else f"{title}: none", highlight=False, soft_wrap=True)
    for warning in warnings:
        tell(Console(stderr=True), "warning", warning)


def _rights(key: AllowedKey) -> str:
    return f"robot, acts for {', '.join(key.robots)}" if key.role == "robot" else f"role {key.role}"
