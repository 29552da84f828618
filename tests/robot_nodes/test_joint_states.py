"""JointState messages as drivers really send them: any order, empty velocities, missing joints."""

from __future__ import annotations

from math import nan
from types import SimpleNamespace

import numpy as np
import pytest

from robot_nodes.joint_states import JointStateError, JointStateReader, OtherJointsError


def message(names, position, velocity, stamp_ns=0, effort=()):
    stamp = SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    header = SimpleNamespace(stamp=stamp)
    return SimpleNamespace(name=names, position=position, velocity=velocity, effort=effort, header=header)


def test_joints_are_mapped_by_name_whatever_the_order():
    reader = JointStateReader(["a", "b"])
    reading = reader.read(message(["b", "gripper", "a"], [2.0, 9.0, 1.0], [20.0, 90.0, 10.0], 1_500_000_001))
    assert reading.q.tolist() == [1.0, 2.0]
    assert reading.qd.tolist() == [10.0, 20.0]
    assert reading.stamp_ns == 1_500_000_001
    again = reader.read(message(["a", "b"], [3.0, 4.0], [0.0, 0.0]))  # the order may change at any time
    assert again.q.tolist() == [3.0, 4.0]


def test_empty_velocities_are_differenced():
    reader = JointStateReader(["a"])
    assert reader.read(message(["a"], [1.0], [], 0)).qd.tolist() == [0.0]
    assert reader.read(message(["a"], [1.5], [], 100_000_000)).qd.tolist() == pytest.approx([5.0])
    assert reader.read(message(["a"], [2.0], [], 100_000_000)).qd.tolist() == [0.0]  # time stood still


def test_fields_without_an_interface_are_nan_throughout_and_count_as_empty():
    reader = JointStateReader(["a", "b"])
    first = reader.read(message(["a", "b"], [1.0, 2.0], [nan, nan], 0, [nan, nan]))
    assert first.qd.tolist() == [0.0, 0.0] and first.effort is None
    second = reader.read(message(["a", "b"], [1.1, 2.0], [nan, nan], 100_000_000, [3.0, -4.0]))
    assert second.qd.tolist() == pytest.approx([1.0, 0.0])
    assert second.effort is not None and second.effort.tolist() == [3.0, -4.0]
    assert np.isnan(reader.read(message(["a", "b"], [1.1, 2.0], [nan, 0.0])).qd).tolist() == [True, False]


def test_a_position_that_is_not_finite_spoils_no_later_velocity():
    reader = JointStateReader(["a"])
    reader.read(message(["a"], [1.0], [], 0))
    assert np.isnan(reader.read(message(["a"], [nan], [], 50_000_000)).q).all()
    assert reader.read(message(["a"], [1.5], [], 100_000_000)).qd.tolist() == pytest.approx([5.0])


def test_messages_about_other_joints_only_are_told_apart():
    reader = JointStateReader(["a", "b"])
    with pytest.raises(OtherJointsError, match=r"lacks a, b; it has gripper"):
        reader.read(message(["gripper"], [0.0], []))
    with pytest.raises(JointStateError) as error:
        reader.read(message(["a", "gripper"], [0.0, 0.0], []))
    assert not isinstance(error.value, OtherJointsError)


def test_a_missing_joint_is_named():
    with pytest.raises(JointStateError, match=r"lacks b; it has a, c"):
        JointStateReader(["a", "b"]).read(message(["a", "c"], [0.0, 0.0], []))


@pytest.mark.parametrize(
    ("position", "velocity", "effort"), [([0.0], [], []), ([0.0, 0.0], [0.0], []), ([0.0, 0.0], [], [0.0])]
)
def test_wrong_lengths_are_told(position, velocity, effort):
    with pytest.raises(JointStateError, match="2 names"):
        JointStateReader(["a", "b"]).read(message(["a", "b"], position, velocity, effort=effort))
