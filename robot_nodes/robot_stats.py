"""One robot in numbers, for the fleet's status and for diagnostics."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np

from robot_nodes.control_loop import ControlLoop
from robot_nodes.diagnostics import Snapshot
from robot_nodes.uplink import DryUplink, FleetUplink
from robot_nodes.watchdogs import RobotWatchdogs


class RobotStats:
    """Measures ticks, and reads what the parts of the robot count.

    stats = RobotStats(loop, uplink, watchdogs)
    stats.tick(began_s, ended_s)          # each control tick
    state, numbers = stats.heartbeat()    # by the sender's thread: reads only
    """

    def __init__(self, loop: ControlLoop, uplink: FleetUplink | DryUplink, watchdogs: RobotWatchdogs) -> None:
        self._loop, self._uplink, self._watchdogs = loop, uplink, watchdogs
        self._tick_ms: deque[float] = deque(maxlen=512)
        self._interval_ms: deque[float] = deque(maxlen=512)
        self._last_tick_s = 0.0
        self.bad_joint_states = 0

    def tick(self, began_s: float, ended_s: float) -> None:
        """A control tick took place between these steady times (s)."""
        if self._last_tick_s:
            self._interval_ms.append((began_s - self._last_tick_s) * 1e3)
        self._last_tick_s = began_s
        self._tick_ms.append((ended_s - began_s) * 1e3)

    @property
    def tick_percentiles_ms(self) -> tuple[float, float]:
        """Median and 99th percentile of what a tick takes (ms); -1 before the first."""
        return _percentile(self._tick_ms, 50), _percentile(self._tick_ms, 99)

    def heartbeat(self) -> tuple[str, dict[str, Any]]:
        """State and stats for the status."""
        loop, policies = self._loop, self._uplink.policies
        newest = policies.newest
        p50_ms, p99_ms = self.tick_percentiles_ms
        stats: dict[str, Any] = {
            "robot/note": loop.note,
            "robot/episodes": loop.episodes,
            "robot/success_rate": _rate(loop.training_outcomes),
            "robot/evaluation_success_rate": _rate(loop.evaluation_outcomes),
            "robot/interventions": loop.stopped_commands,
            "robot/smoothed_share": loop.smoothed_commands / max(1, loop.ticks),
            "robot/late_ticks": loop.late_ticks,
            "robot/bad_joint_states": self.bad_joint_states,
            "robot/policy_version": newest.policy.version if newest else -1,
            "robot/policy_age_s": time.monotonic() - newest.received_s if newest else -1.0,
            "robot/policies_refused": policies.refused,
            "robot/policy_latency_p50_ms": _percentile(policies.latencies_ms, 50),
            "robot/policy_latency_p99_ms": _percentile(policies.latencies_ms, 99),
            "robot/tick_p50_ms": p50_ms,
            "robot/tick_p99_ms": p99_ms,
            "robot/tick_jitter_p99_ms": _jitter(self._interval_ms),
        }
        stats |= self._uplink.stats
        stats |= {f"robot/interventions/{name}": count for name, count in loop.interventions.copy().items()}
        stats |= {
            f"robot/largest_interventions/{name}": value
            for name, value in loop.largest_interventions.copy().items()
        }
        stats |= {
            f"robot/watchdogs/{name}": dog.trips for name, dog in self._watchdogs.by_name.items() if dog.trips
        }
        return loop.phase, stats

    def snapshot(self, lifecycle: str) -> Snapshot:
        """What diagnostics look at; `lifecycle` is the state of the lifecycle node."""
        loop, uplink, newest = self._loop, self._uplink, self._uplink.policies.newest
        numbers = uplink.stats
        return Snapshot(
            lifecycle=lifecycle,
            phase=loop.phase,
            note=loop.note,
            watchdogs=self._watchdogs.by_name.values(),
            interventions=loop.interventions,
            largest_interventions=loop.largest_interventions,
            stopped_commands=loop.stopped_commands,
            policy_version=newest.policy.version if newest else None,
            policy_age_s=time.monotonic() - newest.received_s if newest else 0.0,
            policies_refused=uplink.policies.refused,
            unacked=numbers.get("robot/unacked", 0),
            blocked=uplink.blocked,
            rows_dropped=numbers.get("robot/rows_dropped", 0),
            connected=uplink.connected,
        )


def _rate(outcomes: deque[bool]) -> float:
    return sum(outcomes) / len(outcomes) if outcomes else -1.0


def _percentile(values: deque[float], percent: float) -> float:
    return float(np.percentile(list(values), percent)) if values else -1.0


def _jitter(intervals_ms: deque[float]) -> float:
    """99th percentile of the distance of tick intervals from their median (ms)."""
    if not intervals_ms:
        return -1.0
    intervals = np.array(list(intervals_ms))
    return float(np.percentile(np.abs(intervals - np.median(intervals)), 99))
