"""Raw files to batches of documents; what cannot be read becomes a `Broken` record, never an exception, never silence.

A document is one .txt, .md or .html file, one page of a WARC or WET archive, or one row of the other formats.
`read_batches` yields `Batch`es of bounded size in the order of the files, and a line is never read further than the
largest document could reach, so memory stays bounded whatever the size of the corpus.
"""

import contextlib
import csv
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from inkstone.compressed import check_size, read_whole
from inkstone.corpus.read.encoding import SAMPLE, UNDECIDED, Reading, choose_encoding, in_utf8, marked_encoding
from inkstone.corpus.read.files import InputFile, open_bytes
from inkstone.corpus.read.web import decode_page, warc_records
from inkstone.errors import InkstoneError

BATCH_CHARACTERS = 200_000
BATCH_DOCUMENTS = 8_192
_BOM = b"\xef\xbb\xbf"

Row = dict[str, object]

# One of each for all rows: making them costs as much as a short row.
_DECODER = json.JSONDecoder(strict=False)  # raw control characters are for repair
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)


@dataclass(frozen=True)
class Broken:
    """Something in a file that is not a document: where, which rule, why, and its text as far as it has one."""

    id: str
    source: str
    rule: str  # encoding, json, csv, parquet, no_text, not_text, http_status, too_large, empty_file, damaged_file
    detail: str
    text: str = ""


@dataclass
class Batch:
    """Documents and broken records that were read together, and the bytes of the files finished so far."""

    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    metas: list[str] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    encodings: Counter[str] = field(default_factory=Counter)  # of all files and pages; in the last batch
    characters: int = 0
    bytes_done: int = 0

    def full(self) -> bool:
        return self.characters >= BATCH_CHARACTERS or len(self.ids) + len(self.broken) >= BATCH_DOCUMENTS


def read_batches(
    files: list[InputFile], text_fields: list[str], max_document_mb: float, encoding: str = "auto"
) -> Iterator[Batch]:
    """Batches of all files, in order; a batch may span files."""
    batch, bytes_done, found = Batch(), 0, Counter[str]()
    for file in files:
        for number, row in read_rows(file, max_document_mb, encoding, found):
            entry = row if isinstance(row, Broken) else _document(file, number, row, text_fields, max_document_mb)
            if isinstance(entry, Broken):
                batch.broken.append(entry)
                batch.characters += len(entry.text)
            else:
                source, text, meta = entry
                batch.ids.append(f"{source}:{file.label}:{number}")
                batch.sources.append(source)
                batch.texts.append(text)
                batch.metas.append(meta)
                batch.characters += len(text)
            if batch.full():
                batch.bytes_done = bytes_done
                yield batch
                batch = Batch()
        bytes_done += file.size
    batch.bytes_done, batch.encodings = bytes_done, found
    yield batch


def _document(
    file: InputFile, number: int, row: Row, text_fields: list[str], max_document_mb: float
) -> tuple[str, str, str] | Broken:
    """Source, text and meta (JSON) of a row, or why it is not a document."""
    named = row.get("source")
    source = named if isinstance(named, str) and named else file.source
    parts = [value for name in text_fields if isinstance(value := row.get(name), str) and value.strip()]
    if not parts:
        names = " or ".join(text_fields)
        have = ", ".join(str(name) for name in row) or "none"
        others = [(name, value) for name in text_fields if (value := row.get(name)) and not isinstance(value, str)]
        have += "".join(f"; {name} is a {type(value).__name__}" for name, value in others)
        reason = f"no text in field {names}; fields: {have}. Set [corpus] text_fields if the text has another name"
        return _broken(file, number, "no_text", reason, _plain(row), source)
    text = "\n\n".join(parts)
    try:
        size = len(text.encode("utf-8"))
        _ = source.isascii() or source.encode("utf-8")
    except UnicodeEncodeError as error:
        source = source.encode("utf-8", "replace").decode()
        reason = f"character {error.start} is half of a surrogate pair"
        return _broken(file, number, "encoding", reason, text.encode("utf-8", "replace").decode(), source)
    if size > max_document_mb * 1e6:
        reason = f"{size / 1e6:.1f} MB of text, more than max_document_mb = {max_document_mb:g}; split it"
        return _broken(file, number, "too_large", reason, text, source)
    rest = {name: value for name, value in row.items() if name not in text_fields and name != "source"}
    return source, text, _plain(rest)


def _plain(row: Row) -> str:
    text = _ENCODER.encode(row)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _broken(file: InputFile, number: int, rule: str, reason: str, text: str = "", source: str = "") -> Broken:
    source = source or file.source
    return Broken(f"{source}:{file.label}:{number}", source, rule, f"{file.label}:{number}: {reason}", text)


