"""Logs as one HTML page that needs nothing else: no network, no script; pictures are inside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path

from replay_server.log_statistics import LogStatistics, RobotNumbers
from replay_server.log_summary import LogSummary
from replay_server.plot_style import Drawing

_SHOWN_FILES = 200


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


def local_time(received_ns: int) -> str:
    """A wall time (ns) as people write it, local."""
    return datetime.fromtimestamp(received_ns / 1e9).strftime("%Y-%m-%d %H:%M")


def duration(seconds: float) -> str:
    """A duration as people say it."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _tiles(facts: ReportFacts) -> str:
    summary = facts.summary
    intervened = sum(robot.intervened * robot.rows for robot in facts.robots) / max(1, summary.rows)
    returns = [episode.total for episode in facts.statistics.episodes]
    tiles = {
        "episodes": f"{summary.episodes:,}",
        "transitions": f"{summary.rows:,}",
        "time of robots": duration(sum(episode.seconds for episode in facts.statistics.episodes)),
        "robots": f"{len(summary.robots):,}",
        "tasks": ", ".join(summary.tasks) or "not known",
        "runs": f"{len(summary.runs):,}",
        "first and last arrived": f"{local_time(summary.first_ns)} – {local_time(summary.last_ns)}",
        "success, training": str(summary.training),
        "success, evaluation": str(summary.evaluation),
        "best return": f"{max(returns):.4g}",
        "policy versions": "{} – {}".format(*summary.policies) if summary.policies else "none",
        "steps with a person": _share(intervened) or "none",
        "files left out": f"{len(facts.damaged):,}",
    }
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in tiles.items()
    )
    return f"<dl>{cells}</dl>"


def _robot_table(robots: Sequence[RobotNumbers]) -> str:
    heads = (
        "robot", "starts", "episodes", "transitions", "success, training", "success, evaluation",
        "mean return, training", "faults", "steps with a person", "changed by the guard", "actions at ±1",
        "versions behind, mean", "versions behind, 99 %", "longest with one version",
    )  # fmt: skip
    rows = [
        (
            robot.robot_id,
            f"{robot.boots:,}",
            f"{robot.episodes:,}",
            f"{robot.rows:,}",
            str(robot.training),
            str(robot.evaluation),
            _number(robot.mean_return),
            f"{robot.ends.get('fault', 0) or ''}",
            _share(robot.intervened),
            _share(robot.clipped),
            _share(robot.saturated),
            _number(robot.behind),
            _number(robot.behind_99),
            "" if math.isnan(robot.held_s) else f"{robot.held_s:.3g} s",
        )
        for robot in robots
    ]
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
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
main {{ max-width: 62rem; margin: 0 auto; padding: 1rem; }}
h1 {{ font-size: 1.5rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 .5rem; }}
p, li {{ max-width: 46rem; overflow-wrap: anywhere; }}
section > p {{ color: var(--quiet); font-size: .9rem; margin-top: .4rem; }}
dl {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .5rem; }}
dl div {{ background: var(--tile); border-radius: .4rem; padding: .5rem .75rem; }}
dt {{ color: var(--quiet); font-size: .8rem; }}
dd {{ margin: 0; font-size: 1.05rem; font-weight: 600; overflow-wrap: anywhere; }}
.wide {{ overflow-x: auto; }}
.picture {{ background: #fff; border: 1px solid var(--line); border-radius: .4rem; }}
img {{ display: block; width: 100%; min-width: 38rem; }}
table {{ border-collapse: collapse; font-size: .85rem; }}
th, td {{ border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: right;
  vertical-align: bottom; }}
th:first-child, td:first-child, .made td {{ text-align: left; }}
.made td {{ overflow-wrap: anywhere; }}
@media print {{ section {{ break-inside: avoid; }} img {{ min-width: 0; }} .wide {{ overflow: visible; }}
  table {{ font-size: .6rem; }} th, td {{ padding: .15rem .3rem; }} }}
</style></head><body><main>"""
