"""A replay server answers whatever a few peers send, in any order, and its books stay in balance."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_frames import NU, NX, SPEC, Mutate, example_frames, mutate_frame

from fleet.codec import decode, encode
from fleet.config import ReplayServerConfig
from fleet.messages import (
    Ack,
    FleetCommand,
    Heartbeat,
    Hello,
    Message,
    MessageError,
    Refusal,
    SampleRequest,
    StatusRequest,
    TailRequest,
    TransitionBatch,
    row_dtype,
)
from fleet.spaces import SpaceSpec
from replay_server.episode_catalog import EpisodeCatalog
from replay_server.episode_file import Episode, EpisodeInfo
from replay_server.service import ReplayService

MAX_BYTES = 2**15
_MAX_STEPS = 64
_PEERS = (b"robot1", b"robot2", b"learner", b"\xff" * 255)
_CONFIG = ReplayServerConfig(
    capacity_rows=16, sample_min_rows=1, samples_per_insert=50, fsync=False, endpoint="tcp://127.0.0.1:1"
)

Step = tuple[int, bytes]
"""Who sends, and the frame."""


class Store:
    """A run folder whose disk is fast: an episode is written as soon as it is handed over."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.task = run_dir, ""
        self.catalog = EpisodeCatalog(run_dir)
        self.accepting = True
        self.backlog = self.write_errors = self.episodes_written = 0
        self._spec: SpaceSpec | None = None
        self._written: list[EpisodeInfo] = []

    def load_spec(self) -> SpaceSpec | None:
        return self._spec

    def save_spec(self, spec: SpaceSpec) -> None:
        self._spec = SpaceSpec.from_json(spec.to_json())

    def load_unfinished(self, *key: Any) -> None:
        return None

    def submit(self, episode: Episode) -> None:
        self.episodes_written += 1
        self._written.append(episode.info)

    def take_written(self) -> list[EpisodeInfo]:
        written, self._written = self._written, []
        return written


def hello(**changes: Any) -> Hello:
    values = {"role": "robot", "process_id": "robot1", "boot_id": "boot1", "spec": SPEC.to_json()}
    return Hello(**values | changes)


def batch(first_seq: int = 0, rows: int = 2, **changes: Any) -> TransitionBatch:
    packed = np.zeros(rows, row_dtype(NX, NU))
    values = {"robot_id": "robot1", "boot_id": "boot1", "episode": 0, "spec_hash": SPEC.hash}
    return TransitionBatch.from_packed(packed, first_seq=first_seq, **values | changes)


def _spec_with(**changes: Any) -> dict[str, Any]:
    spec = SPEC.to_json()
    spec["observation"].update(changes)
    return spec


def seeds() -> list[bytes]:
    beat = Heartbeat(role="robot", process_id="robot1", boot_id="boot1", state="estopped", stamp_ns=1)
    ended = {"end": "success", "metrics": {"return": 1.0}, "evaluation": True, "success": True}
    sequences: list[list[tuple[int, Message]]] = [
        [
            (0, hello()),
            (0, batch()),
            (0, batch(2, **ended)),
            (0, batch(4, episode=1)),
            (2, StatusRequest(request_id=1)),
        ],
        [
            (0, hello()),
            (0, batch(rows=20)),
            (2, SampleRequest(request_id=1, batches=2, batch_size=2)),
            (0, batch(10)),
        ],
        [(0, hello(oldest_seq=5)), (0, batch(7)), (0, batch(5)), (0, batch(0)), (0, batch(2**60 - 1))],
        [
            (0, hello(backlog={"boot0": 3})),
            (0, batch(3, boot_id="boot0")),
            (0, batch()),
            (0, batch(5, boot_id="boot0")),
        ],
        [
            (0, hello()),
            (1, hello(process_id="robot2")),
            (1, batch(robot_id="robot2")),
            (1, batch()),
            (0, batch()),
        ],
        [
            (0, hello()),
            (2, FleetCommand(kind="estop")),
            (0, beat),
            (0, hello()),
            (2, FleetCommand(kind="resume")),
        ],
        [
            (2, hello(role="learner", spec={})),
            (2, TailRequest(request_id=1, cursor=0, max_rows=9)),
            (2, beat),
        ],
        [(0, hello()), (0, batch(rows=40)), (2, TailRequest(request_id=1, cursor=3, max_rows=2**63))],
    ]
    long = "y" * 1500
    for spec in (
        _spec_with(names=[long, long]),
        _spec_with(names=[long, "a"], low=[2.0, 2.0]),
        _spec_with(units=[long, "b"]),
        _spec_with(low=[long, 0.0]),
    ):
        sequences.append([(0, hello()), (1, hello(process_id="robot2", spec=spec))])
    joined = [(who, encode(message)) for steps in sequences for who, message in steps]
    return [
        *(_join([(who, encode(message)) for who, message in steps]) for steps in sequences),
        _join([(0, encode(hello())), *((0, frame) for frame in example_frames())]),
        _join(joined),
    ]


