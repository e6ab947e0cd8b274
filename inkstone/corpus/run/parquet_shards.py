"""Parquet shards `part-00000.parquet`, `part-00001.parquet`, ... of bounded size, zstd-compressed.

The same rows always give the same files: nothing of the clock or the machine is written.
"""

from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

SHARD_BYTES = 256 << 20  # of Arrow data, before compression
GROUP_BYTES = 16 << 20

DOCUMENT = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("quality", pa.float32()),
        pa.field("meta", pa.string(), nullable=False),
    ]
)


class Shards:
    """A folder of shards being written; used with `with`. A folder without rows gets one empty shard."""

    def __init__(self, directory: Path, schema: pa.Schema) -> None:
        self._directory, self._schema = directory, schema
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.RecordBatch] = []
        self._waiting = self._written = self._number = 0
        directory.mkdir(parents=True)

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._flush()
            if self._number == 0 and self._writer is None:
                self._open()
        self._close()

    def add(self, rows: pa.RecordBatch) -> None:
        """Append rows; they reach the disk in groups."""
        self._pending.append(rows)
        self._waiting += rows.nbytes
        if self._waiting >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        writer = self._writer or self._open()
        writer.write_table(pa.Table.from_batches(self._pending, self._schema))
        self._written += self._waiting
        self._pending, self._waiting = [], 0
        if self._written >= SHARD_BYTES:
            self._close()

    def _open(self) -> pq.ParquetWriter:
        path = self._directory / f"part-{self._number:05d}.parquet"
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._number, self._written = self._number + 1, 0
        return self._writer

    def _close(self) -> None:
        if self._writer:
            self._writer.close()
        self._writer = None
