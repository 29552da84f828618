"""JointState messages as drivers really send them: any order, empty velocities, missing joints."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from robot_nodes.joint_states import JointStateError, JointStateReader


def message(names, position, velocity, stamp_ns=0):
    stamp = SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return SimpleNamespace(
        name=names, position=position, velocity=velocity, header=SimpleNamespace(stamp=stamp)
    )


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


def test_a_missing_joint_is_named():
    with pytest.raises(JointStateError, match=r"lacks b; it has a, c"):
        JointStateReader(["a", "b"]).read(message(["a", "c"], [0.0, 0.0], []))


@pytest.mark.parametrize(("position", "velocity"), [([0.0], []), ([0.0, 0.0], [0.0])])
def test_wrong_lengths_are_told(position, velocity):
    with pytest.raises(JointStateError, match="2 names"):
        JointStateReader(["a", "b"]).read(message(["a", "b"], position, velocity))
