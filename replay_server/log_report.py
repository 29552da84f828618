"""Logs as one HTML page that needs nothing else: no network, no script; pictures are inside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path

from replay_server.log_statistics import LogStatistics, in_order
from replay_server.log_summary import LogSummary, success_rate
from replay_server.plot_style import Drawing
from replay_server.robot_numbers import RobotNumbers

_SHOWN_FILES = 200
_NEWEST = 20


@dataclass(frozen=True)
class ReportFacts:
    """What a report says beside its pictures.

    Attributes:
        title: Its heading.
        summary: The episodes in a few numbers.
        statistics: The episodes in more numbers.
        robots: The same by robot.
        findings: What stands out.
        damaged: File to what is wrong with it.
        made: How the report was made, name to value.
    """

    title: str
    summary: LogSummary
    statistics: LogStatistics
    robots: Sequence[RobotNumbers]
    findings: Sequence[str]
    damaged: dict[Path, str]
    made: dict[str, str]


def report_html(facts: ReportFacts, drawings: Iterable[Drawing]) -> str:
    """The page."""
    parts = [
        _HEAD.format(title=escape(facts.title)),
        f"<h1>{escape(facts.title)}</h1>",
        _tiles(facts),
        "<h2>What stands out</h2>",
        _list(facts.findings) if facts.findings else "<p>Nothing.</p>",
        "<h2>Robots</h2>",
        _robot_table(facts.robots),
        *map(_section, drawings),
    ]
    if facts.damaged:
        shown = list(facts.damaged.items())[:_SHOWN_FILES]
        more = len(facts.damaged) - len(shown)
        parts += [
            "<h2>Damaged and foreign files</h2><p>They are in no number and no picture of this page.</p>",
            _list([f"{path}: {reason}" for path, reason in shown] + ([f"{more:,} more"] if more else [])),
        ]
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts.made.items())
    parts += [
        "<h2>How this page was made</h2>",
        f'<div class="wide"><table class="made">{rows}</table></div>',
    ]
    return "\n".join([*parts, "</main></body></html>\n"])


def period(first_ns: int, last_ns: int) -> str:
    """From one wall time (ns) to another as people write it, local."""
    first, last = (datetime.fromtimestamp(ns / 1e9) for ns in (first_ns, last_ns))
    if f"{first:%x %H:%M}" == f"{last:%x %H:%M}":
        return f"{first:%Y-%m-%d %H:%M}"
    end = "%H:%M" if first.date() == last.date() else "%Y-%m-%d %H:%M"
    return f"{first:%Y-%m-%d %H:%M} – {last:{end}}"


def duration(seconds: float) -> str:
    """A duration as people say it."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _tiles(facts: ReportFacts) -> str:
    summary = facts.summary
    intervened = sum(robot.intervened * robot.rows for robot in facts.robots) / max(1, summary.rows)
    evaluations = [e.info for e in in_order(facts.statistics.episodes) if e.info.evaluation]
    best = max((e.total for e in facts.statistics.episodes if not math.isnan(e.total)), default=math.nan)
    tiles = {
        "episodes": f"{summary.episodes:,}",
        "transitions": f"{summary.rows:,}",
        "time of robots": duration(sum(episode.seconds for episode in facts.statistics.episodes)),
        "robots": f"{len(summary.robots):,}",
        "tasks": ", ".join(summary.tasks) or "not known",
        "runs": f"{len(summary.runs):,}",
        "arrived": period(summary.first_ns, summary.last_ns),
        "success, training": str(summary.training),
        "success, evaluation": str(summary.evaluation),
        f"newest {_NEWEST} of them": str(success_rate(evaluations[-_NEWEST:], evaluation=True)),
        "best return": f"{best:.4g}",
        "policy versions": " – ".join(map(str, dict.fromkeys(summary.policies or ()))),
        "steps with a person": _share(intervened) or "none",
        "files left out": f"{len(facts.damaged):,}",
    }
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in tiles.items()
    )
    return f"<dl>{cells}</dl>"


def _robot_table(robots: Sequence[RobotNumbers]) -> str:
    """One line each; columns that are empty for all are left out."""
    columns = {
        "robot": [robot.robot_id for robot in robots],
        "starts": [f"{robot.boots:,}" for robot in robots],
        "episodes": [f"{robot.episodes:,}" for robot in robots],
        "transitions": [f"{robot.rows:,}" for robot in robots],
        "success, training": [str(robot.training) for robot in robots],
        "success, evaluation": [str(robot.evaluation) for robot in robots],
        "mean return, training": [_number(robot.mean_return) for robot in robots],
        "faults": [f"{robot.ends.get('fault', 0) or ''}" for robot in robots],
        "steps with a person": [_share(robot.intervened) for robot in robots],
        "changed by the guard": [_share(robot.clipped) for robot in robots],
        "actions at ±1": [_share(robot.saturated) for robot in robots],
        "versions behind, mean": [_number(robot.behind) for robot in robots],
        "versions behind, 99 %": [_number(robot.behind_99) for robot in robots],
        "longest with one version (s)": [_number(robot.held_s) for robot in robots],
    }
    shown = {head: cells for head, cells in columns.items() if any(cells)}
    head = "".join(f"<th>{escape(text)}</th>" for text in shown)
    rows = zip(*shown.values(), strict=True)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _section(drawing: Drawing) -> str:
    image = base64.b64encode(drawing.png()).decode()
    return (
        f'<section><h2>{escape(drawing.title)}</h2><div class="wide picture">'
        f'<img alt="{escape(drawing.title)}" src="data:image/png;base64,{image}"></div>'
        f"<p>{escape(drawing.caption)}</p></section>"
    )


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def _share(share: float) -> str:
    return "" if share == 0 else f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"


_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --text: #222; --quiet: #666; --line: #ddd; --page: #fff;
  --tile: #f4f5f7; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --text: #e4e4e4; --quiet: #a5a5a5; --line: #444; --page: #1b1c1e; --tile: #28292c; }} }}
body {{ margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }}
main {{ max-width: 66rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.5rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 .5rem; }}
p, li {{ max-width: 46rem; overflow-wrap: anywhere; }}
section > p {{ color: var(--quiet); font-size: .9rem; margin-top: .4rem; }}
dl {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .5rem; }}
dl div {{ background: var(--tile); border-radius: .4rem; padding: .5rem .75rem; }}
dt {{ color: var(--quiet); font-size: .8rem; }}
dd {{ margin: 0; font-size: 1.05rem; font-weight: 600; overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
.picture {{ background: #fff; border: 1px solid var(--line); border-radius: .4rem; }}
img {{ display: block; width: 100%; min-width: 38rem; }}
table {{ border-collapse: collapse; font-size: .85rem; }}
th, td {{ border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: right;
  vertical-align: bottom; }}
td {{ white-space: nowrap; }}
th:first-child, td:first-child, .made td {{ text-align: left; }}
.made td {{ white-space: normal; overflow-wrap: anywhere; }}
@media print {{ section {{ break-inside: avoid; }} img {{ min-width: 0; }} .wide {{ overflow: visible; }}
  table {{ font-size: .6rem; }} th, td {{ padding: .15rem .3rem; }} }}
</style></head><body><main>"""
