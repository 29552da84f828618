"""The batches of one boot, read back from its spool in order."""

from __future__ import annotations

from collections import deque

from fleet.messages import TransitionBatch
from robot_nodes.batch_former import BatchFormer
from robot_nodes.spool_boot import SpoolBoot
from robot_nodes.spool_file import SpoolRow


class SpoolReader:
    """Forms batches of at most `max_rows` from the files; holds a few hundred KiB, whatever waits.

    reader.seek(durable_seq + 1)
    while (batch := reader.next_batch()) is not None: …
    """

    def __init__(self, boot: SpoolBoot, *, max_rows: int = 64, min_rows: int = 16) -> None:
        """Read from the boot's first row on.

        Args:
            boot: Whose rows.
            max_rows: Rows of a batch where they are there.
            min_rows: Rows that a batch of a running episode waits for.
        """
        head = boot.head
        self._boot, self._min_rows = boot, min_rows
        self._ready: deque[TransitionBatch] = deque()
        self._former = BatchFormer(
            head.robot_id, head.boot_id, head.spec_hash, head.nx, head.nu, self._ready.append, max_rows
        )
        self._segment_first_seq = self._offset = self._from_seq = 0

    def seek(self, seq: int) -> None:
        """Go on with row `seq`, or with the first behind it that is there."""
        self._ready.clear()
        self._former.clear()
        self._from_seq = seq
        self._offset = 0
        segments = self._boot.segments
        self._segment_first_seq = max((s.first_seq for s in segments if s.first_seq <= seq), default=0)

    def next_batch(self) -> TransitionBatch | None:
        """The next batch, or None until there are more rows.

        Raises:
            OSError: A file cannot be read; the next call tries again.
        """
        while not self._ready:
            closed = self._boot.closed  # before the files are looked at: what came until then is read
            if not self._read_on():
                if closed:
                    self._former.close()
                else:
                    self._former.flush(self._min_rows)
                return self._ready.popleft() if self._ready else None
        return self._ready.popleft()

    def _read_on(self) -> bool:
        """Feed the former what follows in the files; False when nothing does."""
        segments = self._boot.segments
        index = next((i for i, s in enumerate(segments) if s.first_seq >= self._segment_first_seq), None)
        if index is None:
            return False
        segment = segments[index]
        if segment.first_seq != self._segment_first_seq:  # the one before is read, or was removed
            self._segment_first_seq, self._offset = segment.first_seq, 0
        newest = index == len(segments) - 1  # before its size is looked at: no other's can change
        size = segment.size
        if self._offset >= size:
            if not newest:
                self._segment_first_seq = segments[index + 1].first_seq
                self._offset = 0
            return not newest
        items, self._offset = self._boot.read(segment, self._offset)
        for item in items:
            if item.seq < self._from_seq:
                continue
            if isinstance(item, SpoolRow):
                self._former.add_row(item.seq, item.episode, item.evaluation, item.packed)
            else:
                self._former.end_episode(item.seq, item.episode, item.end)
        return True
