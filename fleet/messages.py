"""The wire schema: every message that crosses a socket, in one file.

A message is a frozen dataclass of header fields (msgpack) and arrays (raw little-endian bytes).
`column(dtype, *dims)` declares an array; the same dimension letter means the same size in every
column of a message, and the codec checks it before anything is allocated.

    N rows      nx observation      nu action      P network parameters
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

PROTOCOL_VERSION = 1
MAX_FRAME_BYTES = 64 * 2**20
MAX_ROWS = 2**18

Array = npt.NDArray[Any]


class MessageError(ValueError):
    """A frame or a message is malformed; the text names the field and what was wrong."""


def column(dtype: str, *dims: str) -> Any:
    """Declare an array field of a message: little-endian dtype and one letter per dimension."""
    return field(metadata={"dtype": np.dtype(dtype), "dims": dims})


@dataclass(frozen=True, eq=False, kw_only=True)
class Transitions:
    """Columns of N transitions, the same on the wire, in the ring and in HDF5.

    Attributes:
        observation: What the policy saw, SI units [N, nx].
        action: What the robot executed, after the guard, in [-1, 1] [N, nu].
        policy_action: What the policy and its noise asked for, before the guard [N, nu].
        reward: Reward of the task [N].
        next_observation: What followed, before any reset [N, nx].
        terminated: The task ended here: do not bootstrap [N].
        truncated: The episode was cut here (time limit, fault): do bootstrap [N].
        intervened: A person moved the robot in this step [N].
        clipped: The guard changed the action [N].
        policy_version: Version of the policy that acted [N]; -1 before the first.
        stamp_ns: ROS time of the observation (ns) [N].
    """

    observation: Array = column("<f4", "N", "nx")
    action: Array = column("<f4", "N", "nu")
    policy_action: Array = column("<f4", "N", "nu")
    reward: Array = column("<f4", "N")
    next_observation: Array = column("<f4", "N", "nx")
    terminated: Array = column("|b1", "N")
    truncated: Array = column("|b1", "N")
    intervened: Array = column("|b1", "N")
    clipped: Array = column("|b1", "N")
    policy_version: Array = column("<i8", "N")
    stamp_ns: Array = column("<i8", "N")

    @property
    def rows(self) -> int:
        """Number of transitions N."""
        return len(self.reward)


EndReason = Literal["success", "failure", "time_limit", "fault", "stopped", "intervention"]
FINISHED: tuple[EndReason, ...] = ("success", "failure", "time_limit")
"""Ends of episodes that ran to their end, so that the task's verdict counts."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TransitionBatch(Transitions):
    """robot → replay server: consecutive transitions of one episode.

    Attributes:
        robot_id: Who sends; unique in the fleet.
        boot_id: Which start of the robot process; `seq` counts from 0 in each.
        first_seq: Sequence number of row 0; row i has first_seq + i.
        episode: Index of the episode in this boot.
        evaluation: The episode ran noise-free to measure the policy.
        end: Empty until the last row of the episode is in the batch, then why it ended.
        success: The task's verdict; meaningful with `end`.
        metrics: Numbers about the episode (`final_distance_m`, `return`, …); with `end`.
    """

    robot_id: str
    boot_id: str
    first_seq: int
    episode: int
    spec_hash: str
    evaluation: bool = False
    end: str = ""
    success: bool = False
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ack:
    """replay server → robot: every row up to and including `durable_seq` is stored."""

    robot_id: str
    boot_id: str
    durable_seq: int


@dataclass(frozen=True, kw_only=True)
class Hello:
    """Any process → replay server, first message of a connection.

    Attributes:
        role: "robot", "learner" or "monitor".
        process_id: robot id, or a name for others.
        spec: `SpaceSpec.to_json()`; robots must send it, others may leave it empty.
        oldest_seq: Robots: the oldest row they can still send. Rows before it that the server
            lacks (it was killed before they were on disk) are lost, counted, and no longer awaited.
    """

    role: str
    process_id: str
    boot_id: str
    protocol_version: int = PROTOCOL_VERSION
    oldest_seq: int = 0
    spec: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """replay server → the sender of a Hello.

    Attributes:
        server_boot_id: Changes when the server restarts: say hello again and re-send what is unacked.
        spec: The run's spec; empty until the first robot said hello.
        durable_seq: Highest stored seq of this robot and boot; -1 if none.
    """

    run_id: str
    server_boot_id: str
    spec: dict[str, Any]
    durable_seq: int = -1


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """replay server → anyone: what was asked cannot be had, and what to do about it."""

    request: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """client → replay server: `batches` minibatches of `batch_size` rows each."""

    request_id: int
    batches: int
    batch_size: int


@dataclass(frozen=True, eq=False, kw_only=True)
class SampleReply(Transitions):
    """replay server → client: N = batches × batch_size rows, minibatch after minibatch."""

    request_id: int
    batches: int
    cursor: Array = column("<i8", "N")


