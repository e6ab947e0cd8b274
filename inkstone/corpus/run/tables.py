"""What a task leaves for the passes after it: documents as an Arrow file, signatures and spans as flat binary files.

    rows.arrow                 the documents that stay, in order (mapped into memory, never loaded)
    audit.arrow, figures.json  what was removed and counted
    exact.u64, minhash.u32     one row per document
    equal-00003.bin            hashes of documents that fall into partition 3
    bands-00003.bin            their band keys
    spans-00003.bin            keys of their lines and sentences
    sentences-00003.bin        band keys of their sentences, where nearly equal ones are looked for
    anchors-00003.bin, windows-00003.bin    of their long runs of tokens, where those that repeat are looked for

Everything is appended as batches come, so memory holds one batch and a bounded buffer; the task that works on a
partition reads that partition of every task, and nothing else. A document is known by its rank: its place in the order
of all tasks' documents.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inkstone.corpus.judge.kernel import F64, I64, U32, U64, Mask
from inkstone.corpus.repeats.dedup import Matches, Signatures, band_keys
from inkstone.corpus.repeats.spans import NEAR_BANDS, ROW
from inkstone.corpus.run.audit import Audit
from inkstone.corpus.run.figures import Figures
from inkstone.corpus.run.parquet_shards import DOCUMENT
from inkstone.corpus.settings import DedupSettings

KEY = np.dtype([("key", "<u8"), ("rank", "<i8")])
_BUFFER_BYTES = 16_000_000
_MERGED_BYTES = 64_000_000
_MATCHES = ("later", "earlier", "agreement")


class PartitionWriter:
    """Rows with a field `key`, each appended to the file of its partition, many at a time."""

    def __init__(self, stem: Path, partitions: int) -> None:
        self._stem, self._partitions = stem, partitions
        self._waiting: list[np.ndarray] = []
        self._bytes = 0

    def add(self, rows: np.ndarray) -> None:
        self._waiting.append(rows)
        self._bytes += rows.nbytes
        if self._bytes > _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._bytes:
            return
        rows = np.concatenate(self._waiting)
        part = partition_of(rows["key"], self._partitions)
        order = np.argsort(part, kind="stable")
        rows, edges = rows[order], np.searchsorted(part[order], np.arange(self._partitions + 1))
        for number in np.flatnonzero(np.diff(edges)).tolist():
            _append(partition_file(self._stem, number), rows[edges[number] : edges[number + 1]])
        self._waiting, self._bytes = [], 0


def partition_file(stem: Path, partition: int) -> Path:
    return stem.with_name(f"{stem.name}-{partition:05d}.bin")


class TaskWriter:
    """Fills a task's directory; used with `with`. `spans` and `sentences` take rows of their own."""

    def __init__(self, directory: Path, partitions: int, settings: DedupSettings) -> None:
        self.directory, self._settings = directory, settings
        self._equal, self._bands, self.spans = (
            PartitionWriter(directory / stem, partitions) for stem in ("equal", "bands", "spans")
        )
        self.sentences = PartitionWriter(directory / "sentences", partitions * NEAR_BANDS)
        self.figures = Figures()
        self.audit = Audit(directory / "audit.arrow", self.figures)
        self.documents = 0
        self._rows = pa.ipc.new_file(str(directory / "rows.arrow"), DOCUMENT)

    def __enter__(self) -> "TaskWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._rows.close()
        self.audit.close()
        if kind is None:
            for part in (self._equal, self._bands, self.spans, self.sentences):
                part.flush()
            self.figures.save(self.directory / "figures.json")

    def add(self, rows: pa.RecordBatch, signs: Signatures) -> None:
        """Append documents and their signatures."""
        if len(rows):
            self._rows.write_batch(rows)
        _append(self.directory / "exact.u64", signs.exact)
        _append(self.directory / "minhash.u32", signs.minhash)
        _append(self.directory / "long.u8", signs.has_shingles.astype(np.uint8))
        if self._settings.exact:
            self._equal.add(key_rows(signs.exact, np.arange(len(rows)) + self.documents))
        if self._settings.near:
            long = np.flatnonzero(signs.has_shingles)
            bands = band_keys(signs.minhash[long], self._settings)
            self._bands.add(key_rows(bands.ravel(), np.repeat(long + self.documents, bands.shape[1])))
        self.documents += len(rows)


def key_rows(keys: U64, ranks: I64) -> np.ndarray:
    rows = np.empty(len(keys), KEY)
    rows["key"], rows["rank"] = keys, ranks
    return rows


def partition_of(keys: U64, partitions: int) -> U64:
    """By the upper half of a key: the lowest bits of a span's key say its kind."""
    return (keys >> np.uint64(32)) % np.uint64(partitions)


def _append(path: Path, values: np.ndarray) -> None:
    """Not `tofile`: on a full disk that raises an OSError without the number that says so."""
    with path.open("ab") as stream:
        stream.write(np.ascontiguousarray(values).data)


