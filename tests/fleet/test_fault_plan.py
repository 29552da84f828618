"""Plans of chaos runs: the same for the same seed, everything comes, nobody is hit twice at once."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.fault_plan import KINDS, LEARNER, SERVER, Fault, fault_name, make_plan

ROBOTS = ["robot1", "robot2", "robot3"]
ALL = {
    *("kill server", "kill learner", "kill robot", "stop server", "stop learner", "stop robot"),
    *("cut learner", "cut robot", "disk server", "disk robot", "flip server"),
}


def test_the_same_seed_plans_the_same_faults() -> None:
    assert make_plan(7, ROBOTS, 60.0) == make_plan(7, ROBOTS, 60.0)
    assert make_plan(7, ROBOTS, 60.0) != make_plan(8, ROBOTS, 60.0)


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_meets_every_victim_within_a_minute(seed: int) -> None:
    counts = Counter(fault_name(fault) for fault in make_plan(seed, ROBOTS, 60.0))
    assert counts.keys() == ALL
    assert counts.total() > 30


def test_robots_take_turns() -> None:
    hits = Counter(fault.target for fault in make_plan(0, ROBOTS, 60.0))
    robots = [hits[robot] for robot in ROBOTS]
    assert max(robots) - min(robots) <= 2


@given(st.integers(0, 2**31), st.integers(1, 8), st.floats(1.0, 90.0), st.sets(st.sampled_from(KINDS)))
def test_faults_of_one_victim_do_not_overlap(
    seed: int, robots: int, duration_s: float, kinds: set[str]
) -> None:
    plan = make_plan(seed, [f"robot{i}" for i in range(robots)], duration_s, sorted(kinds))
    assert plan == sorted(plan, key=lambda fault: fault.at_s)
    assert {fault.kind for fault in plan} <= kinds
    by_target: dict[str, list[Fault]] = {}
    for fault in plan:
        assert 0.0 <= fault.at_s < duration_s
        assert fault.target in (SERVER, LEARNER) or fault.target.startswith("robot")
        by_target.setdefault(fault.target, []).append(fault)
    for faults in by_target.values():
        for first, second in itertools.pairwise(faults):
            assert second.at_s >= first.at_s + first.hold_s + 1.99


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="no fault 'flood'; there are: kill, stop, cut, disk, flip"):
        make_plan(0, ROBOTS, 10.0, ["kill", "flood"])
