"""Which endpoints can be reached from other machines, and that this takes keys."""

from __future__ import annotations

import ipaddress

from fleet.config import DEFAULT_KEYS, ConfigError


class InsecureEndpointError(ConfigError):
    """The endpoint is reachable from other machines, and there are no keys."""


def host_of(endpoint: str) -> str:
    """The host of tcp://HOST:PORT, without the brackets of IPv6."""
    return endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")


def has_port(endpoint: str) -> bool:
    """Whether the port exists; libzmq would take 75536 for 10000."""
    port = endpoint.rpartition(":")[2]
    return port == "*" or (port.isdecimal() and int(port) <= 65535)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it; a name is trusted only if it is localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_loopback(endpoint: str, config_key: str) -> None:
    """Refuse what other machines can reach, and say how to make keys.

    Args:
        endpoint: Where a socket is to be bound or connected.
        config_key: Which key of the fleet's config has it.

    Raises:
        InsecureEndpointError: It is not on loopback.
    """
    if is_loopback(host_of(endpoint)):
        return
    raise InsecureEndpointError(
        f"{endpoint} is not on this machine alone, and without keys anybody on the network could feed, "
        f"read and command the fleet. Either set {config_key} to tcp://127.0.0.1:PORT, or make keys "
        "(docs/security.md):\n"
        "  pnaf keys new server --role server         # likewise: learner, operator\n"
        "  pnaf keys new robot1 --role robot          # on each robot\n"
        f"  pnaf keys allow {DEFAULT_KEYS}/*.pub       # and the .pub files of the other machines\n"
        f"and add to the fleet's config: security: {{keys: {DEFAULT_KEYS}}}"
    )