def read_rows(
    file: InputFile, max_document_mb: float = 1024, encoding: str = "auto", found: Counter[str] | None = None
) -> Iterator[tuple[int, Row | Broken]]:
    """Rows numbered from 1. A file that turns out damaged, or holds nothing, ends with a record saying so.

    `found` counts the encodings of the texts and pages that do not say theirs.
    """
    number = 0
    # A character may be escaped, and a row has other fields.
    reading = Reading(int(max_document_mb * 2e6) + (1 << 16), encoding, Counter() if found is None else found)
    try:
        with open_bytes(file.path) as stream:
            for number, row in _READERS[file.format](file, stream, reading):
                yield number, row
        if number == 0:
            yield 1, _broken(file, 1, "empty_file", "the file holds no row")
    except UnicodeDecodeError as error:
        reason = f"not {error.encoding.upper()} ({error.reason}) after row {number}; the rest of the file was not read"
        yield number + 1, _broken(file, number + 1, "encoding", reason)
    except InkstoneError:
        raise
    except Exception as error:  # the one guard: a damaged or hostile file makes libraries raise what they please
        if isinstance(error, OSError) and error.errno is not None:
            raise InkstoneError(f"{file.path}: could not be read ({error.strerror or error}).") from error
        reason = f"the file is damaged after row {number} ({error or type(error).__name__}); rows before that were read"
        yield number + 1, _broken(file, number + 1, "damaged_file", reason)


def _utf8(stream: BinaryIO, reading: Reading, guess: bool) -> BinaryIO:
    """The stream in UTF-8: from the encoding that is set, else from the one a mark names, or (`guess`) that fits."""
    if (name := reading.encoding) == "auto":
        sample = stream.peek(SAMPLE)[:SAMPLE]  # type: ignore[attr-defined]
        name = (choose_encoding(sample, whole=False) if guess else marked_encoding(sample)) or "utf-8"
    if guess:
        reading.found[name] += 1
    return in_utf8(stream, name)


def _text_rows(file: InputFile, stream: BinaryIO, reading: Reading) -> Iterator[tuple[int, Row | Broken]]:
    data = stream.read(reading.limit + 1)
    if len(data) > reading.limit:
        yield 1, _endless(file, 1, data)
    elif file.label.lower().split(".")[-1] in ("html", "htm", "xhtml"):
        page = decode_page(data, None, reading)
        yield 1, {"text": page} if page is not None else _broken(file, 1, "encoding", UNDECIDED)
    else:
        name = reading.encoding_of(data)
        content = _decode(file, 1, data, name)
        reading.found[name or "undecided"] += 1
        yield 1, content if isinstance(content, Broken) else {"text": content.removeprefix("\ufeff")}


def _jsonl_rows(file: InputFile, stream: BinaryIO, reading: Reading) -> Iterator[tuple[int, Row | Broken]]:
    limit = reading.limit
    for number, line in enumerate(_lines(_utf8(stream, reading, guess=False), limit), 1):
        line = line.removeprefix(_BOM) if number == 1 else line
        if len(line) > limit:
            yield number, _endless(file, number, line)
        elif line.strip():
            yield number, _json_row(file, number, line)


def _lines(stream: BinaryIO, limit: int) -> Iterator[bytes]:
    """Lines; of one longer than `limit` the first `limit` + 1 bytes, the rest is passed over."""
    while line := stream.readline(limit + 1):
        yield line
        while len(line) > limit and not line.endswith(b"\n") and (line := stream.readline(limit + 1)):
            pass


def _endless(file: InputFile, number: int, data: bytes) -> Broken:
    """A line or file that is larger than a document may be; only its beginning is known."""
    reason = f"more than {len(data) / 1e6:.1f} MB without an end, more than max_document_mb allows; split it"
    return _broken(file, number, "too_large", reason, data[:1000].decode("utf-8", "replace"))


def _warc_rows(file: InputFile, stream: BinaryIO, reading: Reading) -> Iterator[tuple[int, Row | Broken]]:
    for number, row in enumerate(warc_records(stream, reading), 1):
        yield number, row if isinstance(row, dict) else _broken(file, number, *row)


def _json_row(file: InputFile, number: int, line: bytes) -> Row | Broken:
    text = _decode(file, number, line)
    if isinstance(text, Broken):
        return text
    try:
        row = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        return _broken(file, number, "json", f"not JSON ({error})", text)
    if not isinstance(row, dict):
        return _broken(file, number, "json", f"a {type(row).__name__}, not an object with fields", text)
    return row


