"""Writes episode files in a process of its own, so that HDF5 takes no time from the server's loop.

A file costs several milliseconds of Python and HDF5, all of them under the interpreter's lock; in the
server's process each would be a pause for every robot and the learner. The child (`python -m
replay_server.sealer`) reads episodes from its standard input and answers each on its standard output;
it ends when the server does, however that ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import msgpack
import numpy as np

from fleet.messages import Transitions, row_dtype
from fleet.spaces import SpaceSpec
from replay_server.episode_catalog import seal_episode
from replay_server.episode_file import Episode, EpisodeInfo, episode_path

_LENGTH = struct.Struct("<I")
_NICENESS = 10  # a file may wait, a robot's ack should not


class Sealer:
    """The child and the line to it; use it from one thread.

    sealer = Sealer()
    path = sealer.write(run_dir, episode)
    sealer.close()
    """

    def __init__(self) -> None:
        """Start the child with the first episode."""
        self._child: subprocess.Popen[bytes] | None = None

    def write(self, run_dir: Path, episode: Episode) -> Path:
        """Write one episode whole, as `episode_catalog.seal_episode`.

        Raises:
            OSError: The disk is full or not writable, or the child died; try again.
        """
        child = self._child or self._start()
        assert child.stdin is not None and child.stdout is not None
        # Absolute: the child runs in another directory.
        facts = asdict(episode.info)
        header = {"run_dir": str(run_dir.resolve()), "info": facts, "spec": episode.spec.to_json()}
        packed = np.ascontiguousarray(episode.transitions.packed())
        arrays = [array.view(np.uint8).data for array in (packed, episode.seq, episode.cursor)]
        try:
            _send(child.stdin, [msgpack.packb(header), *arrays])
            (answer,) = _receive(child.stdout, 1)
        except (OSError, EOFError) as error:
            self.close()
            raise OSError(f"the process that writes episodes died: {error}") from error
        if answer:
            number, text = msgpack.unpackb(answer)
            raise OSError(number, text)
        info = episode.info
        return episode_path(run_dir, info.robot_id, info.boot_id, info.episode)

    def _start(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "replay_server.sealer"]
        self._child = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parents[1]
        )
        return self._child

    def close(self) -> None:
        """Let the child end."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None and child.stdout is not None
        with contextlib.suppress(OSError):  # it may be gone already
            child.stdin.close()
        child.wait()
        child.stdout.close()


def _send(stream: IO[bytes], parts: Sequence[bytes | memoryview]) -> None:
    for part in parts:
        stream.write(_LENGTH.pack(len(part)))
        stream.write(part)
    stream.flush()


def _receive(stream: IO[bytes], count: int) -> list[bytes]:
    """Read parts; EOFError if the other side is gone."""
    parts = []
    for _ in range(count):
        (length,) = _LENGTH.unpack(_read_exactly(stream, _LENGTH.size))
        parts.append(_read_exactly(stream, length))
    return parts


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError("end of file")
    return data


def _unpack(header: dict[str, Any], packed: bytes, seq: bytes, cursor: bytes) -> Episode:
    spec = SpaceSpec.from_json(header["spec"])
    rows = np.frombuffer(packed, row_dtype(spec.observation.size, spec.action.size))
    return Episode(
        info=EpisodeInfo(**header["info"]),
        spec=spec,
        transitions=Transitions.from_packed(rows),
        seq=np.frombuffer(seq, "<i8"),
        cursor=np.frombuffer(cursor, "<i8"),
    )


def main() -> None:
    """Write what comes on standard input until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the server decides when all is written
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            header, *arrays = _receive(source, 4)
        except EOFError:
            return
        described = msgpack.unpackb(header)
        answer = b""
        try:
            seal_episode(Path(described["run_dir"]), _unpack(described, *arrays))
        except Exception as error:  # whatever it is, the server tries again and says so
            answer = msgpack.packb([getattr(error, "errno", None) or 0, str(error)])
        try:
            _send(sink, [answer])
        except OSError:  # the server is gone
            return


if __name__ == "__main__":
    main()