@dataclass(frozen=True)
class Tables:
    """The directories of a pass's tasks, read as one list of documents by rank."""

    places: list[Path]
    offsets: I64  # [tasks + 1] rank of each task's first document
    width: int

    @classmethod
    def open(cls, places: list[Path], settings: DedupSettings) -> "Tables":
        counts = [
            (place / "exact.u64").stat().st_size // 8 if (place / "exact.u64").exists() else 0 for place in places
        ]
        return cls(places, np.cumsum([0, *counts]), settings.bands * settings.rows)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def exact(self, task: int) -> U64:
        return _map(self.places[task] / "exact.u64", np.dtype("<u8"))

    def minhash(self, task: int) -> U32:
        return _map(self.places[task] / "minhash.u32", np.dtype("<u4")).reshape(-1, self.width)

    def long(self, task: int) -> I64:
        """Ranks of the task's documents that have a MinHash."""
        return np.flatnonzero(_map(self.places[task] / "long.u8", np.dtype("u1"))) + int(self.offsets[task])

    def partition(self, stem: str, partition: int, first_task: int = 0) -> np.ndarray:
        """Rows ("equal", "bands" or "spans") of a partition over all tasks from `first_task` on, with ranks."""
        dtype, parts = ROW if stem == "spans" else KEY, []
        for task in range(first_task, len(self.places)):
            rows = np.array(_map(partition_file(self.places[task] / stem, partition), dtype))
            rows["rank"] += self.offsets[task]
            parts.append(rows)
        return np.concatenate([np.zeros(0, dtype), *parts])

    def rows(self, task: int) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(self.places[task] / "rows.arrow"))).read_all()

    def agreement(self, one: I64, other: I64) -> F64:
        """Share of equal MinHash values of pairs of documents."""
        score = np.empty(len(one))
        for start in range(0, len(one), 65_536):
            part = slice(start, start + 65_536)
            score[part] = (self._minhash_of(one[part]) == self._minhash_of(other[part])).mean(axis=1)
        return score

    def _minhash_of(self, ranks: I64) -> U32:
        values = np.empty((len(ranks), self.width), np.uint32)
        task = np.searchsorted(self.offsets, ranks, side="right") - 1
        for number in np.unique(task).tolist():
            here = task == number
            values[here] = self.minhash(number)[ranks[here] - self.offsets[number]]
        return values

    def values(self, column: str, ranks: I64) -> dict[int, str]:
        """A column of a few documents, by rank."""
        found: dict[int, str] = {}
        task = np.searchsorted(self.offsets, ranks, side="right") - 1
        for number in np.unique(task).tolist():
            here = ranks[task == number]
            # Batch by batch: of a chunked column `take` would first join all chunks, that is copy the whole column.
            chunks = self.rows(number)[column].chunks
            starts = np.cumsum([0, *map(len, chunks)]) + self.offsets[number]
            chunk = np.searchsorted(starts, here, side="right") - 1
            for place in np.unique(chunk).tolist():
                mine = here[chunk == place]
                values = chunks[place].take(pa.array(mine - starts[place])).to_pylist()
                found.update(zip(mine.tolist(), values, strict=True))
        return found


def read_rows(places: tuple[Path, ...], stem: str, partition: int, dtype: np.dtype) -> np.ndarray:
    """Rows of a partition as they were written, from all of `places`."""
    return np.concatenate([np.zeros(0, dtype), *(_map(partition_file(p / stem, partition), dtype) for p in places)])


def save(path: Path, values: np.ndarray) -> None:
    """As `np.save`, which uses `tofile` (see `_append`)."""
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(values))
        stream.write(np.ascontiguousarray(values).data)


def save_matches(found: Matches, draft: Path) -> None:
    """Leave pairs for `load_matches`."""
    for name in _MATCHES:
        save(draft / f"{name}.npy", getattr(found, name))


def load_matches(places: list[Path]) -> Matches:
    """The pairs that tasks left, all together."""
    return Matches.joined([Matches(*(np.load(place / f"{name}.npy") for name in _MATCHES)) for place in places])


def map_rows(places: tuple[Path, ...], first: int, last: int) -> list[np.ndarray]:
    """What tasks left about documents first..last as `rows.npy`: one array in order, or mapped parts of large ones."""
    parts = [part for place in places if len(part := between(np.load(place / "rows.npy", "r"), first, last))]
    if sum(part.nbytes for part in parts) > _MERGED_BYTES or not parts:
        return parts
    rows = np.concatenate(parts)
    return [rows[np.argsort(rows["rank"], kind="stable")]]


def between(rows: np.ndarray, first: int, last: int) -> np.ndarray:
    """The rows (sorted by rank, mostly mapped) of documents first..last, without reading the others."""
    ranks = np.asarray(rows)["rank"]
    start, end = (bisect_left(ranks, rank) for rank in (first, last))  # looks at some, where searchsorted copies all
    return np.asarray(rows)[start:end]


def batches(table: pa.Table) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batches that a task wrote, and the place of each one's first document."""
    start = 0
    for rows in table.to_batches():
        yield start, rows
        start += len(rows)


def low_quality(rows: pa.RecordBatch, least: dict[str, float]) -> tuple[Mask, F64, F64]:
    """Which documents are below the floor of their source; every document's score and floor."""
    floors = np.array([least.get(source, -np.inf) for source in rows["source"].to_pylist()])
    scores = np.asarray(pc.fill_null(rows["quality"], 1.0))
    return scores < floors, scores, floors


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    if not path.exists() or not path.stat().st_size:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")
