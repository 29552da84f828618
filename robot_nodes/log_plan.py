"""What of the logs each robot is going to replay, in which order and when, settled before the first row.

Every row is read once for that. So a damaged file is found before anything is numbered, and a replay that
is started again numbers the same rows the same way.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fleet.messages import Array
from fleet.run_folder import RunFolder
from fleet.spaces import SpaceSpec
from replay_server.episode_file import EpisodeInfo
from replay_server.episode_store import EpisodeSummary
from replay_server.logs import Logs, LogsError
from robot_nodes.log_timeline import BootSpans, Span, episode_starts, row_offsets
from robot_nodes.replay_names import EpisodeIdentity, replay_names


@dataclass(frozen=True, slots=True)
class PlannedEpisode:
    """One episode: where it is, its first number in the replay, and the time of its first row (s)."""

    summary: EpisodeSummary
    first_seq: int
    start_s: float

    @property
    def end_seq(self) -> int:
        """One above the number of its last row."""
        return self.first_seq + self.summary.info.rows


@dataclass(frozen=True, slots=True)
class PlannedBoot:
    """One logged start of one robot.

    Attributes:
        names: What it is called in the new run, and what it was called when the log was shorter.
        episodes: In order; their rows are numbered from 0 without a gap.
    """

    robot_id: str
    names: Sequence[str]
    episodes: Sequence[PlannedEpisode]

    @property
    def rows(self) -> int:
        """Transitions of all its episodes."""
        return self.episodes[-1].end_seq


@dataclass(frozen=True, slots=True)
class RobotPlan:
    """All that one robot replays, boot after boot."""

    robot_id: str
    boots: Sequence[PlannedBoot]

    @property
    def rows(self) -> int:
        """Transitions of all its boots."""
        return sum(boot.rows for boot in self.boots)

    @property
    def episodes(self) -> int:
        """Episodes of all its boots."""
        return sum(len(boot.episodes) for boot in self.boots)


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What a whole fleet replays.

    Attributes:
        logs: Where the rows are.
        spec: Of all of them.
        robots: By id.
        copies: Episodes that are in the logs more than once and are replayed once.
        longest_gap_s: As it was asked for (s).
    """

    logs: Logs
    spec: SpaceSpec
    robots: Sequence[RobotPlan]
    copies: int
    longest_gap_s: float

    @property
    def rows(self) -> int:
        """Transitions of all robots."""
        return sum(robot.rows for robot in self.robots)

    @property
    def run_ids(self) -> set[str]:
        """The runs that the logs are of, and those whose folders they lie in: merged ones are another run."""
        lived = {summary.info.run_id for summary in self.logs.episodes}
        return (lived | {RunFolder(folder).known_run_id() for folder in self.logs.folders}) - {""}

    def read(self, episode: PlannedEpisode) -> tuple[Array, Array]:
        """Its packed rows [N], and the time of each on the timeline (s) [N].

        Raises:
            EpisodeFileError: Its file is damaged.
        """
        transitions = self.logs.transitions(episode.summary)
        return transitions.packed(), episode.start_s + row_offsets(transitions.stamp_ns, self.longest_gap_s)


@dataclass(frozen=True, slots=True)
class _Read:
    """One episode that was read whole."""

    summary: EpisodeSummary
    identity: EpisodeIdentity
    span: Span


def plan_replay(
    logs: Logs, longest_gap_s: float, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> ReplayPlan:
    """Read all episodes and lay them out; a damaged one is noted in `logs.damaged` and left out.

    Args:
        logs: The chosen episodes.
        longest_gap_s: As `log_timeline.episode_starts` has it (s).
        on_progress: Called with the number of episodes read and their total.

    Raises:
        LogsError: There is nothing to replay, there are several specs, or two episodes claim one place.
    """
    spec = logs.spec
    boots: defaultdict[tuple[str, str, str], list[_Read]] = defaultdict(list)
    for summary, transitions in logs.read(on_progress):
        info = summary.info
        packed = transitions.packed()
        boots[info.robot_id, info.boot_id, info.run_id].append(
            _Read(
                summary,
                _identity(info, packed),
                Span(
                    int(transitions.stamp_ns[0]),
                    float(row_offsets(transitions.stamp_ns, longest_gap_s)[-1]),
                    info.received_ns,
                ),
            )
        )
    kept, copies = _once(boots.values())
    if not kept:
        raise LogsError("none of the chosen episodes can be read")
    spans = [BootSpans(boot[0].summary.info.robot_id, [each.span for each in boot]) for boot in kept]
    by_robot: defaultdict[str, list[PlannedBoot]] = defaultdict(list)
    for boot, starts in zip(kept, episode_starts(spans, longest_gap_s), strict=True):
        by_robot[boot[0].summary.info.robot_id].append(_planned(boot, starts))
    robots = [RobotPlan(robot_id, by_robot[robot_id]) for robot_id in sorted(by_robot)]
    return ReplayPlan(logs, spec, robots, copies, longest_gap_s)


def _identity(info: EpisodeInfo, packed: Array) -> EpisodeIdentity:
    facts = [info.episode, info.evaluation, info.end, info.success, info.metrics]
    content = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
    content.update(packed.data)
    first = hashlib.blake2b(b"%d" % info.episode + packed[:1].tobytes(), digest_size=16)
    return EpisodeIdentity(first.digest(), content.digest(), info.complete)


def _once(boots: Iterable[list[_Read]]) -> tuple[list[list[_Read]], int]:
    """Each boot in its order, copies of episodes left out; boots in the order in which they began."""
    seen: set[tuple[str, str, bytes]] = set()
    kept: list[list[_Read]] = []
    copies = 0
    # The whole boot rather than a few copies of it in another folder: it is whole next time, too.
    for boot in sorted(boots, key=len, reverse=True):
        boot.sort(key=lambda each: each.summary.info.episode)
        mine: list[_Read] = []
        for each in boot:
            info = each.summary.info
            key = info.robot_id, info.boot_id, each.identity.content
            if key in seen:
                copies += 1
                continue
            seen.add(key)
            if mine and mine[-1].summary.info.episode == info.episode:
                raise LogsError(
                    f"{mine[-1].summary.path} and {each.summary.path} are different, but both say that they "
                    f"are episode {info.episode} of {info.robot_id}: leave one of them out"
                )
            mine.append(each)
        if mine:
            kept.append(mine)
    kept.sort(key=lambda boot: BootSpans("", [each.span for each in boot]).began_ns)
    return kept, copies


def _planned(boot: Sequence[_Read], starts: Sequence[float]) -> PlannedBoot:
    episodes: list[PlannedEpisode] = []
    for each, start_s in zip(boot, starts, strict=True):
        first_seq = episodes[-1].end_seq if episodes else 0
        episodes.append(PlannedEpisode(each.summary, first_seq, start_s))
    info = boot[0].summary.info
    names = replay_names(info.robot_id, info.boot_id, [each.identity for each in boot])
    return PlannedBoot(info.robot_id, names, episodes)
