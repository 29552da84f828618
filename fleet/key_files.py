"""Key files: the key pairs of one machine, and the list of those that may come in.

| file | |
|---|---|
| `NAME.key` | secret, 0600; never leaves its machine |
| `NAME.pub` | its public part, to be copied to the machines that it talks to |
| `allowed/NAME.pub` | who may come in, and the keys that the server and the learner must have |
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

import yaml
import zmq
from pydantic import AfterValidator, Field, ValidationError, model_validator
from typing_extensions import Self
from zmq.utils import z85

from fleet.config import ConfigError
from fleet.config_errors import explain
from fleet.config_file import read_yaml
from fleet.config_model import Model, Name

Role = Literal["server", "learner", "robot", "operator", "monitor"]
ROLES: tuple[Role, ...] = get_args(Role)
UNIQUE_ROLES: tuple[Role, ...] = ("server", "learner")
"""Roles that a fleet has once: their clients check that they talk to exactly this key."""


def _is_key(text: str) -> str:
    try:
        if len(text) == 40 and len(z85.decode(text.encode("ascii"))) == 32:
            return text
    except (ValueError, KeyError, struct.error):
        pass
    raise ValueError("must be the 40 characters of a key")


Z85Key = Annotated[str, AfterValidator(_is_key)]


def fingerprint(public: str) -> str:
    """16 hex digits for a public key."""
    return blake2b(public.encode(), digest_size=8).hexdigest()


class AllowedKey(Model):
    """The public part of a key: what it is called and what it may do."""

    name: Name
    role: Role
    robots: list[Name] = Field([], description="Role robot: the robot ids it may act for.")
    public: Z85Key

    @model_validator(mode="after")
    def _check_robots(self) -> Self:
        if (self.role == "robot") != bool(self.robots):
            raise ValueError(f"a key of role {self.role} names {'no' if self.robots else 'its'} robots")
        return self

    @property
    def fingerprint(self) -> str:
        """16 hex digits to compare by eye or over the phone."""
        return fingerprint(self.public)


class SecretKey(AllowedKey):
    """A whole key pair."""

    secret: Z85Key = Field(repr=False)

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if zmq.curve_public(self.secret.encode()).decode() != self.public:
            raise ValueError("secret and public do not belong together: make a new key")
        return self

    def public_part(self) -> AllowedKey:
        """What may be shown and copied."""
        return AllowedKey(name=self.name, role=self.role, robots=self.robots, public=self.public)


_Key = TypeVar("_Key", bound=AllowedKey)


def _read(path: Path, model: type[_Key]) -> _Key:
    data = read_yaml(path)
    if model is AllowedKey and "secret" in data:
        raise ConfigError(f"{path} is a secret key, which stays on its machine: take {path.stem}.pub")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [explain(path, e) for e in error.errors() if e["loc"][:1] != ("secret",)]
        secret = f"{path}: secret: is missing or is not a key"  # never shown, not even a wrong one
        raise ConfigError("\n".join(problems) or secret) from None


def _dump(key: AllowedKey, comment: str) -> bytes:
    return f"# {comment}\n{yaml.safe_dump(key.model_dump(), sort_keys=False)}".encode()


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not be there yet, with this mode from its first moment."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_public(path: Path) -> AllowedKey:
    """One .pub file.

    Raises:
        ConfigError: It is missing, malformed, or a secret key.
    """
    return _read(path, AllowedKey)


def read_allowed(path: Path) -> AllowedKey:
    """One file of the allow-list; its name is the key's, so that `revoke` finds it.

    Raises:
        ConfigError: It is missing, malformed, or named otherwise.
    """
    if path.stem != (key := read_public(path)).name:
        raise ConfigError(f"{path} holds the key {key.name}: install keys with `pnaf keys allow`, not cp")
    return key


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """One machine's keys; every method that cannot do its work raises ConfigError.

    folder = KeyFolder(path)
    folder.new("robot1", "robot")              # robot1.key and robot1.pub
    folder.allow(Path("robot1.pub"))           # allowed/robot1.pub
    """

    path: Path

    @property
    def allowed_path(self) -> Path:
        """Where the public keys of those lie that may come in."""
        return self.path / "allowed"

    def new(self, name: str, role: str, robots: list[str] | None = None) -> SecretKey:
        """Make a key pair; a robot's key acts for the robot of its own name unless told otherwise."""
        robots = robots or ([name] if role == "robot" else [])
        public, secret = (part.decode() for part in zmq.curve_keypair())
        try:
            key = SecretKey.model_validate(
                {"name": name, "role": role, "robots": robots, "public": public, "secret": secret}
            )
        except ValidationError as error:
            raise ConfigError("\n".join(explain(Path("pnaf keys new"), e) for e in error.errors())) from None
        try:
            self._make(self.path)
            for path in (self._file(name, "key"), self._file(name, "pub")):
                if path.exists():
                    raise ConfigError(f"{path} is there already: choose another name, or remove it first")
            comment = f"Secret: stays on this machine, in this file. Copy {name}.pub instead."
            _write(self._file(name, "key"), _dump(key, comment), 0o600)
            comment = "Public: install it with `pnaf keys allow` where this key is to be known."
            _write(self._file(name, "pub"), _dump(key.public_part(), comment), 0o644)
        except OSError as error:
            raise ConfigError(f"{self.path}: no key can be written: {error}") from error
        return key

    def allow(self, key: AllowedKey, replace: bool = False) -> Path:
        """Install a public key; a name that stands for another key is kept unless `replace`."""
        target = self.allowed_path / f"{key.name}.pub"
        for other in self.allowed():
            if other.name == key.name:
                if other != key and not replace:
                    raise ConfigError(
                        f"{target} holds another key ({other.role}, {other.fingerprint}); "
                        f"use --replace if {key.role}, {key.fingerprint} is to take its place"
                    )
            elif other.public == key.public:
                raise ConfigError(f"this key is allowed already, under the name {other.name}")
            elif other.role == key.role and key.role in UNIQUE_ROLES:
                raise ConfigError(
                    f"a fleet has one {key.role}, and {other.name} is allowed as such: "
                    f"`pnaf keys revoke {other.name}` first"
                )
        try:
            self._make(self.path)
            self._make(self.allowed_path)
            temporary = self.allowed_path / f".{key.name}.tmp"  # a running server never sees half a file
            temporary.unlink(missing_ok=True)
            _write(temporary, _dump(key, "Allowed here. `pnaf keys revoke` takes it away."), 0o644)
            temporary.replace(target)
        except OSError as error:
            raise ConfigError(f"{target} cannot be written: {error}") from error
        return target

    def revoke(self, name: str) -> Path:
        """Remove a key from those that may come in."""
        path = self.allowed_path / f"{name}.pub"
        if name not in (known := [file.stem for file in self._allowed_files()]):
            raise ConfigError(f"{self.path} allows no {name}, only: {', '.join(known) or 'nobody'}")
        try:
            path.unlink()
        except OSError as error:
            raise ConfigError(f"{path} cannot be removed: {error}") from error
        return path

    def own(self) -> list[SecretKey]:
        """The key pairs of this machine, by name."""
        return [_read(path, SecretKey) for path in sorted(self.path.glob("*.key"))]

    def allowed(self) -> list[AllowedKey]:
        """The public keys that are allowed, by name."""
        return [read_allowed(path) for path in self._allowed_files()]

    def exposures(self) -> list[str]:
        """What others on this machine could read or change, each with the command that ends it."""
        found = [
            f"{path} can be read by others on this machine: chmod 600 {path}"
            for path in sorted(self.path.glob("*.key"))
            if stat.S_IMODE(path.stat().st_mode) & 0o077
        ]
        found += [
            f"{path} can be changed by others on this machine: chmod go-w {path}"
            for path in (self.path, self.allowed_path, *self._allowed_files())
            if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o022
        ]
        return found

    def _allowed_files(self) -> list[Path]:
        return sorted(self.allowed_path.glob("*.pub"))

    def _file(self, name: str, kind: str) -> Path:
        return self.path / f"{name}.{kind}"

    @staticmethod
    def _make(folder: Path) -> None:
        """A folder for its owner only; one that is there stays as it is."""
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
