"""Every role times every message: what is not in the table is denied."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fleet.key_files import ROLES, AllowedKey
from fleet.messages import (
    MESSAGE_TYPES,
    FleetCommand,
    Heartbeat,
    Hello,
    Message,
    SampleRequest,
    StatusRequest,
    TailRequest,
    TransitionBatch,
)
from replay_server.authorisation import denial

CLAIMED_ROLES = ("robot", "learner", "monitor", "operator", "server", "")


def key(role: str, robots: tuple[str, ...] = ("robot1", "robot2")) -> AllowedKey:
    robot_ids = list(robots) if role == "robot" else []
    return AllowedKey.model_validate(
        {"name": "somebody", "role": role, "robots": robot_ids, "public": "0" * 40}
    )


def message(kind: type[Message], /, **fields: Any) -> Message:
    """A message whose other fields do not matter."""
    made = object.__new__(kind)
    for field in dataclasses.fields(kind):
        object.__setattr__(made, field.name, fields.get(field.name, ""))
    return made


def hello(role: str, process_id: str = "robot1") -> Message:
    return message(Hello, role=role, process_id=process_id)


def beat(role: str, process_id: str = "robot1") -> Message:
    return message(Heartbeat, role=role, process_id=process_id)


ALLOWED: dict[str, list[Message]] = {
    "robot": [hello("robot"), beat("robot"), message(TransitionBatch, robot_id="robot1")],
    "learner": [
        hello("learner"), beat("learner"),
        message(SampleRequest), message(TailRequest), message(StatusRequest),
    ],
    "operator": [hello("monitor"), message(StatusRequest), message(FleetCommand)],
    "monitor": [hello("monitor"), message(StatusRequest)],
    "server": [],
}  # fmt: skip


def all_messages() -> list[Message]:
    """Each kind of message once, those that claim a role once for each."""
    messages = [hello(role) for role in CLAIMED_ROLES] + [beat(role) for role in CLAIMED_ROLES]
    others = set(MESSAGE_TYPES.values()) - {Hello, Heartbeat}
    return messages + [message(kind, robot_id="robot1") for kind in others]


def label(a_message: Message) -> tuple[str, str]:
    return type(a_message).__name__, getattr(a_message, "role", "")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_send_exactly_these(role: str) -> None:
    passed = {label(m) for m in all_messages() if not denial(key(role), m)}
    assert passed == {label(m) for m in ALLOWED[role]}


def test_a_role_that_is_new_must_be_thought_about() -> None:
    assert set(ALLOWED) == set(ROLES)


@pytest.mark.parametrize("make", [hello, beat])
def test_a_robots_key_acts_for_its_robots_only(make) -> None:
    assert denial(key("robot"), make("robot", "robot2")) == ""
    assert (
        denial(key("robot"), make("robot", "robot3"))
        == "key somebody may act for robot1, robot2, not for 'robot3'"
    )


def test_rows_of_another_robot_are_denied() -> None:
    assert denial(key("robot"), message(TransitionBatch, robot_id="robot2")) == ""
    reason = denial(key("robot", ("robot1",)), message(TransitionBatch, robot_id="robot2"))
    assert reason == "key somebody may act for robot1, not for 'robot2'"


def test_a_learner_cannot_pose_as_a_robot() -> None:
    assert denial(key("learner"), hello("robot")) == "key somebody (learner) must not pose as a 'robot'"
    assert "must not send a TransitionBatch" in denial(key("learner"), message(TransitionBatch))


def test_a_monitor_can_command_nothing() -> None:
    reason = denial(key("monitor"), message(FleetCommand, kind="estop"))
    assert reason == "key somebody has the role monitor, which must not send a FleetCommand"


@pytest.mark.parametrize("kind", sorted(MESSAGE_TYPES.values(), key=lambda kind: kind.__name__))
def test_a_key_that_was_revoked_may_send_nothing(kind) -> None:
    assert "no longer, allowed" in denial(None, message(kind))


def test_what_a_peer_claims_is_cut_before_it_is_repeated() -> None:
    for long in (hello("x" * 10_000), hello("robot", "x" * 10_000)):
        assert len(denial(key("robot"), long)) < 200
