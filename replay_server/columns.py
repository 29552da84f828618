"""What the server asks about packed rows; their layout is `fleet.messages.row_dtype`."""

from __future__ import annotations

from fleet.messages import MessageError, Transitions, row_dtype


def row_bytes(nx: int, nu: int) -> int:
    """Bytes of one packed transition."""
    return row_dtype(nx, nu).itemsize


def shape_error(transitions: Transitions, nx: int, nu: int) -> str:
    """What is wrong with the shapes or dtypes of some transitions, in words; empty if nothing."""
    try:
        dtype = transitions.packed().dtype
    except MessageError as error:
        return str(error)
    if dtype == row_dtype(nx, nu):
        return ""
    sizes = (dtype["observation"].shape[0], dtype["action"].shape[0])
    return f"rows have observations of {sizes[0]} and actions of {sizes[1]} numbers, not {nx} and {nu}"
