"""A run in numbers and in a picture, both from what is really in its HDF5 files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.messages import COLUMNS, FINISHED
from replay_server.episode_store import Episode, EpisodeInfo
from replay_server.verify import RunCheck

_WINDOW = 20


@dataclass(frozen=True, slots=True)
class StoredCounts:
    """Where the rows of a run are.

    Attributes:
        stored: Rows that the server has.
        spooled: Rows that are only in a robot's spool, to be sent at its next start.
        duplicated: Rows that the server has more than once.
        lost: Rows that a robot says it produced, or must have, and that are nowhere.
    """

    stored: int
    spooled: int
    duplicated: int
    lost: int


def count_rows(check: RunCheck, produced: Mapping[str, int]) -> StoredCounts:
    """Compare the files with what the robots say.

    Args:
        check: What is in the files.
        produced: Steps per robot process, by "robot_id:boot_id".
    """
    found = {f"{stream.robot_id}:{stream.boot_id}": stream for stream in check.streams}
    lost = 0
    for key in found.keys() | produced.keys():
        stream = found.get(key)
        # A robot that died could not say its last count: what is there is then all that is known.
        expected = max(produced.get(key, 0), stream.last_seq + 1 if stream else 0)
        lost += expected - (stream.rows if stream else 0)
    stored = sum(stream.in_episodes + stream.in_journal for stream in check.streams)
    spooled = sum(stream.in_spool for stream in check.streams)
    return StoredCounts(stored, spooled, check.doubled, lost)


@dataclass(frozen=True, slots=True)
class Report:
    """`report.json`."""

    success_rate: float | None
    robots: int
    transitions_produced: int
    transitions_stored: int
    transitions_spooled: int
    transitions_lost: int
    transitions_duplicated: int
    updates: int
    wall_time_s: float
    policy_versions: int
    seed: int
    ended_by: str
    final_evaluation: dict[str, float | str]

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def plot_learning_curve(episodes: Sequence[EpisodeInfo], path: Path, goal: float | None) -> None:
    """Success and final distance of the noise-free episodes, over time and transitions, as a PNG.

    Args:
        episodes: Every episode of the run.
        path: The picture.
        goal: Success rate to draw as a line.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ordered = sorted(episodes, key=lambda e: e.received_ns)
    rows = np.cumsum([e.rows for e in ordered])
    finished = [i for i, e in enumerate(ordered) if e.evaluation and e.end in FINISHED]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
    if finished:
        start_ns = ordered[0].received_ns
        minutes = np.array([(ordered[i].received_ns - start_ns) / 60e9 for i in finished])
        success = np.array([100.0 * ordered[i].success for i in finished])
        distance = np.array([100 * ordered[i].metrics.get("final_distance_m", np.nan) for i in finished])
        top.plot(minutes, _rolling(success, np.mean), color="tab:green", label=f"mean of the last {_WINDOW}")
        top.scatter(minutes, success, s=12, color="tab:gray", alpha=0.5, label="one episode")
        bottom.plot(
            minutes, _rolling(distance, np.median), color="tab:blue", label=f"median of the last {_WINDOW}"
        )
        bottom.scatter(minutes, distance, s=12, color="tab:gray", alpha=0.5, label="one episode")
        if minutes[-1] > 0:
            per_minute = rows[finished[-1]] / minutes[-1]
            axis = top.secondary_xaxis("top", functions=(lambda m: m * per_minute, lambda n: n / per_minute))
            axis.set_xlabel("transitions, at the mean rate")
    if goal is not None:
        top.axhline(100 * goal, color="black", linewidth=0.8, linestyle="--", label="goal")
    top.set(ylabel="success (%)", ylim=(-5, 105), title="Noise-free evaluation episodes")
    bottom.set(ylabel="final distance (cm)", xlabel="wall time (min)")
    bottom.set_ylim(bottom=0)
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _rolling(values: npt.NDArray[np.float64], reduce: Callable[..., Any]) -> list[float]:
    return [float(reduce(values[max(0, i + 1 - _WINDOW) : i + 1])) for i in range(len(values))]


def describe_columns(episode: Episode) -> list[dict[str, Any]]:
    """Name, unit, least, mean and largest value of each dimension of each column."""
    spaces = {
        "observation": episode.spec.observation,
        "next_observation": episode.spec.observation,
        "action": episode.spec.action,
        "policy_action": episode.spec.action,
    }
    described = []
    for column in COLUMNS:
        values = np.asarray(getattr(episode.transitions, column), np.float64).reshape(episode.info.rows, -1)
        space = spaces.get(column)
        for i in range(values.shape[1]):
            dimension = values[:, i]
            described.append(
                {
                    "name": f"{column}/{space.names[i]}" if space else column,
                    "unit": space.units[i] if space else "",
                    "min": float(dimension.min()),
                    "mean": float(dimension.mean()),
                    "max": float(dimension.max()),
                }
            )
    return described
