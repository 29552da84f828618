"""The keys a process works with: its own pair, and those that its peers must have.

credentials = load_credentials(fleet, "robot", robot_id)     # None: the fleet has no keys
dealer = connect_dealer(context, endpoint, identity, credentials)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fleet.config import ConfigError, FleetConfig
from fleet.endpoints import check_loopback
from fleet.key_files import AllowedKey, KeyFolder, Role, SecretKey

_PEERS: dict[Role, tuple[Role, ...]] = {
    "server": (),
    "learner": ("server",),
    "robot": ("server", "learner"),
    "operator": ("server",),
    "monitor": ("server",),
}
"""Whose key each role must know before it starts."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """One process's key pair and the folder that says whom it trusts.

    Attributes:
        own: The key pair.
        folder: Where it came from; its `allowed/` is read again whenever it changes.
    """

    own: SecretKey
    folder: KeyFolder

    def key_of(self, role: Role) -> bytes:
        """The public key that the peer with this role must prove to have.

        Raises:
            ConfigError: None is known, or more than one.
        """
        keys = (*self.folder.allowed(), *self.folder.own())
        known = {key.public: key.name for key in keys if key.role == role}
        if len(known) == 1:
            return next(iter(known)).encode()
        if known:
            names = ", ".join(sorted(known.values()))
            raise ConfigError(f"{self.folder.path}: several {role} keys ({names}): remove all but one")
        raise ConfigError(
            f"{self.folder.path} does not know the {role}'s key: copy its .pub file from the machine "
            f"where it was made, then `pnaf keys allow {role}.pub --keys {self.folder.path}`"
        )


def find_credentials(folder: KeyFolder, role: Role, robot_id: str = "") -> Credentials:
    """This machine's key for a role; for a robot, the one that may act for it.

    Raises:
        ConfigError: There is none, or more than one, or others could read or change the files.
    """
    if exposures := folder.exposures():
        raise ConfigError("\n".join(exposures))
    keys = [key for key in folder.own() if key.role == role and (role != "robot" or robot_id in key.robots)]
    whose = f"robot {robot_id}" if role == "robot" else f"role {role}"
    if not keys:
        name = robot_id or role
        raise ConfigError(
            f"{folder.path} has no key for {whose}: "
            f"make it with `pnaf keys new {name} --role {role} --keys {folder.path}`"
        )
    if len(keys) > 1:
        names = ", ".join(f"{key.name}.key" for key in keys)
        raise ConfigError(f"{folder.path} has several keys for {whose} ({names}): remove all but one")
    credentials = Credentials(keys[0], folder)
    for peer in _PEERS[role]:
        credentials.key_of(peer)
    return credentials


def load_credentials(fleet: FleetConfig, role: Role, robot_id: str = "") -> Credentials | None:
    """What the fleet's config says about keys; None: it has no `security` group.

    Raises:
        ConfigError: A key is missing or unsafe; or there are none and an endpoint is not on loopback.
    """
    if fleet.security is None:
        check_loopback(fleet.replay_server.endpoint, "replay_server.endpoint")
        check_loopback(fleet.learner.policy_endpoint, "learner.policy_endpoint")
        return None
    return find_credentials(KeyFolder(fleet.security.keys), role, robot_id)


def load_operator_credentials(fleet: FleetConfig) -> Credentials | None:
    """For the command line: the operator's key, or a monitor's where only that is.

    Raises:
        ConfigError: As `load_credentials`.
    """
    if fleet.security is not None:
        own = {key.role for key in KeyFolder(fleet.security.keys).own()}
        if "monitor" in own and "operator" not in own:
            return load_credentials(fleet, "monitor")
    return load_credentials(fleet, "operator")


def make_fleet_keys(path: Path, robot_ids: list[str]) -> None:
    """New keys for every process of a fleet on one machine, each allowed.

    Raises:
        ConfigError: The folder has such keys already or cannot be written.
    """
    folder = KeyFolder(path)
    roles: tuple[Role, ...] = ("server", "learner", "operator")
    for role in roles:
        folder.allow(folder.new(role, role).public_part())
    for robot_id in robot_ids:
        name = f"robot_{robot_id}" if robot_id in roles else robot_id
        folder.allow(folder.new(name, "robot", [robot_id]).public_part())


def key_problems(fleet: FleetConfig) -> list[str]:
    """What keeps a fleet that runs on this machine alone from starting with its keys."""
    processes: list[tuple[Role, str]] = [("server", ""), ("learner", ""), ("operator", "")]
    processes += [("robot", entry.id) for entry in fleet.robots]
    problems: list[str] = []
    for role, robot_id in processes:
        try:
            credentials = load_credentials(fleet, role, robot_id)
            if credentials is not None and role != "server":
                _check_allowed(credentials)
        except ConfigError as error:
            problems += str(error).splitlines()
    return list(dict.fromkeys(problems))


def _check_allowed(credentials: Credentials) -> None:
    own, folder = credentials.own.public_part(), credentials.folder
    if not any(_same(own, key) for key in folder.allowed()):
        raise ConfigError(
            f"{own.name} is not allowed in {folder.path}: "
            f"`pnaf keys allow {folder.path / own.name}.pub --keys {folder.path}`"
        )


def _same(key: AllowedKey, other: AllowedKey) -> bool:
    return (key.public, key.role, key.robots) == (other.public, other.role, other.robots)
