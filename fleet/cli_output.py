"""How every `pnaf` command speaks: errors as one line, JSON when asked, logs on stderr."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress

from fleet.config import ConfigError
from fleet.ready import EXIT_CONFIG

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def log_to_stderr(handler: logging.Handler | None = None) -> None:
    """Show what is logged; by default with time and module on stderr."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s" if handler is None else "%(message)s",
        handlers=[handler or logging.StreamHandler()],
    )
    logging.getLogger("matplotlib").setLevel(logging.WARNING)


@contextmanager
def clear_errors() -> Iterator[None]:
    """What a person can mend is one message and exit status 2, not a traceback."""
    from fleet.sockets import BindError
    from fleet.supervisor import SupervisorError

    try:
        yield
    except (ConfigError, BindError) as error:
        fail(str(error), EXIT_CONFIG)
    except SupervisorError as error:
        fail(str(error), 1)


def fail(text: str, status: int) -> NoReturn:
    """Say why on stderr and exit."""
    Console(stderr=True).print(f"[bold red]pnaf:[/] {escape(text)}", highlight=False, soft_wrap=True)
    raise typer.Exit(status)


def tell(console: Console, what: str, text: str) -> None:
    """Something that a person should know, after a word on what it is: `note`, `warning`, `left out`."""
    console.print(f"[yellow]{what}:[/] {escape(text)}", highlight=False, soft_wrap=True)


def progress_on(console: Console) -> Progress:
    """Bars that vanish when they are done; nothing where no terminal shows them."""
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def escape(text: str) -> str:
    """Text that rich prints as it is."""
    return text.replace("[", r"\[")


def print_json(data: Any) -> None:
    """JSON on stdout."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")
