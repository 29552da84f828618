"""How things of a scene touch the robot in MuJoCo."""

from __future__ import annotations

from typing import Any

from fleet.scene_config import SceneConfig

STIFF = (0.005, 1.0)
"""Time constant (s) and damping ratio of contacts and stops."""


def touch(scene: SceneConfig, solid: bool) -> dict[str, Any]:
    """What a geom of the scene touches, and how; its own say, not the robot's."""
    return {
        "contype": 0,
        "conaffinity": int(solid),
        "priority": 1,
        "friction": [scene.friction, 0.005, 0.0001],
        "solref": STIFF,
    }
