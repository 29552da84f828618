"""`pnaf logs import-bag`: ROS 2 bags as a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from fleet.cli_output import Json, escape, fail, print_json, progress_on, tell
from fleet.config import ConfigError, FleetConfig
from fleet.config_file import load_fleet
from fleet.logs_options import clear_log_errors
from fleet.ready import EXIT_CONFIG

if TYPE_CHECKING:
    from robot_nodes.bag_report import BagReport


def import_bag(
    bags: Annotated[
        list[Path],
        typer.Argument(
            metavar="BAG...",
            help="Folders that `ros2 bag record` made, .db3 or .mcap files, or folders of these.",
        ),
    ],
    fleet: Annotated[
        Path,
        typer.Option(
            "--fleet",
            metavar="FLEET.yaml",
            help="The fleet whose robot and task it is: its joints, topics, sensors, rate and rewards.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="The run folder to make.")],
    robot_id: Annotated[
        str,
        typer.Option("--id", metavar="ROBOT", help="Whose bags these are; default: the fleet's only robot."),
    ] = "",
    topics: Annotated[
        list[str] | None,
        typer.Option(
            "--topic",
            metavar="KEY=NAME",
            help="Where a topic is named otherwise than in the config: joint_states=/arm/joint_states, "
            "command=…, sensors.NAME=…; repeatable.",
        ),
    ] = None,
    action: Annotated[
        Literal["command", "measured"],
        typer.Option(
            help="What the actions are: the velocities that were commanded, or those measured one control "
            "period later, for bags without such commands."
        ),
    ] = "command",
    goal: Annotated[
        str,
        typer.Option(
            metavar="GOAL",
            help="The target of each episode: final (where it ended), sample (a random one), X,Y,Z (m), or a "
            "/topic in the bag (geometry_msgs/PoseStamped; each new position begins an episode).",
        ),
    ] = "final",
    episode_s: Annotated[
        float | None,
        typer.Option("--episode-s", metavar="S", help="Longest episode (s); default: the task's."),
    ] = None,
    marker: Annotated[
        str,
        typer.Option(
            metavar="TOPIC",
            help="Each message there begins an episode; if std_msgs/Bool, true begins one and false ends it, "
            "and what comes before the next true is left out.",
        ),
    ] = "",
    demonstrations: Annotated[
        bool, typer.Option("--demonstrations", help="A person moved the robot: mark all rows as theirs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a run folder out of ROS 2 bags: joint states and commands as transitions with the task's rewards.

    No ROS is needed. A bag that cannot be used is named and left out.

    Episodes end after the task's time, where joint states or commands are missing, and after 2 s at rest.

    Exit status 0 if anything was imported, 2 if nothing was.
    """
    from robot_nodes.bag_import import import_bags
    from robot_nodes.bag_options import BagOptions
    from robot_nodes.bag_reader import BagError
    from robot_nodes.urdf_source import UrdfError

    console = Console(stderr=True)
    with clear_log_errors():
        if episode_s is not None and not episode_s > 0:
            raise ConfigError(f"--episode-s {episode_s:g}: must be more than 0")
        config = load_fleet(fleet)
        options = BagOptions(
            topics=_named_topics(topics or ()),
            action=action,
            goal=goal,
            episode_s=episode_s,
            marker=marker,
            demonstrations=demonstrations,
        )
        try:
            with progress_on(console) as progress:
                bar = progress.add_task("", total=None)
                reports = import_bags(
                    bags,
                    config,
                    robot_id or _only_robot(config),
                    out,
                    options,
                    lambda bag, done, total: progress.update(
                        bar, description=escape(bag.name), completed=done, total=total
                    ),
                )
        except (BagError, ModuleNotFoundError, UrdfError) as error:
            fail(str(error), EXIT_CONFIG)
        except OSError as error:
            fail(f"{error.filename or out}: cannot be written: {error.strerror}", 1)
    for report in reports:
        if report.error:
            what = "left out from there on" if report.rows else "left out"
            tell(console, what, f"{report.bag}: {report.error}")
    if as_json:
        print_json({"run": out, "bags": [asdict(report) for report in reports]})
    else:
        _show(out, reports, Console())


def _named_topics(texts: Sequence[str]) -> dict[str, str]:
    topics = {}
    for text in texts:
        key, separator, name = text.partition("=")
        if not (key and separator and name):
            raise ConfigError(f"--topic {text}: must be KEY=NAME, such as joint_states=/arm/joint_states")
        topics[key] = name
    return topics


def _only_robot(config: FleetConfig) -> str:
    ids = [entry.id for entry in config.robots]
    if len(ids) != 1:
        raise ConfigError(f"--id says whose bags these are: one of {', '.join(ids)}")
    return ids[0]


def _show(out: Path, reports: Sequence[BagReport], console: Console) -> None:
    episodes, rows = sum(r.episodes for r in reports), sum(r.rows for r in reports)
    table = Table(box=None)
    table.add_column("bag", overflow="fold")
    for name in ("time (s)", "messages", "episodes", "rows"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("left out", overflow="fold")
    for report in (report for report in reports if report.rows):
        cuts = [f"{reason} ×{times}" for reason, times in report.cuts.most_common()]
        if report.idle_s:
            cuts.append(f"at rest for {report.idle_s:.0f} s")
        numbers = f"{report.seconds:.1f}", f"{report.messages:,}", f"{report.episodes:,}", f"{report.rows:,}"
        table.add_row(escape(report.bag.name), *numbers, escape("; ".join(cuts)))
    console.print(table)
    notes = {note: [r.bag.name for r in reports if note in r.notes] for r in reports for note in r.notes}
    for note, names in notes.items():
        where = names[0] if len(names) == 1 else f"{len(names)} bags"
        tell(console, "note", f"{where}: {note}")
    text = f"{out}: {episodes:,} episodes, {rows:,} rows; look at them: pnaf logs ls {out}"
    console.print(escape(text), highlight=False, soft_wrap=True)
