"""`pnaf offline`: what can be done with logged episodes instead of robots."""

from __future__ import annotations

import typer

from fleet.offline_eval_cli import offline_eval
from fleet.offline_replay_cli import replay
from fleet.offline_train_cli import train

offline_app = typer.Typer(
    help="Work with logged episodes as if they were robots: no robot is needed.", no_args_is_help=True
)
offline_app.command("replay")(replay)
offline_app.command("train")(train)
offline_app.command("eval")(offline_eval)