def _join(steps: list[Step]) -> bytes:
    return b"".join(bytes([who]) + len(frame).to_bytes(2, "little") + frame for who, frame in steps)


def _split(data: bytes) -> Iterator[Step]:
    at = 0
    for _ in range(_MAX_STEPS):
        if at + 3 > len(data):
            return
        end = at + 3 + int.from_bytes(data[at + 1 : at + 3], "little")
        yield data[at], data[at + 3 : end]
        at = end


def mutate(data: bytes, max_bytes: int, rng: random.Random, base: Mutate) -> bytes:
    steps = list(_split(data)) or [(0, encode(hello()))]
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(steps))
        who, frame = steps[at]
        choice = rng.randrange(8)
        if choice == 0 and len(steps) > 1:
            del steps[at]
        elif choice == 1:
            steps.insert(rng.randrange(len(steps) + 1), steps[at])
        elif choice == 2:
            other = rng.randrange(len(steps))
            steps[at], steps[other] = steps[other], steps[at]
        elif choice == 3:
            steps[at] = (rng.randrange(256), frame)
        elif choice == 4:
            steps.insert(at, (who, rng.choice(_GOOD_FRAMES)))
        else:
            steps[at] = (who, mutate_frame(frame, 4096, rng, base))
    return _join(steps[:_MAX_STEPS])[:max_bytes]


_GOOD_FRAMES = [*example_frames(), *(frame for seed in seeds()[:-2] for _, frame in _split(seed))]


def check(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        now = [0.0]
        service = ReplayService(
            _CONFIG,
            "run",
            Store(Path(folder)),  # type: ignore[arg-type]
            clock=lambda: now[0],
            wall_ns=lambda: int(now[0] * 1e9),
            rng=np.random.default_rng(0),
        )
        try:
            _play(service, data, now)
        finally:
            service.close()


def _play(service: ReplayService, data: bytes, now: list[float]) -> None:
    for who, frame in _split(data):
        now[0] += who / 64
        identity = _PEERS[who % len(_PEERS)]
        try:
            message = decode(frame)
        except MessageError as error:
            replies = [service.malformed(identity, str(error))]
        else:
            replies = service.handle(identity, message, frame)
        if who & 4:
            replies += _settle(service)
        _check_replies(replies)
    _check_replies(_settle(service))
    _check_books(service)


def _settle(service: ReplayService) -> list[tuple[bytes, Message]]:
    replies = service.settle()
    if service.log is not None:
        assert service.log.commit(timeout_s=5.0), "not on disk within 5 s"
    return replies + service.settle()


def _check_replies(replies: list[tuple[bytes, Message]]) -> None:
    for identity, reply in replies:
        assert identity in _PEERS
        decode(encode(reply))
        if isinstance(reply, Refusal):
            assert 0 < len(reply.reason) <= 2000, f"a refusal of {len(reply.reason)} characters"
        if isinstance(reply, Ack):
            assert -1 <= reply.sealed_seq <= reply.durable_seq < 2**61


def _check_books(service: ReplayService) -> None:
    stats = service.stats()
    for name, value in stats.items():
        assert isinstance(value, str) or value >= 0, f"{name} is {value}"
    if (log := service.log) is None:
        return
    assert log.rows_inserted == log.ring.end_cursor == sum(log.rows_by_robot.values())
    assert log.ring.rows <= _CONFIG.capacity_rows and log.waiting == 0
