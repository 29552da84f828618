"""The thread beside the updates: what it does does not hold them up, and what goes wrong in it is heard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import learner.checkpoint as checkpoint_module
from fleet.config import FleetConfig
from fleet.messages import TailReply
from fleet.run_folder import RunFolder
from fleet.sockets import Context, bind_policy_publisher
from fleet.spaces import SpaceSpec
from learner.checkpoint import list_checkpoints
from learner.learner import Learner
from learner.log_tail import PIECE_ROWS
from learner.publisher import PolicyPublisher
from learner.replay_link import ReplayLink
from learner.trainer import DivergedError

WaitUntil = Callable[..., None]


class ScriptedLink(ReplayLink):
    """Gives the replies of a list, one per poll."""

    def __init__(self, *replies: TailReply) -> None:
        self.replies, self.run_id, self.connected = list(replies), "run1", False

    def poll_tail(self, cursor: int, max_rows: int) -> TailReply | None:
        return self.replies.pop(0) if self.replies else None


@pytest.fixture
def make_learner(
    config: FleetConfig, tmp_path: Path, spec: SpaceSpec, context: Context
) -> Iterator[Callable[..., Learner]]:
    publisher = PolicyPublisher(bind_policy_publisher(context, config.learner.policy_endpoint))

    def make(*replies: TailReply, **changes: Any) -> Learner:
        learner = config.learner.model_copy(update={"checkpoint_period_s": 0.01} | changes)
        changed = config.model_copy(update={"learner": learner})
        return Learner(changed, spec, RunFolder(tmp_path), ScriptedLink(*replies), publisher)

    yield make
    publisher.close()


class Running:
    """A learner at work in a thread."""

    def __init__(self, learner: Learner) -> None:
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self._learner = learner
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._learner.run(self.stop)
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


def test_updates_go_on_while_the_disk_takes_its_time(
    make_learner: Callable[..., Learner],
    make_reply: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: WaitUntil,
) -> None:
    """The checkpoint that was begun before is a whole of its moment all the same."""
    learner = make_learner(make_reply(0, 90, 90), updates_per_row=1e6)
    write, writing, go_on = checkpoint_module.write_sealed, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> None:
        writing.set()
        assert go_on.wait(20)
        write(*arguments)

    monkeypatch.setattr(checkpoint_module, "write_sealed", slow)
    running = Running(learner)
    try:
        assert writing.wait(20)
        done = learner.trainer.updates
        wait_until(lambda: learner.trainer.updates > done + 200, what="updates beside a checkpoint")
        assert not list_checkpoints(tmp_path / "checkpoints")
    finally:
        go_on.set()
        running.stop.set()
        running.join()
    assert running.error is None
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    assert int(newest.name[:10]) == learner.trainer.updates, "the last state is saved on the way out"


def test_nobody_touches_a_snapshot_that_is_looked_at(
    make_learner: Callable[..., Learner],
    make_reply: Any,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = make_learner(make_reply(0, 90, 90), updates_per_row=1e6)
    courier, trainer = learner.courier, learner.trainer
    use, looks = courier.use, list[bool]()

    def look(purposes: Any) -> None:
        use(purposes)
        held = courier.snapshot.trainer.tensors()
        before, done = {name: tensor.clone() for name, tensor in held.items()}, trainer.updates
        if len(looks) < 3:
            wait_until(lambda: trainer.updates > done + 50, what="updates meanwhile")
        looks.append(all(torch.equal(held[name], tensor) for name, tensor in before.items()))

    monkeypatch.setattr(courier, "use", look)
    running = Running(learner)
    try:
        wait_until(lambda: len(looks) >= 3, what="three snapshots")
    finally:
        running.stop.set()
        running.join()
    assert running.error is None
    assert all(looks)


@pytest.mark.parametrize("what", ["diverged", "broken"])
def test_an_error_in_the_courier_ends_the_learner(
    make_learner: Callable[..., Learner], make_reply: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    learner = make_learner(make_reply(0, 90, 90))
    if what == "diverged":
        with torch.no_grad():
            learner.trainer.tensors()["network"].fill_(torch.nan)
    else:
        monkeypatch.setattr(learner.courier._publisher, "serve", lambda: 1 / 0)
    running = Running(learner)
    running.join()
    assert isinstance(running.error, DivergedError if what == "diverged" else ZeroDivisionError)


def test_an_error_of_an_update_ends_the_courier(
    make_learner: Callable[..., Learner], make_reply: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner(make_reply(0, 90, 90))

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(learner.trainer, "update_many", fail)
    running = Running(learner)
    running.join()
    assert isinstance(running.error, MemoryError)
    assert not [thread for thread in threading.enumerate() if thread.name == "courier"]


def test_between_updates_a_burst_comes_in_pieces(
    make_learner: Callable[..., Learner], make_reply: Any
) -> None:
    rows = 100 + 3 * PIECE_ROWS
    learner = make_learner(make_reply(0, 100, 100), make_reply(100, rows, rows), updates_per_row=1e6)
    learner.courier.pull(0.0)
    learner.take_rows()
    assert learner.train()
    learner.courier.pull(1.0)
    for piece in range(1, 4):
        learner.take_rows()
        assert learner.mirror.cursor == 100 + piece * PIECE_ROWS
        assert learner.trainer.normaliser.count == learner.trainer.rewards.count == learner.mirror.cursor
        assert learner.train()
    learner.courier.close()


def test_nothing_is_wanted_before_what_was_handed_over_is_used(
    make_learner: Callable[..., Learner], make_reply: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads take turns just between the courier's look at what is there and at what is wanted."""
    courier = make_learner(make_reply(0, 90, 90)).courier
    used: list[frozenset[str]] = []
    monkeypatch.setattr(courier, "use", used.append)
    courier._due_s.update(publish=2.0, log=3.0, checkpoint=1.0)
    courier.tend(1.0)
    assert courier.wanted == {"checkpoint"}

    class Turns(type(courier)):  # type: ignore[misc]
        @property
        def wanted(self) -> frozenset[str]:
            if self.__dict__["wanted"] and not self.__dict__.pop("handed", False):
                self.__dict__["handed"] = True
                self.hand_over()
            return self.__dict__["wanted"]

        @wanted.setter
        def wanted(self, what: frozenset[str]) -> None:
            self.__dict__["wanted"] = what

    courier.__class__ = Turns
    courier.tend(2.0)
    assert not (courier._purposes and courier.__dict__["wanted"])
    courier.tend(2.0)
    assert used == [{"checkpoint"}]
    courier.close()
