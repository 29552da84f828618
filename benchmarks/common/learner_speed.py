"""The trainer's updates per second beside real robot processes, on this machine."""

from __future__ import annotations

from typing import Any

from benchmarks.common.table import machine
from benchmarks.fleet import REAL_TIME, make_fleet, measure, rate
from fleet.live_screen import stats_of

_NO_LIMIT = 1e6  # updates per row: the trainer never waits for rows


def measure_speed(workers: list[int], seconds: float) -> dict[str, Any]:
    """Rows and updates per second of whole fleets in real time whose trainer never waits.

    Robots, arms, replay server and trainer share this machine's cores.
    """
    rows: list[dict[str, float]] = []
    for robots in workers:
        fleet = make_fleet(robots, REAL_TIME, port=5722, domain=73)
        learner = fleet.learner.model_copy(update={"updates_per_row": _NO_LIMIT})
        statuses, _ = measure(fleet.model_copy(update={"learner": learner}), seconds, with_empty_timer=False)
        took = len(statuses) - 1
        first, last = (stats_of(s, "learner").get("learner/updates", 0) for s in (statuses[0], statuses[-1]))
        inserted = rate(statuses, "replay/rows_inserted", took)
        updates = (last - first) / took
        rows.append(
            {
                "robots": robots,
                "rows/s": inserted,
                "updates/s": updates,
                "updates/row": updates / max(inserted, 1e-9),
            }
        )
        print(rows[-1], flush=True)
    return {"experiment": "learner-speed", "machine": machine(), "rows": rows}
