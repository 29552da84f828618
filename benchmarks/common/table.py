"""What the benchmark scripts share: the machine's name, a table, and `--json PATH`."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def machine() -> dict[str, Any]:
    """The machine the figures belong to."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    load_1min = round(os.getloadavg()[0], 2)
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "load_1min": load_1min}


def show(title: str, rows: Sequence[dict[str, Any]], json_path: Path | None) -> None:
    """Print the rows as a table, with the machine below it, and write them as JSON when asked."""
    where = machine()
    table = Table(title=title, caption=", ".join(f"{key} {value}" for key, value in where.items()))
    keys = list(dict.fromkeys(key for row in rows for key in row))
    for key in keys:
        table.add_column(key, justify="right", no_wrap=True)
    for row in rows:
        cells = (row.get(key, "") for key in keys)
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
    console = Console()
    Console(width=max(console.width, 40 + 18 * len(keys))).print(table)
    if json_path is not None:
        result = {"title": title, "machine": where, "rows": list(rows)}
        json_path.write_text(json.dumps(result, indent=2) + "\n")
