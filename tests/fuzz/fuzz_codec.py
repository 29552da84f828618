"""Any bytes are a message or a MessageError, soon and in little memory; a message survives the wire."""

from __future__ import annotations

import random
import resource

from fuzz_frames import Mutate, example_frames, frame_of, mutate_frame

from fleet.codec import decode, encode
from fleet.messages import MessageError, Transitions

MAX_BYTES = 2**16
_MAX_GROWTH_KIB = 64 * 2**10


def seeds() -> list[bytes]:
    too_deep = b"\x81\xa4kind" + b"\x91" * 1010 + b"\x01"
    trailing = b"\x80" + b"\xa1x" * 3
    return [*example_frames(), frame_of(12, too_deep, b""), frame_of(12, trailing, b""), b"PNAF"]


def mutate(data: bytes, max_bytes: int, rng: random.Random, base: Mutate) -> bytes:
    return mutate_frame(data, max_bytes, rng, base)


def check(data: bytes) -> None:
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        message = decode(data)
    except MessageError as error:
        assert len(str(error)) < 500, f"an error of {len(str(error))} characters"
    else:
        again = decode(frame := encode(message))
        assert type(again) is type(message)
        assert encode(again) == frame
        if isinstance(message, Transitions):
            assert message.packed().tobytes() == again.packed().tobytes()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before
    assert grown < _MAX_GROWTH_KIB, f"{grown} KiB for a frame of {len(data)} bytes"
