"""ROS 2 bags as a run folder: what an arm lived before it met this fleet, or with it.

Joint states and commands become the transitions that the robot's own control loop would have recorded, with
the task's rewards. Each bag is a boot of its own, named by its content: importing it again gives the same
rows under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fleet.config import FleetConfig
from replay_server.log_writer import LogWriter, new_info
from robot_nodes.bag_episodes import BagEpisode
from robot_nodes.bag_listener import BagListener
from robot_nodes.bag_options import BagOptions
from robot_nodes.bag_reader import Bag, BagError, find_bags
from robot_nodes.bag_report import BagReport
from robot_nodes.tasks.task import make_task

Progress = Callable[[Path, int, int], None]
"""Called with a bag, how many of its messages were read, and how many there are to read."""

DEFAULT = BagOptions()
_SHOWN = 5


def import_bags(
    bags: Sequence[Path],
    fleet: FleetConfig,
    robot_id: str,
    out: Path,
    options: BagOptions = DEFAULT,
    on_progress: Progress = lambda bag, done, total: None,
) -> list[BagReport]:
    """Write the episodes of bags as a run folder; a bag that cannot be used is left out.

    Args:
        bags: Bags, or folders of bags.
        fleet: With the robot and the task; kept in the folder.
        robot_id: Whose bags they are.
        out: The folder; it must not exist.
        options: What the bags do not say.
        on_progress: Called now and then.

    Returns:
        What became of each bag, in order.

    Raises:
        BagError: No bag gave anything, so there is no folder; says why of each.
        ConfigError: The fleet has no such robot, or an option does not fit it.
        LogsError: `out` exists already.
        ModuleNotFoundError: rosbags is not installed.
        UrdfError: The robot's URDF cannot be read.
    """
    task, paths = make_task(fleet, robot_id), find_bags(bags)
    reports: list[BagReport] = []
    known: dict[str, Path] = {}
    with LogWriter(out, task.spec, "imported from ROS 2 bags", fleet) as writer:
        for path in paths:
            report = BagReport(path)
            reports.append(report)
            try:
                with Bag(path) as bag:
                    if (twin := known.setdefault(bag.fingerprint, path)) != path:
                        raise BagError(f"the same recording as {twin}")
                    adder = _Adder(writer, fleet, robot_id, bag)
                    listener = BagListener(fleet, robot_id, task, options, bag, report, adder.add)
                    listener.listen(partial(on_progress, path))
            except BagError as error:
                report.error = str(error)
        if not writer.rows:
            told = [f"{report.bag}: {report.error}" for report in reports[:_SHOWN]]
            more = [f"and {len(reports) - _SHOWN} more bags"] if len(reports) > _SHOWN else []
            raise BagError("\n".join(told + more))
    return reports


class _Adder:
    """Puts the episodes of one bag into the folder."""

    def __init__(self, writer: LogWriter, fleet: FleetConfig, robot_id: str, bag: Bag) -> None:
        self._writer, self._task = writer, fleet.task.kind
        self._robot_id, self._bag = robot_id, bag
        self._episodes = 0

    def add(self, episode: BagEpisode) -> None:
        info = new_info(
            self._robot_id,
            f"bag-{self._bag.fingerprint}",
            self._episodes,
            received_ns=episode.received_ns,
            end=episode.end,
            success=episode.success,
            metrics=episode.metrics,
            task=self._task,
            origin=f"imported from bag {self._bag.path.name}",
        )
        self._writer.add(info, episode.transitions)
        self._episodes += 1
