"""Datasets of other projects as a new run folder.

    imported = import_datasets([open_minari(Path("datasets/lab/reach-v0"))], Path("runs/imported"))

What we exported comes back bit for bit, under the ids it had. A foreign dataset gets the boot id FORMAT-HASH
of its content, so that one that is imported twice can be told. An episode that cannot be read or is no
experience is left out and named, and keeps nobody from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fleet.config import FleetConfig
from fleet.spaces import SpaceSpec
from replay_server.exchange.foreign import draft_spec
from replay_server.exchange.foreign_episodes import NOTHING_SAID, Foreign, foreign_episodes
from replay_server.exchange.own_episodes import own_episodes
from replay_server.exchange.source import EpisodeError, ForeignSource, OwnSource
from replay_server.log_writer import LogWriter
from replay_server.logs import LogsError, Progress

Source = OwnSource | ForeignSource


@dataclass
class Imported:
    """What is there now.

    Attributes:
        path: The run folder.
        spec: Of its episodes.
        episodes: Episodes in it.
        rows: Their transitions.
        left_out: "FILE: EPISODE" to why.
    """

    path: Path
    spec: SpaceSpec
    episodes: int = 0
    rows: int = 0
    left_out: dict[str, str] = field(default_factory=dict)


def import_datasets(
    sources: Sequence[Source],
    out: Path,
    *,
    foreign: Foreign = NOTHING_SAID,
    spec: SpaceSpec | None = None,
    config: FleetConfig | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Imported:
    """Write the episodes of all sources: those we exported in order of arrival, then the foreign ones.

    Args:
        sources: Opened, of one kind of robot and task.
        out: The run folder; it must not exist.
        foreign: About those that we did not export.
        spec: What they must follow; by default their own.
        config: A fleet's, to be kept beside the episodes.
        on_progress: Called after each episode.

    Raises:
        LogsError: They do not fit together, `out` exists, or no episode can be imported.
        ConfigError: `out` is no name for a run folder.
        OSError: The disk is full, or not writable.
    """
    spec = _common_spec(sources, spec)
    names = ", ".join(str(source.path) for source in sources)
    task = foreign.task or (config.task.kind if config is not None else "")
    found = own_episodes([source for source in sources if isinstance(source, OwnSource)])
    for source in sources:
        if isinstance(source, ForeignSource):
            found += foreign_episodes(source, replace(foreign, task=task or source.task), spec)
    imported = Imported(out, spec)
    with LogWriter(out, spec, f"imported from {names}", config) as writer:
        for done, episode in enumerate(found, start=1):
            try:
                writer.add(*episode.read())
            except (EpisodeError, LogsError) as error:
                imported.left_out[episode.where] = str(error)
            on_progress(done, len(found))
        if not writer.episodes:
            [(where, why), *others] = imported.left_out.items()
            more = f" (and {len(others)} more)" if others else ""
            raise LogsError(f"no episode can be imported: {where}: {why}{more}")
        imported.episodes, imported.rows = writer.episodes, writer.rows
    return imported


def _common_spec(sources: Sequence[Source], spec: SpaceSpec | None) -> SpaceSpec:
    own = [source for source in sources if isinstance(source, OwnSource)]
    foreign = [source for source in sources if isinstance(source, ForeignSource)]
    if spec is None:
        spec = own[0].spec if own else draft_spec(foreign)
    for source in own:
        if difference := spec.difference(source.spec):
            raise LogsError(f"{source.path} does not fit: {difference} (here: what is needed)")
    for other in foreign:
        for side in ("observation", "action"):
            box, space = getattr(other, side), getattr(spec, side)
            if box.size != space.size:
                raise LogsError(
                    f"{other.path}: {side}s have {box.size} numbers ({', '.join(box.names)[:200]}), "
                    f"{space.size} are needed ({', '.join(space.names)[:200]}): choose with --obs"
                )
        names = spec.observation.names
        if other.observation.names != names and len(other.parts) > 1 and not other.ordered:
            raise LogsError(
                f"{other.path}: say with --obs KEY, repeated, in which order {', '.join(other.parts)} "
                f"make the observation {', '.join(names)[:300]}"
            )
    return spec
