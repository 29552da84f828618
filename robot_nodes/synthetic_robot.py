"""A robot without an arm and without ROS, for trials: real recorder, spool, sender and policy receiver.

python -m robot_nodes.synthetic_robot FLEET.yaml --id robot1 --run-dir RUN --tallies DIR
"""

from __future__ import annotations

import argparse
import logging
import time
import uuid
from pathlib import Path
from threading import Event
from typing import Any

from fleet.config import FleetConfig
from fleet.config_file import load_fleet
from fleet.ready import notify_ready, stop_on_signals
from robot_nodes.episode_recorder import EpisodeRecorder
from robot_nodes.experience_sender import ExperienceSender
from robot_nodes.policy_receiver import PolicyReceiver
from robot_nodes.spool import Spool
from robot_nodes.spool_file import read_spool
from robot_nodes.synthetic_rows import SPEC, row_of
from robot_nodes.tally import Tally, settle

logger = logging.getLogger(__name__)

EPISODE_ROWS = 50
_IDLE_S = 0.005
_CLOSE_S = 2.0
_LATE_S = 0.1  # who was held up for longer does not hurry to catch up


class SyntheticRobot:
    """One start of one robot.

    with SyntheticRobot(fleet, "robot1", run_dir, tallies) as robot:
        robot.produce(stop, rows=2000, rate_hz=200.0)
        left = robot.deliver(timeout_s=60.0)
    """

    def __init__(self, fleet: FleetConfig, robot_id: str, run_dir: Path, tallies: Path) -> None:
        spools, folder = run_dir / "spool", tallies / robot_id
        first_index = settle(folder, (boot for boot in read_spool(spools) if boot.robot_id == robot_id))
        boot_id = uuid.uuid4().hex[:12]
        self._number = [entry.id for entry in fleet.robots].index(robot_id)
        self._spool = Spool(spools, robot_id, boot_id, SPEC, fleet.spool)
        self._tally = Tally(folder, boot_id, first_index)
        self._recorder = EpisodeRecorder(SPEC, sink=self._spool)
        self._receiver = PolicyReceiver(fleet.learner.policy_endpoint, SPEC)
        self._sender = ExperienceSender(
            fleet.replay_server.endpoint,
            self._spool,
            SPEC,
            on_command=lambda command: None,
            heartbeat=self._heartbeat,
        )

    def __enter__(self) -> SyntheticRobot:
        self._receiver.start()
        self._sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.close(timeout_s=_CLOSE_S)
        self._receiver.close()

    def produce(self, stop: Event, rows: int, rate_hz: float) -> None:
        """Make rows until all starts have made `rows`, or until `stop`; waits where a robot has to."""
        due_s = time.monotonic()
        rows_in_episode = 0
        while not stop.is_set() and (index := self._tally.first_index + self._tally.produced) < rows:
            self._tally.wait_for(self._sender.waiting_rows)
            now_s = time.monotonic()
            if self._sender.blocked or now_s < due_s:
                time.sleep(_IDLE_S if self._sender.blocked else due_s - now_s)
                continue
            due_s = max(due_s, now_s - _LATE_S) + 1.0 / rate_hz
            if rows_in_episode == 0:
                self._recorder.begin(evaluation=False)
            self._record(index, stop)
            rows_in_episode = (rows_in_episode + 1) % EPISODE_ROWS
            if rows_in_episode == 0:
                self._recorder.end("time_limit", success=False, metrics={"index": float(index)})
        self._recorder.end("stopped", success=False, metrics={})

    def _record(self, index: int, stop: Event) -> None:
        newest = self._receiver.newest
        self._tally.attempt()
        self._recorder.add(**row_of(index, self._number, newest.policy.version if newest else -1))
        while self._spool.unwritten and not stop.is_set():
            time.sleep(_IDLE_S)
        if not self._spool.unwritten:
            self._tally.produce()

    def deliver(self, timeout_s: float) -> int:
        """Wait until the server has everything; returns the rows that it has not."""
        deadline_s = time.monotonic() + timeout_s
        while (waiting := self._sender.waiting_rows) and time.monotonic() < deadline_s:
            self._tally.wait_for(waiting)
            time.sleep(_IDLE_S)
        self._tally.wait_for(waiting)
        return waiting

    def _heartbeat(self) -> tuple[str, dict[str, Any]]:
        newest = self._receiver.newest
        return "running", {
            "robot/steps": self._recorder.rows_produced,
            "robot/unacked": self._sender.waiting_rows,
            "robot/policy_version": newest.policy.version if newest else -1,
            "robot/policies_refused": self._receiver.refused,
        }


def main() -> None:
    """Produce and deliver; exit status 1 if rows are left in the spool."""
    parser = argparse.ArgumentParser(description="A robot without an arm, for trials.")
    parser.add_argument("config", type=Path, metavar="FLEET.yaml")
    parser.add_argument("--id", required=True, help="which robot of the fleet")
    parser.add_argument("--run-dir", type=Path, required=True, help="the run folder; spools lie in it")
    parser.add_argument("--tallies", type=Path, required=True, help="where it counts what it makes")
    parser.add_argument("--rows", type=int, default=2**40, help="rows of all starts together")
    parser.add_argument("--rate", type=float, default=20.0, help="rows per second")
    parser.add_argument("--drain", type=float, default=60.0, help="how long to wait for the server (s)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True
    )
    stop = stop_on_signals()
    fleet = load_fleet(options.config, options.overrides)
    with SyntheticRobot(fleet, options.id, options.run_dir, options.tallies) as robot:
        notify_ready()
        robot.produce(stop, options.rows, options.rate)
        left = robot.deliver(options.drain)
    logger.info("%s ends, %d rows are not delivered", options.id, left)
    raise SystemExit(1 if left else 0)


if __name__ == "__main__":
    main()
