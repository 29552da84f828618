"""Rows into numbered Parquet files of limited size, as LeRobot wants them: chunk-000/file-000.parquet on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from replay_server.logs import LogsError

if TYPE_CHECKING:
    import pyarrow as pa

FILES_PER_CHUNK = 1000
FILE_NAME = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


def require_pyarrow() -> None:
    """Whether Parquet can be written here.

    Raises:
        LogsError: It cannot.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise LogsError(
            f"LeRobot's files need pyarrow ({error}): pip install 'parallel-naf[exchange]'"
        ) from error


class ParquetFiles:
    """One writer at a time; a table goes whole into one file.

    files = ParquetFiles(Path("data"), 100)
    chunk, file = files.write(table)
    files.close()

    Attributes:
        chunk: Number of the folder that the next table goes to.
        file: Number of the file in it.
    """

    def __init__(self, folder: Path, file_mb: float) -> None:
        """Nothing is written yet.

        Args:
            folder: Where the chunks go.
            file_mb: After so much, a new file begins (MiB, in memory: at most as much on the disk).
        """
        self.chunk = self.file = 0
        self._folder, self._limit = folder, file_mb * 2**20
        self._bytes = 0
        self._writer: Any = None

    def write(self, table: pa.Table) -> None:
        """Append a table to the file `chunk`, `file`.

        Raises:
            OSError: The disk is full, or not writable.
        """
        import pyarrow.parquet as pq

        if self._writer is None:
            path = self._folder / FILE_NAME.format(chunk_index=self.chunk, file_index=self.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, table.schema, compression="snappy")
        self._writer.write_table(table)
        self._bytes += table.nbytes
        if self._bytes >= self._limit:
            self.close()
            self._bytes = 0
            self.file += 1
            if self.file == FILES_PER_CHUNK:
                self.chunk, self.file = self.chunk + 1, 0

    def close(self) -> None:
        """Finish the file that is open, if one is.

        Raises:
            OSError: The disk is full, or not writable.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
