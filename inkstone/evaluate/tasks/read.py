"""Rows of benchmark files: JSON lines (plain, .gz, .zst, .xz), Parquet, and CSV, which may lie in a zip.

No reader here guesses types: every value of a CSV is a string as it stands there, an option "None" stays a word and
"1.0" stays "1.0". Whatever is wrong is said with file and row.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast
from zipfile import Path as Zipped

from inkstone.compressed import DAMAGE, read_whole, uncompressed
from inkstone.errors import InputError

_ENDINGS = ("", ".gz", ".zst", ".xz")


def find_file(folder: Path, *names: str) -> Path | None:
    """The first of the names that is there, plain or compressed; a name may hold a *."""
    for name in names:
        for ending in _ENDINGS:
            if found := sorted(folder.glob(name + ending)):
                return found[0]
    return None


def need_file(folder: Path, *names: str) -> Path:
    """`find_file`, or an InputError that says what was looked for."""
    found = find_file(folder, *names)
    if found is None:
        raise InputError(f"{folder} holds none of {', '.join(names)} (plain, .gz, .zst or .xz): put the file there")
    return found


def read_text(path: Path | Zipped) -> str:
    """The whole file as text."""
    try:
        file = path if isinstance(path, Path) else Path(path.root.filename or "")
        raw = path if isinstance(path, Path) else cast(BinaryIO, path.open("rb"))
        with uncompressed(raw, path.suffix) as stream:
            return read_whole(stream, file.stat().st_size).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, *DAMAGE) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text ({error}): replace it") from error


def json_rows(path: Path, *needed: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of each line that is not empty, or of a Parquet file; every row has the `needed` fields."""
    for number, row in _parquet(path) if path.suffix == ".parquet" else _json(path):
        missing = [name for name in needed if not isinstance(row, dict) or name not in row]
        if missing:
            raise InputError(f"{path}:{number} lacks {', '.join(missing)}: is it another benchmark's file?")
        yield f"{path}:{number}", row


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        try:
            if line.strip():
                yield number, json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number} is no JSON ({error}): repair the line") from error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet

    yield from enumerate(pyarrow.parquet.read_table(path).to_pylist(), 1)


def csv_rows(path: Path | Zipped, columns: Sequence[str], header: bool = True) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, row) of a CSV file with these columns among its own (or, without a header, exactly these)."""
    rows = csv.reader(io.StringIO(read_text(path), newline=""))
    names = list(columns)
    if header:
        names = next(rows, [])
        missing = [name for name in columns if name not in names]
        if missing:
            raise InputError(f"{path} has the columns {', '.join(names)} and lacks {', '.join(missing)}")
    for number, row in enumerate(rows, 2 if header else 1):
        if not row:
            continue
        if len(row) != len(names):
            raise InputError(f"{path}:{number} has {len(row)} fields, not {len(names)}: is a quotation mark missing?")
        yield f"{path}:{number}", dict(zip(names, row, strict=True))


def gold_letter(letter: object, choices: Sequence[str], letters: str, place: str) -> int:
    """The index of an answer letter. Raises InputError for one that names no option."""
    index = letters.find(letter) if isinstance(letter, str) and len(letter) == 1 else -1
    if not 0 <= index < len(choices):
        raise InputError(f"{place}: the answer {letter!r} is none of the options {letters[: len(choices)]}")
    return index
