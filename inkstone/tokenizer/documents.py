"""Read the corpus stage's Parquet files as batches of plain columns, one row group piece at a time.

Only the columns that the caller needs are read, so a pass that counts bytes does not pay for titles and metadata.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from inkstone.errors import InkstoneError, InputError

Columns = dict[str, list[str]]


def corpus_files(corpus_dir: Path, split: str) -> list[Path]:
    """The Parquet files of "train" or "heldout", in order. Raises InputError where the split's folder is missing."""
    folder = corpus_dir / split
    if not folder.is_dir():
        raise InputError(f"{folder} is not a directory: run the corpus stage first, or point to its output directory.")
    return sorted(folder.glob("*.parquet"))


def count_bytes(files: list[Path]) -> int:
    """UTF-8 bytes of all texts, without decoding them."""
    total = 0
    for batch in _batches(files, ["text"], 4096):
        total += pc.sum(pc.binary_length(batch.column(0))).as_py() or 0
    return total


def read_documents(files: list[Path], columns: list[str], batch_documents: int = 1024) -> Iterator[Columns]:
    """Batches of documents as {column: values}; "text" never holds None."""
    for batch in _batches(files, columns, batch_documents):
        yield {name: batch.column(name).to_pylist() for name in columns}


def _batches(files: list[Path], columns: list[str], batch_documents: int) -> Iterator[pa.RecordBatch]:
    for path in files:
        try:
            with pq.ParquetFile(path) as parquet:
                missing = [name for name in columns if name not in parquet.schema_arrow.names]
                if missing:
                    raise InputError(f"{path} has no column {', '.join(missing)}: run the corpus stage again.")
                for batch in parquet.iter_batches(batch_size=batch_documents, columns=columns):
                    nulls = [name for name in columns if batch.column(name).null_count]
                    if nulls:
                        raise InputError(f"{path} has rows without {', '.join(nulls)}: run the corpus stage again.")
                    yield batch
        except (OSError, pa.ArrowException) as error:
            raise InkstoneError(f"{path} cannot be read as Parquet ({error}): run the corpus stage again.") from error
