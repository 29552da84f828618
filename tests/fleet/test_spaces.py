from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fleet.spaces import MAX_DIMENSIONS, Space, SpaceError, SpaceSpec


def space(**changes) -> Space:
    values = {"names": ("q1", "q2"), "units": ("rad", "rad/s"), "low": (-1.0, -2.0), "high": (1.0, 2.0)}
    return Space(**{**values, **changes})


SPEC = SpaceSpec(observation=space(), action=space(names=("u1", "u2"), units=("1", "1")))


def test_json_and_back_is_the_same_spec_with_the_same_hash() -> None:
    again = SpaceSpec.from_json(json.loads(json.dumps(SPEC.to_json())))
    assert again == SPEC
    assert again.hash == SPEC.hash
    assert again.difference(SPEC) == ""


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"names": ("q1", "q3")}, "observation.names[1] (q2) is 'q2' here and 'q3' there"),
        ({"units": ("deg", "rad/s")}, "observation.units[0] (q1) is 'rad' here and 'deg' there"),
        ({"low": (-1.5, -2.0)}, "observation.low[0] (q1) is -1.0 here and -1.5 there"),
        ({"high": (1.0, 2.5)}, "observation.high[1] (q2) is 2.0 here and 2.5 there"),
        (
            {"names": tuple("abcdef"), "units": ("1",) * 6, "low": (-1.0,) * 6, "high": (1.0,) * 6},
            "observation has 2 dimensions here and 6 there; only here: q1, q2; only there: a, b, c, d, …",
        ),
        (
            {"names": ("q1",), "units": ("rad",), "low": (-1.0,), "high": (1.0,)},
            "observation has 2 dimensions here and 1 there; only here: q2",
        ),
    ],
)
def test_every_change_changes_the_hash_and_is_named(change, difference: str) -> None:
    other = replace(SPEC, observation=space(**change))
    assert other.hash != SPEC.hash
    assert SPEC.difference(other) == difference


def test_observation_and_action_are_not_interchangeable() -> None:
    assert SpaceSpec(observation=SPEC.action, action=SPEC.observation).hash != SPEC.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("q1",)}, "must be equally long"),
        ({"names": ("q1", "q1")}, "names must be unique"),
        ({"low": (-1.0, 2.0)}, "bounds of 'q2' must be finite with low < high: 2.0, 2.0"),
        ({"high": (float("nan"), 2.0)}, "bounds of 'q1' must be finite"),
        ({"high": (float("inf"), 2.0)}, "bounds of 'q1' must be finite"),
        ({"names": (), "units": (), "low": (), "high": ()}, "a space has 1 to 4096 dimensions, got 0"),
    ],
)
def test_a_malformed_space_is_refused(change, message: str) -> None:
    with pytest.raises(SpaceError, match=message.replace("(", r"\(")):
        space(**change)


def test_too_many_dimensions_are_refused() -> None:
    n = MAX_DIMENSIONS + 1
    with pytest.raises(SpaceError, match="1 to 4096 dimensions, got 4097"):
        Space(names=tuple(map(str, range(n))), units=("1",) * n, low=(0.0,) * n, high=(1.0,) * n)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"observation": {}, "action": {}},
        {"observation": None, "action": None},
        {"observation": [], "action": []},
        {"observation": {"names": 1, "units": 1, "low": 1, "high": 1}, "action": {}},
        {"observation": {"names": ["a"], "units": ["1"], "low": ["x"], "high": [1]}, "action": {}},
    ],
)
def test_malformed_json_is_a_space_error_and_nothing_else(data) -> None:
    with pytest.raises(SpaceError):
        SpaceSpec.from_json(data)
