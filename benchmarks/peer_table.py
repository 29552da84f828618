"""Other replay buffers beside ours in the tables of a benchmark, with the ratios."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common.peer_environment import PeerEnvironment, PeerProcess, running_peers
from benchmarks.replay_peers import PEERS

ROOT = Path(__file__).resolve().parents[1]
NOT_INSTALLABLE = {"agentlace": "not on the package index, only as a source repository"}


class PeerTable:
    """Other buffers in the tables: their rows, and how ours compares. There are none without --peers."""

    def __init__(self, running: dict[str, PeerProcess], missing: dict[str, str]) -> None:
        self.running, self.missing = running, missing

    def answers(self, seconds: float, served: bool, **question: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """The figures of those that offer what is asked."""
        for name, peer in self.running.items():
            if PEERS[name].served == served and (figures := peer.ask(seconds, **question)):
                yield name, figures

    def inserts(self, seconds: float, batch_rows: int, window: int) -> list[dict[str, Any]]:
        """Their rows in a table of inserts."""
        question = {"what": "insert", "batch_rows": batch_rows, "window": window}
        return [
            {
                "server": name,
                "rows a batch": batch_rows,
                "in flight": window,
                **figures,
                "rows/s": int(figures["rows/s"]),
            }
            for name, figures in self.answers(seconds, served=True, **question)
        ]

    def samples(self, seconds: float, batches: int, in_flight: int) -> list[dict[str, Any]]:
        """Their rows in a table of samples."""
        question = {"what": "sample", "batches": batches, "in_flight": in_flight}
        return [
            {"server": name, "a reply": batches, "in flight": in_flight, **_in_batches(figures)}
            for name, figures in self.answers(seconds, served=True, **question)
        ]

    def boths(self, seconds: float) -> list[dict[str, Any]]:
        """Their rows in the table of both at once."""
        return [
            {"server": name, "inserted rows/s": int(figures.pop("inserted rows/s")), **_in_batches(figures)}
            for name, figures in self.answers(seconds, served=True, what="both")
        ]

    def fill(self) -> None:
        """Make them keep the rows that are sampled."""
        for peer in self.running.values():
            peer.ask(0.0, what="fill")

    def compare(
        self, rows: list[dict[str, Any]], rate: str, kind: tuple[str, ...], same: tuple[str, ...]
    ) -> None:
        """Add our durable server's rate over each row's, and over the best of that server.

        Args:
            rows: Of the table, changed.
            rate: The column compared.
            kind: Columns in which a server's rows are equal that compete for being its best.
            same: Columns in which a row equals ours that it is compared to.
        """
        if not self.running:
            return

        def key(row: dict[str, Any], columns: tuple[str, ...]) -> tuple[Any, ...]:
            return tuple(row[column] for column in columns)

        ours = {key(row, same): row[rate] for row in rows if row["server"] == "durable"}
        best: dict[tuple[Any, ...], float] = {}
        for row in rows:
            its = key(row, ("server", *kind))
            best[its] = max(best.get(its, 0.0), row[rate])
        for row in rows:
            mine = ours[key(row, same)]
            row["ours/it"] = mine / max(row[rate], 1)
            row["ours/its best"] = mine / max(best[key(row, ("server", *kind))], 1)

    def notes(self) -> dict[str, str]:
        """How each is used, what failed, and why it is not here."""
        notes = {name: "; ".join([peer.how, *peer.failures]) for name, peer in self.running.items()}
        return {**notes, **{name: f"not run: {reason}" for name, reason in self.missing.items()}}


def _in_batches(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures in minibatches a second, as ours are."""
    return {"batches/s": int(figures.pop("rows/s") / 256), **figures}


@contextmanager
def peer_table(wanted: bool, row_bytes: int) -> Iterator[PeerTable]:
    """The peers, installed where needed and running, if they are wanted.

    Args:
        wanted: Whether there are any.
        row_bytes: Of one row of ours, for the limits of the transport.
    """
    if not wanted:
        yield PeerTable({}, {})
        return
    environment = PeerEnvironment(ROOT / "build" / "peers", ROOT / "benchmarks" / "peers.txt")
    script = ROOT / "benchmarks" / "replay_peers.py"
    groups = {name: ("transport", *peer.groups) for name, peer in PEERS.items()}
    with running_peers(environment, script, groups, str(row_bytes)) as (running, missing):
        yield PeerTable(running, missing | NOT_INSTALLABLE)
