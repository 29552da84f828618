"""What any part of the service raises to say no to a peer."""

from __future__ import annotations


class RefusedError(ValueError):
    """What was asked cannot be had; the text, which says what to do, becomes the Refusal."""
