"""`pnaf offline`: learning, evaluating and replaying without a robot that learns."""

from __future__ import annotations

import typer

from fleet.offline_eval_cli import register_offline_eval

offline_app = typer.Typer(help="Work with logs alone.", no_args_is_help=True)


@offline_app.callback()
def _offline() -> None:
    """Work with logs alone."""


register_offline_eval(offline_app)
