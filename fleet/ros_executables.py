"""`ros2 run parallel_naf pnaf_robot …` is `pnaf robot …`: one executable per process, as ROS tools expect."""

from __future__ import annotations

import sys

from fleet.cli import app


def robot() -> None:
    """Run `pnaf robot`."""
    _run("robot")


def sim_arm() -> None:
    """Run `pnaf sim-arm`."""
    _run("sim-arm")


def replay_server() -> None:
    """Run `pnaf replay-server`."""
    _run("replay-server")


def learner() -> None:
    """Run `pnaf learner`."""
    _run("learner")


def _run(command: str) -> None:
    app(args=[command, *sys.argv[1:]], prog_name="pnaf")
