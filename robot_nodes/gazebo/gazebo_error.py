"""The error of everything that finds, installs or starts Gazebo."""

from __future__ import annotations


class GazeboError(ValueError):
    """Gazebo cannot be used on this machine as asked; the text says why and what to do."""
