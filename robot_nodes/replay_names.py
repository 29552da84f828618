"""What a logged boot is called in the run that it is replayed into: a hash of what is replayed.

The same command, started again, finds the same name and goes on where it ended. A log that has grown
meanwhile has more episodes at its end: the name that it had before is among `replay_names`, and the replay
goes on under that. Anything else (other episodes chosen, a file gone or changed in the middle) is another
replay: numbers of rows would not mean the same rows any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

PREFIX = "replay-"
_HEX_DIGITS = 12


@dataclass(frozen=True, slots=True)
class EpisodeIdentity:
    """What tells one logged episode from any other.

    Attributes:
        first_row: Digest of its number and its first row.
        content: Digest of its number, all its rows and how it ended.
        complete: Its end was logged; otherwise more rows may come at its end.
    """

    first_row: bytes
    content: bytes
    complete: bool


def replay_names(robot_id: str, boot_id: str, episodes: Sequence[EpisodeIdentity]) -> list[str]:
    """The name of a logged boot, then those that it had when it was shorter, the longest first.

    Args:
        robot_id: Whose boot.
        boot_id: The boot as logged.
        episodes: In the order of replay, one at least.
    """
    chain = hashlib.blake2b(f"{robot_id}\0{boot_id}\0".encode())
    names: list[str] = []
    for episode in episodes:
        begun = chain.copy()
        begun.update(b"begun" + episode.first_row)
        chain.update(b"whole" + episode.content)
        names += [_name(begun.hexdigest()), _name(chain.hexdigest())]
    if not episodes[-1].complete:
        names.pop()
    return names[::-1]


def _name(digits: str) -> str:
    return PREFIX + digits[:_HEX_DIGITS]
