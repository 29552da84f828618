"""Arguments and options that several `pnaf` commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEMO_FLEET = "hardware_configs/fleets/demo.yaml"

ConfigPath = Annotated[
    Path, typer.Argument(metavar="FLEET.yaml", help="The fleet's config, or the config.yaml of a run folder.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a config key, as in --set learner.seed=3; repeatable."
    ),
]
StartFrom = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="Begin with what another run has learned, from logs or with robots: its newest checkpoint.",
    ),
]
RunDir = Annotated[
    Path, typer.Option("--run-dir", help="Where this run's files go; continued if it is there.")
]
