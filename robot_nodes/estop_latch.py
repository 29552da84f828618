"""An e-stop that outlives the process: a file that is there while the robot is e-stopped."""

from __future__ import annotations

import time
from pathlib import Path

from fleet.durable_files import lower_flag, raise_flag


class EstopLatch:
    """`<folder>/<name>.estop`; its presence is the latch, its text is for people.

    latch = EstopLatch(folder, name)               # robot_nodes/robot_state_folder.py says where
    if latch.reason: …                   # e-stopped before this process was started
    latch.set("e-stop by ROS service")
    latch.clear()                        # by a person only
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.estop"

    @property
    def reason(self) -> str:
        """Why the robot is e-stopped; empty when it is not. What cannot be read counts as e-stopped."""
        try:
            return self.path.read_text(errors="replace").strip() or "e-stopped before the last restart"
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{self.path} cannot be read ({error.strerror}): taken as e-stopped"

    def set(self, reason: str) -> None:
        """Latch, durably; the first reason stays.

        Raises:
            OSError: The disk refuses.
        """
        if not self.reason:
            raise_flag(self.path, f"{reason} ({time.strftime('%Y-%m-%d %H:%M:%S')})\n")

    def clear(self) -> None:
        """A person has cleared it, durably.

        Raises:
            OSError: The disk refuses.
        """
        lower_flag(self.path)
