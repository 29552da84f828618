from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fleet.messages import Transitions
from learner.packed_rows import PackedRows, RowLayout

MakeRows = Callable[..., Transitions]


@pytest.mark.parametrize("most", [1, 3, 7, 20, 100])
def test_pieces_are_the_whole(most: int, make_rows: MakeRows) -> None:
    shown, cut = np.arange(20) % 5 == 2, np.arange(20) == 19
    columns = vars(make_rows(20)) | {"intervened": shown, "truncated": cut}  # each third row terminates
    rows = PackedRows.pack(Transitions(**columns), RowLayout(3, 2))
    assert rows.demonstrations.tolist() == [2, 7, 12, 17]
    assert rows.ends.tolist() == [0, 3, 6, 9, 12, 15, 18, 19]
    pieces = rows.split(most)
    assert [len(piece) for piece in pieces] == [most] * (20 // most) + ([20 % most] if 20 % most else [])
    assert np.array_equal(np.concatenate([piece.values for piece in pieces]), rows.values)
    starts = np.cumsum([0, *(len(piece) for piece in pieces)])[:-1]
    for name in ("demonstrations", "ends"):
        places = [start + getattr(piece, name) for start, piece in zip(starts, pieces, strict=True)]
        assert np.concatenate(places).tolist() == getattr(rows, name).tolist()


def test_no_rows_are_one_piece_without_rows(make_rows: MakeRows) -> None:
    (piece,) = PackedRows.pack(make_rows(0), RowLayout(3, 2)).split(10)
    assert len(piece) == len(piece.demonstrations) == len(piece.ends) == 0
