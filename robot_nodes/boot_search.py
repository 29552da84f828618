"""Under which name the server knows each boot of a replay, and how far it has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice

from fleet.messages import MAX_BACKLOG
from robot_nodes.log_plan import PlannedBoot


class BootSearch:
    """Asks for the names of all boots, as many at a time as a hello may have.

    search = BootSearch(boots)
    while names := search.ask():
        search.answer(…)                 # of each name its durable_seq
    name, durable_seq = search.found(0)
    """

    def __init__(self, boots: Sequence[PlannedBoot]) -> None:
        """Nothing is known yet."""
        self._boots = boots
        self._open = {index: list(boot.names) for index, boot in enumerate(boots)}
        self._found: dict[int, tuple[str, int]] = {}

    def ask(self) -> list[str]:
        """Names that the server is to be asked for next; none are left when all is known."""
        return list(islice(chain.from_iterable(self._open.values()), MAX_BACKLOG))

    def answer(self, durable: Mapping[str, int]) -> None:
        """Take what the server has of some names: their durable_seq, -1 if nothing."""
        for index, names in list(self._open.items()):
            asked = [name for name in names if name in durable]
            if not asked:
                break  # they are asked for in order
            there = [name for name in asked if durable[name] >= 0]
            if there:
                self._found[index] = there[0], durable[there[0]]
                del self._open[index]
            elif len(asked) == len(names):
                del self._open[index]
            else:
                self._open[index] = names[len(asked) :]

    def found(self, index: int) -> tuple[str, int]:
        """The name of a boot and its durable_seq; if the server has nothing of it, its own name and -1."""
        return self._found.get(index, (self._boots[index].names[0], -1))
