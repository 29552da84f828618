"""The wire schema: every message that crosses a socket, in one file.

A message is a frozen dataclass of header fields (msgpack) and arrays (raw little-endian bytes).
`column(dtype, *dims)` declares an array; the same dimension letter means the same size in every
column of a message, and the codec checks it before anything is allocated. Transitions travel as
packed rows, one record of `row_dtype(nx, nu)` each: the same bytes on the wire, in the robot's
spool, in the server's journal and in its ring.

    N rows      nx observation      nu action      P network parameters
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

PROTOCOL_VERSION = 2
MAX_FRAME_BYTES = 64 * 2**20
MAX_ROWS = 2**18

Array = npt.NDArray[Any]

GUARD_METRICS = "guard/"
"""How an episode's metrics begin that count what the guard did in all of it."""


class MessageError(ValueError):
    """A frame or a message is malformed; the text names the field and what was wrong."""


def column(dtype: str, *dims: str) -> Any:
    """Declare an array field of a message: little-endian dtype and one letter per dimension."""
    return field(metadata={"dtype": np.dtype(dtype), "dims": dims})


@dataclass(frozen=True, eq=False, kw_only=True)
class Transitions:
    """N transitions as columns; made of packed rows, the columns are views of them.

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

    @classmethod
    def from_packed(cls, packed: Array, **header: Any) -> Self:
        """A message whose columns are views of `packed`, records of `row_dtype(nx, nu)` [N]."""
        attributes = packed_attributes(packed)
        made = cls(**{name: attributes[name] for name in COLUMNS}, **header)
        made.__dict__.update(attributes)
        return made

    def packed(self) -> Array:
        """The rows as records of `row_dtype(nx, nu)` [N]; columns are copied if they stood alone.

        Raises:
            MessageError: A column has another dtype or shape than the others allow.
        """
        held: Array | None = getattr(self, "_packed", None)
        if held is not None:
            return held
        sizes: dict[str, int] = {}
        for name, spec in COLUMNS.items():
            check_array(f"{type(self).__name__}.{name}", getattr(self, name), spec, sizes)
        packed = np.zeros(self.rows, row_dtype(sizes["nx"], sizes["nu"]))
        for name in COLUMNS:
            packed[name] = getattr(self, name)
        return packed


def packed_attributes(packed: Array) -> dict[str, Array]:
    """What a message made by `from_packed` holds of its rows."""
    attributes = {name: packed[name] for name in COLUMNS}
    attributes["_packed"] = packed
    return attributes


def check_array(name: str, array: Array, spec: Mapping[str, Any], sizes: dict[str, int]) -> None:
    """Compare an array with its declaration; `sizes` collects what each dimension letter stands for.

    Raises:
        MessageError: It has another dtype or shape.
    """
    if array.dtype != spec["dtype"]:
        raise MessageError(f"{name} must be {spec['dtype']}, got {array.dtype}")
    check_shape(name, array.shape, spec["dims"], sizes)


def check_shape(name: str, shape: tuple[int, ...], dims: tuple[str, ...], sizes: dict[str, int]) -> None:
    """Compare a shape with dimension letters; see `check_array`."""
    if len(shape) != len(dims):
        raise MessageError(f"{name} must have dimensions [{', '.join(dims)}], got shape {str(shape)[:80]}")
    for dim, size in zip(dims, shape, strict=True):
        if sizes.setdefault(dim, size) != size:
            raise MessageError(f"{name}: {dim} is {size} here but {sizes[dim]} in an earlier column")
        if dim == "N" and size > MAX_ROWS:
            raise MessageError(f"{name} has {size} rows, at most {MAX_ROWS} fit one message")


COLUMNS: dict[str, Mapping[str, Any]] = {
    f.name: f.metadata for f in Transitions.__dataclass_fields__.values()
}
"""Dtype and dimensions of each column of a transition."""


@lru_cache(maxsize=64)
def row_dtype(nx: int, nu: int) -> np.dtype[Any]:
    """One packed transition: all float columns, then the flags, then the integers on 8-byte boundaries.

    In this order no size leaves a gap, and there must be none: numpy's copies leave the bytes of a gap
    undefined, and `np.concatenate` would make records of another size.
    """
    sizes = {"nx": nx, "nu": nu}
    ordered = sorted(COLUMNS.items(), key=lambda item: "fbi".index(item[1]["dtype"].kind))
    names, formats, offsets, end = [], [], [], 0
    for name, spec in ordered:
        shape = tuple(sizes[dim] for dim in spec["dims"][1:])
        width = spec["dtype"].itemsize
        end = -(-end // width) * width
        names.append(name)
        formats.append((spec["dtype"], shape))
        offsets.append(end)
        end += width * int(np.prod(shape))
    itemsize = -(-end // 8) * 8
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize})


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
    """replay server → robot: every row up to and including `durable_seq` is on the server's disk.

    Attributes:
        sealed_seq: Every row up to and including it is in a finished episode file, too: the robot may
            forget it. What lies between the two is in the server's journal only.
        cursor: The log's cursor after row `durable_seq`; may be higher after a restart of the server.
    """

    robot_id: str
    boot_id: str
    durable_seq: int
    sealed_seq: int = -1
    cursor: int = 0


@dataclass(frozen=True, kw_only=True)
class Hello:
    """Any process → replay server, first message of a connection.

    Attributes:
        role: "robot", "learner" or "monitor".
        process_id: robot id, or a name for others.
        spec: `SpaceSpec.to_json()`; robots must send it, others may leave it empty.
        oldest_seq: Robots: the oldest row they can still send. Rows before it that the server
            lacks (its disk was damaged, or the robot had no room) are lost, counted, and no longer awaited.
        backlog: Robots: earlier boots whose rows are still in their spool, each with its oldest seq; at
            most MAX_BACKLOG. Batches of these boots may follow on the same connection.
    """

    role: str
    process_id: str
    boot_id: str
    protocol_version: int = PROTOCOL_VERSION
    oldest_seq: int = 0
    backlog: dict[str, int] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)


MAX_BACKLOG = 32


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """replay server → the sender of a Hello.

    Attributes:
        server_boot_id: Changes when the server restarts: say hello again and re-send what is unacked.
        spec: The run's spec; empty until the first robot said hello.
        durable_seq: As in Ack, of this robot and boot; -1 if none.
        sealed_seq: As in Ack.
        cursor: As in Ack.
        backlog: For each boot of the hello's backlog, its [durable_seq, sealed_seq].
    """

    run_id: str
    server_boot_id: str
    spec: dict[str, Any]
    durable_seq: int = -1
    sealed_seq: int = -1
    cursor: int = 0
    backlog: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """replay server → anyone: what was asked cannot be had, and what to do about it."""

    request: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """client → replay server: `batches` minibatches of `batch_size` rows each.

    Attributes:
        demonstration_fraction: Share of each minibatch drawn from the rows in which a person moved the
            robot, if there are any; they come first in it. The rest is drawn from all rows.
    """

    request_id: int
    batches: int
    batch_size: int
    demonstration_fraction: float = 0.0


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

LAYER_NORM_EPSILON = 1e-5
"""Added to the variance where hidden layers are normalised, where a policy is trained and where it acts."""

Noise = Literal["gaussian", "precision"]
NOISES: tuple[Noise, ...] = ("gaussian", "precision")
Diagonal = Literal["bounded", "scaled", "exp"]
DIAGONALS: tuple[Diagonal, ...] = ("bounded", "scaled", "exp")


@dataclass(frozen=True, eq=False, kw_only=True)
class PolicyMessage:
    """learner → every robot: one frame that holds all a robot needs to act.

    Attributes:
        version: Rises with each publication of a run; the same version again is the same policy, sent
            again to show that the learner is there.
        learner_step: Number of updates behind this policy.
        layer_sizes: [nx, hidden…, nu] of the μ network (ReLU between, tanh at the end).
        parameters: For each layer W [out, in] in C order, then b [out]. With precision noise one more layer
            follows, from the last hidden one to what L is made of: diagonal [nu], then entries below it,
            row by row [nu (nu − 1) / 2]; and then, if the diagonal is scaled, log_scale [nu] [P].
        observation_mean: Observation normaliser [nx].
        observation_scale: 1 / standard deviation [nx]; x = (obs − mean) · scale, clipped to
            ±OBSERVATION_CLIP.
        exploration_std: Standard deviation of the action noise, in units of the action.
        exploration_correlation: Correlation of the noise from one tick to the next, in [0, 1).
        published_ns: Wall time of publication (ns), to measure latency.
        checksum: `policy_checksum(…)` of the arrays.
        layer_norm: Hidden layers are normalised before their ReLU: (z − mean) / √(var + LAYER_NORM_EPSILON).
        residual: Hidden layers as wide as their input add it to their output.
        noise: One of NOISES: "gaussian", the same for all actions; "precision", of covariance ∝ P⁻¹.
        diagonal: With precision noise, how L is made of them, one of DIAGONALS; see `learner/naf.py`.
        off_diagonal: With precision noise, L has entries below its diagonal.
        learned_rows: The log's cursor up to which all updates that the rows allow are behind this policy.
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
    layer_norm: bool = False  # policies on disk from before these keys existed are read with the defaults
    residual: bool = False
    noise: str = "gaussian"
    diagonal: str = "bounded"
    off_diagonal: bool = False
    learned_rows: int = 0
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