def _json_rows(file: InputFile, stream: BinaryIO, reading: Reading) -> Iterator[tuple[int, Row | Broken]]:
    """A list of objects, one object, or (despite the name) one object per line."""
    data = read_whole(_utf8(stream, reading, guess=False), file.size).removeprefix(_BOM)
    text = _decode(file, 1, data)
    if isinstance(text, Broken):
        yield 1, text
        return
    try:
        content = _DECODER.decode(text)
    except (ValueError, RecursionError):
        for number, line in enumerate(data.split(b"\n"), 1):
            if line.strip():
                yield number, _json_row(file, number, line)
        return
    for number, row in enumerate(content if isinstance(content, list) else [content], 1):
        if isinstance(row, dict):
            yield number, row
        else:
            yield number, _broken(file, number, "json", f"a {type(row).__name__}, not an object with fields", str(row))


def _csv_rows(file: InputFile, stream: BinaryIO, reading: Reading) -> Iterator[tuple[int, Row | Broken]]:
    """Rows under a header. Bytes that are not UTF-8, in a file that seems to be, spoil their row only."""
    csv.field_size_limit(reading.limit)
    stream, number = _utf8(stream, reading, guess=True), 0
    lines = (line.decode("utf-8", "surrogateescape") for line in _lines(stream, reading.limit))
    first = next(lines, "")
    # Excel writes semicolons where the comma is a decimal point, and tabs as "Unicode text".
    between = max(",;\t", key=first.count)
    reader = csv.reader(itertools.chain([first], lines), delimiter=between, strict=True)
    try:
        header = [name.removeprefix("\ufeff") for name in next(reader, [])]
        for number, cells in enumerate(reader, 1):
            joined = between.join(cells)
            if _escaped(joined):
                yield number, _decode(file, number, joined.encode("utf-8", "surrogateescape"))  # type: ignore[misc]
            elif cells and len(cells) != len(header):
                yield number, _broken(file, number, "csv", f"{len(cells)} cells under {len(header)} columns", joined)
            elif cells:
                yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        yield number + 1, _broken(file, number + 1, "csv", f"not CSV ({error}); the rest of the file was not read")


def _parquet_rows(file: InputFile, stream: BinaryIO, reading: Reading) -> Iterator[tuple[int, Row | Broken]]:
    number, metadata = 0, pq.read_metadata(stream)
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    chunks = [group.column(place) for group in groups for place in range(metadata.num_columns)]
    check_size(sum(chunk.total_uncompressed_size for chunk in chunks), file.size)
    # One long text that stands in very many rows takes hardly a byte a row: it must not be copied for each of them.
    texts = (chunk for chunk in chunks if chunk.physical_type == "BYTE_ARRAY")
    often = {chunk.path_in_schema for chunk in texts if chunk.total_uncompressed_size < 32 * chunk.num_values}
    with pq.ParquetFile(stream, metadata=metadata, read_dictionary=sorted(often)) as table:
        for batch in table.iter_batches(1024):
            for values in zip(*batch.columns, strict=True):
                number += 1
                try:
                    yield number, dict(zip(batch.schema.names, map(_value, values), strict=True))
                except (ValueError, OverflowError) as error:
                    rule = "encoding" if isinstance(error, UnicodeDecodeError) else "parquet"
                    yield number, _broken(file, number, rule, f"a value that is none ({error})")


def _value(scalar: pa.Scalar) -> object:
    """A value of a Parquet row; a time that Python has none for (nanoseconds, the year 10000) as text."""
    try:
        value = scalar.as_py()
        if isinstance(value, bytes):  # Spark, Hive and Impala may write texts without saying that they are
            with contextlib.suppress(UnicodeDecodeError):
                return value.decode()
        return value
    except (ValueError, OverflowError):
        if not pa.types.is_temporal(scalar.type):
            raise
        make = np.timedelta64 if pa.types.is_duration(scalar.type) else np.datetime64
        return str(make(scalar.value, getattr(scalar.type, "unit", "D"))).replace("T", " ")


def _escaped(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= char <= "\udcff" for char in text)


def _decode(file: InputFile, number: int, data: bytes, encoding: str | None = "utf-8") -> str | Broken:
    """Text; of data whose encoding is undecided (None) a record that says where it is not UTF-8."""
    try:
        return data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        reason = f"not {(encoding or 'utf-8').upper()} (byte {error.start} is 0x{data[error.start]:02x})"
        reason += "" if encoding else f"; {UNDECIDED}"
        return _broken(file, number, "encoding", reason, data.decode("utf-8", "replace"))


_READERS: dict[str, Callable[[InputFile, BinaryIO, Reading], Iterator[tuple[int, Row | Broken]]]] = {
    "text": _text_rows, "jsonl": _jsonl_rows, "json": _json_rows, "csv": _csv_rows, "warc": _warc_rows,
    "parquet": _parquet_rows,
}  # fmt: skip
