"""Which key may send which message: the rights of each role, in one table of functions."""

from __future__ import annotations

from collections.abc import Callable

from fleet.key_files import AllowedKey, Role
from fleet.messages import (
    FleetCommand,
    Heartbeat,
    Hello,
    Message,
    SampleRequest,
    StatusRequest,
    TailRequest,
    TransitionBatch,
)


def denial(sender: AllowedKey | None, message: Message) -> str:
    """Why the holder of a key must not send this message to a replay server; empty if it may.

    Args:
        sender: Whose key the message came with; None: the key is no longer allowed.
        message: As decoded.
    """
    if sender is None:
        return "this key is not, or no longer, allowed here (pnaf keys show, pnaf keys allow)"
    kind = type(message)
    right = _RIGHTS.get((sender.role, kind))
    if right is None:
        return f"key {sender.name} has the role {sender.role}, which must not send a {kind.__name__}"
    return right(sender, message)


def _always(_sender: AllowedKey, _message: Message) -> str:
    return ""


def _as_learner(sender: AllowedKey, message: Message) -> str:
    return _in_role(sender, message, "learner")


def _as_monitor(sender: AllowedKey, message: Message) -> str:
    return _in_role(sender, message, "monitor")


def _in_role(sender: AllowedKey, message: Message, role: str) -> str:
    """A connection's role is not the key's: operators and monitors both say hello as monitors."""
    assert isinstance(message, Hello | Heartbeat)
    if message.role == role:
        return ""
    return f"key {sender.name} ({sender.role}) must not pose as a {message.role[:40]!r}"


def _as_own_robot(sender: AllowedKey, message: Message) -> str:
    if isinstance(message, TransitionBatch):
        robot_id = message.robot_id
    else:
        assert isinstance(message, Hello | Heartbeat)
        if wrong := _in_role(sender, message, "robot"):
            return wrong
        robot_id = message.process_id
    if robot_id in sender.robots:
        return ""
    return f"key {sender.name} may act for {', '.join(sender.robots)}, not for {robot_id[:80]!r}"


_RIGHTS: dict[tuple[Role, type[Message]], Callable[[AllowedKey, Message], str]] = {
    ("robot", Hello): _as_own_robot,
    ("robot", TransitionBatch): _as_own_robot,
    ("robot", Heartbeat): _as_own_robot,
    ("learner", Hello): _as_learner,
    ("learner", Heartbeat): _as_learner,
    ("learner", SampleRequest): _always,
    ("learner", TailRequest): _always,
    ("learner", StatusRequest): _always,
    ("operator", Hello): _as_monitor,
    ("operator", StatusRequest): _always,
    ("operator", FleetCommand): _always,
    ("monitor", Hello): _as_monitor,
    ("monitor", StatusRequest): _always,
}