@dataclass(frozen=True, kw_only=True)
class TailRequest:
    """client → replay server: the rows from `cursor` on, at most `max_rows`."""

    request_id: int
    cursor: int
    max_rows: int


@dataclass(frozen=True, eq=False, kw_only=True)
class TailReply(Transitions):
    """replay server → client: rows `first_cursor … next_cursor - 1` in order of arrival.

    `first_cursor` is above the cursor asked for when the ring has already dropped rows;
    `end_cursor` is where the log ends now.
    """

    request_id: int
    first_cursor: int
    next_cursor: int
    end_cursor: int


OBSERVATION_CLIP = 10.0
"""Normalised observations are clipped to ± this, where a policy is trained and where it acts."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PolicyMessage:
    """learner → every robot: one frame that holds all a robot needs to act.

    Attributes:
        version: Rises with each publication of a run; the same version again is the same policy, sent
            again to show that the learner is there.
        learner_step: Number of updates behind this policy.
        layer_sizes: [nx, hidden…, nu] of the μ network (ReLU between, tanh at the end).
        parameters: For each layer W [out, in] in C order, then b [out] [P].
        observation_mean: Observation normaliser [nx].
        observation_scale: 1 / standard deviation [nx]; x = (obs − mean) · scale, clipped to
            ±OBSERVATION_CLIP.
        exploration_std: Standard deviation of the action noise, in units of the action.
        exploration_correlation: Correlation of the noise from one tick to the next, in [0, 1).
        published_ns: Wall time of publication (ns), to measure latency.
        checksum: `policy_checksum(…)` of the arrays.
    """

    run_id: str
    version: int
    learner_step: int
    spec_hash: str
    layer_sizes: list[int]
    exploration_std: float
    exploration_correlation: float
    published_ns: int
    checksum: str
    parameters: Array = column("<f4", "P")
    observation_mean: Array = column("<f4", "nx")
    observation_scale: Array = column("<f4", "nx")


def policy_checksum(parameters: Array, observation_mean: Array, observation_scale: Array) -> str:
    """32 hex digits over the arrays of a policy."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (parameters, observation_mean, observation_scale):
        digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """Any process → replay server, about once a second: what `pnaf fleet status` shows.

    Attributes:
        state: One word: "waiting", "running", "paused", "stopped", "fault", …
        stats: Flat slash keys to numbers or short strings (`robot/episodes`, `learner/updates`).
    """

    role: str
    process_id: str
    boot_id: str
    state: str
    stamp_ns: int
    stats: dict[str, Any] = field(default_factory=dict)


CommandKind = Literal["pause", "resume", "stop", "estop"]
COMMAND_KINDS: tuple[CommandKind, ...] = ("pause", "resume", "stop", "estop")


@dataclass(frozen=True, kw_only=True)
class FleetCommand:
    """operator → replay server → robots: what a person wants the fleet to do.

    Attributes:
        kind: "pause", "resume", "stop" or "estop".
        target: A robot id, or "*" for all.
        reason: Free text, shown on the robots and in the status.
    """

    kind: str
    target: str = "*"
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class CommandReceipt:
    """replay server → operator: the robots a FleetCommand was passed to.

    Attributes:
        note: What else the operator must know, as which robots stay e-stopped; mostly empty.
    """

    kind: str
    delivered_to: list[str]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class StatusRequest:
    """Anyone → replay server: what is going on?"""

    request_id: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """replay server → asker: its own numbers and the newest heartbeat of each process.

    Attributes:
        stats: The server's `stats()`.
        processes: One mapping per process: the fields of its Heartbeat and `age_s`.
        evaluations: The newest noise-free episodes, oldest first: robot_id, success,
            policy_version, metrics.
        last_command: Kind of the newest FleetCommand; empty if none.
    """

    request_id: int
    run_id: str
    stats: dict[str, Any]
    processes: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    last_command: str = ""


Message = (
    TransitionBatch
    | Ack
    | Hello
    | Welcome
    | Refusal
    | SampleRequest
    | SampleReply
    | TailRequest
    | TailReply
    | PolicyMessage
    | Heartbeat
    | FleetCommand
    | CommandReceipt
    | StatusRequest
    | Status
)

# The number is the type byte on the wire: never reuse one, add at the end.
MESSAGE_TYPES: dict[int, type[Message]] = {
    1: TransitionBatch,
    2: Ack,
    3: Hello,
    4: Welcome,
    5: Refusal,
    6: SampleRequest,
    7: SampleReply,
    8: TailRequest,
    9: TailReply,
    10: PolicyMessage,
    11: Heartbeat,
    12: FleetCommand,
    13: CommandReceipt,
    14: StatusRequest,
    15: Status,
}
