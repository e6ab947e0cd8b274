"""What a tokenizer is trained on and what it encodes: a curated corpus directory, or raw files that curation reads.

A corpus is cut into parts (row groups of a Parquet shard, or one raw file), which are read independently of each other;
of a Parquet part only the columns that are needed are read, and a text goes from Arrow's buffer to code points without
ever becoming a Python string.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from inkstone.errors import InkstoneError, InputError
from inkstone.tokenizer.bpe.words import code_points

if TYPE_CHECKING:  # the corpus room takes as long to import as this one; only raw files need it
    from inkstone.corpus.read.files import InputFile

Invalid = Literal["refuse", "replace"]
Columns = dict[str, list[str]]
_NEEDED = ["id", "text", "source", "lang"]
_TEXT_FIELDS = ["text", "content"]
_MAX_DOCUMENT_MB = 1024


@dataclass(frozen=True)
class Part:
    """A piece of a corpus that is read on its own. `size` is in bytes, for progress only."""

    path: Path
    size: int
    first_group: int = 0
    last_group: int = 0
    raw: "InputFile | None" = None


@dataclass
class Documents:
    """Some documents: their texts as one array of code points, and what is known of each."""

    points: np.ndarray  # uint32
    starts: np.ndarray  # int64 [documents + 1]
    sizes: np.ndarray  # int64, bytes of UTF-8
    ids: list[str]
    sources: list[str]
    langs: list[str]
    repaired: list[str] = field(default_factory=list)  # what was not UTF-8 and had bytes replaced

    def texts(self) -> list[str]:
        whole = self.points.tobytes().decode("utf-32-le")
        return [
            whole[start:end] for start, end in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        ]


def corpus_parts(corpus: Path | Sequence[Path], split: str, part_mb: float = float("inf")) -> list[Part]:
    """The parts of a split, in order; raw files are all "train". Raises InputError where there is nothing to read."""
    if isinstance(corpus, Path) and not (corpus / "manifest.json").is_file() and not (corpus / "train").is_dir():
        corpus = [corpus]
    if isinstance(corpus, Path):
        folder = corpus / split
        if not folder.is_dir():
            raise InputError(f"{folder} is not a directory: run the corpus stage first, or name its output directory.")
        return [part for path in sorted(folder.glob("*.parquet")) for part in _row_groups(path, part_mb)]
    if split != "train":
        return []
    missing = [path for path in corpus if not path.exists()]
    if missing:
        raise InputError(
            [f"{path}: no such file or directory; give a curated corpus or text to read." for path in missing]
        )
    from inkstone.corpus.read.files import find_files

    return [Part(Path(file.path), file.size, raw=file) for file in find_files(corpus)]


def read_part(part: Part, invalid: Invalid = "refuse", batch_mb: float = 8.0) -> Iterator[Documents]:
    """The documents of a part, about `batch_mb` at a time. Raises InkstoneError naming what cannot be read."""
    if part.raw is not None:
        yield from _read_raw(part.raw, invalid)
        return
    first = 0
    for batch in _batches(part, _NEEDED, batch_mb):
        yield _from_arrow(batch, part, first, invalid)
        first += len(batch)


def count_bytes(parts: Sequence[Part]) -> int:
    """UTF-8 bytes of all texts; for raw files the size of the files."""
    total = sum(part.size for part in parts if part.raw)
    for part in parts:
        for batch in _batches(part, ["text"], 8.0) if part.raw is None else ():
            total += pc.sum(pc.binary_length(batch.column(0))).as_py() or 0
    return total


def read_documents(parts: Sequence[Part], invalid: Invalid = "refuse") -> Iterator[Columns]:
    """Batches of documents as {"id", "text", "source", "lang": values}."""
    for part in parts:
        for documents in read_part(part, invalid):
            columns = (documents.ids, documents.texts(), documents.sources, documents.langs)
            yield dict(zip(_NEEDED, columns, strict=True))


def _row_groups(path: Path, part_mb: float) -> list[Part]:
    with _opened(path) as parquet:
        groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
    sizes = [group.total_byte_size if group.num_rows else 0 for group in groups]
    parts, first = [], 0
    for number in range(len(sizes)):
        size = sum(sizes[first : number + 1])
        if size >= part_mb * 1e6 or (size and number == len(sizes) - 1):
            parts.append(Part(path, size, first, number + 1))
            first = number + 1
    return parts


def _batches(part: Part, columns: list[str], batch_mb: float) -> Iterator[pa.RecordBatch]:
    path = part.path
    with _opened(path) as parquet:
        missing = [name for name in columns if name not in parquet.schema_arrow.names]
        if missing:
            raise InputError(f"{path} has no column {', '.join(missing)}: run the corpus stage again.")
        groups = list(range(part.first_group, part.last_group))
        rows = sum(parquet.metadata.row_group(group).num_rows for group in groups)
        together = max(1, int(batch_mb * 1e6 * rows / max(1, part.size)))
        try:
            for batch in parquet.iter_batches(batch_size=together, row_groups=groups, columns=columns):
                nulls = [name for name in columns if batch.column(name).null_count]
                if nulls:
                    raise InputError(f"{path} has rows without {', '.join(nulls)}: run the corpus stage again.")
                yield batch
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from error


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InkstoneError:
    return InkstoneError(f"{path} cannot be read as Parquet ({error}): run the corpus stage again.")


def _from_arrow(batch: pa.RecordBatch, part: Part, first: int, invalid: Invalid) -> Documents:
    column = batch.column("text").cast(pa.large_binary())
    offsets = np.frombuffer(column.buffers()[1], dtype=np.int64)[column.offset :][: len(column) + 1]
    data = memoryview(column.buffers()[2] or b"")[offsets[0] : offsets[-1]]
    names = {name: batch.column(name).to_pylist() for name in ("id", "source", "lang")}
    sizes = np.diff(offsets)
    repaired: list[str] = []
    try:
        points = np.frombuffer(str(data, "utf-8").encode("utf-32-le"), dtype="<u4")
        raw = np.frombuffer(data, dtype=np.uint8)
        characters = pc.utf8_length(batch.column("text").cast(pa.large_string()))
        starts = np.append(0, np.cumsum(characters.to_numpy(), dtype=np.int64))
        inner = (offsets - offsets[0])[(offsets > offsets[0]) & (offsets < offsets[-1])]
        whole = not np.any((raw[inner] & 0xC0) == 0x80)  # no character is shared by two documents
    except UnicodeDecodeError:
        whole = False
    if not whole:
        texts = []
        for place, value in enumerate(column.to_pylist()):
            try:
                texts.append(value.decode("utf-8"))
            except UnicodeDecodeError as error:
                where = f"{part.path.name}, document {names['id'][place]}: byte {error.start} is not UTF-8"
                repaired.append(_refuse_or(invalid, where))
                texts.append(value.decode("utf-8", "replace"))
        points, starts = code_points(texts)
    return Documents(points, starts, sizes, names["id"], names["source"], names["lang"], repaired)


def _read_raw(file: "InputFile", invalid: Invalid) -> Iterator[Documents]:
    """Documents of a raw file; with `replace` a record that is only badly encoded is read with the bytes replaced."""
    from inkstone.corpus.read.readers import read_batches

    for batch in read_batches([file], _TEXT_FIELDS, _MAX_DOCUMENT_MB):
        ids, texts, sources = list(batch.ids), list(batch.texts), list(batch.sources)
        langs = [_lang(meta) for meta in batch.metas]
        repaired = []
        for broken in batch.broken:
            if broken.rule != "encoding":
                raise InputError(f"{broken.detail}. Repair the file, or curate it first.")
            repaired.append(_refuse_or(invalid, broken.detail))
            ids.append(broken.id)
            texts.append(_text_of(broken.text))
            sources.append(broken.source)
            langs.append("other")
        if ids:
            points, starts = code_points(texts)
            sizes = np.array([len(text.encode("utf-8")) for text in texts], dtype=np.int64)
            yield Documents(points, starts, sizes, ids, sources, langs, repaired)


def _refuse_or(invalid: Invalid, where: str) -> str:
    if invalid == "refuse":
        raise InputError(f'{where}. Repair it, or allow replacement with invalid_utf8 = "replace".')
    return where


def _text_of(text: str) -> str:
    """The text in a JSON row whose bytes were replaced, or the text itself."""
    try:
        row = json.loads(text)
    except ValueError:
        return text
    parts = [row[name] for name in _TEXT_FIELDS if isinstance(row.get(name), str)] if isinstance(row, dict) else []
    return "\n\n".join(parts).encode("utf-8", "replace").decode() if parts else text


def _lang(meta: str) -> str:
    lang = json.loads(meta).get("lang")
    return lang if isinstance(lang, str) else "other"
