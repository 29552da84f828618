"""Policies on disk: what the learner saves beside each checkpoint, read without torch."""

from __future__ import annotations

from pathlib import Path

from fleet.codec import decode
from fleet.messages import MessageError, PolicyMessage
from fleet.run_folder import POLICY_FILE, RunFolder
from robot_nodes.policy import PolicyError


def run_policy_file(run: RunFolder) -> Path:
    """The policy that the run ended with, or else that of its newest checkpoint.

    Raises:
        PolicyError: There is none.
    """
    if run.policy.is_file():
        return run.policy
    files = sorted(run.checkpoints.glob(f"[0-9]*/{POLICY_FILE}"))
    if not files:
        raise PolicyError(
            f"{run.checkpoints}: no policy was saved there; did the learner run and end in order?"
        )
    return files[-1]


def read_policy(path: Path) -> PolicyMessage:
    """A saved policy; `NumpyPolicy.from_message` checks that it fits the robot.

    Raises:
        PolicyError: The file is missing, damaged or something else.
    """
    try:
        message = decode(path.read_bytes())
    except (OSError, MessageError) as error:
        raise PolicyError(f"{path}: cannot be read as a policy: {error}") from error
    if not isinstance(message, PolicyMessage):
        raise PolicyError(f"{path}: holds a {type(message).__name__}, not a policy")
    return message
