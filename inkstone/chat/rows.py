"""Read rows of JSON from the files people have: a list (.json) or one object per line (.jsonl), also .gz, .zst, .xz.

Which of the two is decided by the content, since many files named .json hold lines. A broken line is a fault of that
row; a file that cannot be read at all is an `UnreadableFile`.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from inkstone.compressed import DAMAGE, read_whole, uncompressed
from inkstone.compressed import SUFFIXES as COMPRESSIONS

Row = dict[str, object]
SUFFIXES = (".json", ".jsonl")


class UnreadableFile(Exception):
    """The sentence says why the whole file cannot be used."""


def read_rows(path: Path) -> Iterator[tuple[int, Row | str]]:
    """(row number from 1, the object, or a sentence on why this row is none). Blank lines are no rows.

    Rows of .jsonl are numbered by line, rows of a list by their place.
    """
    content = _read_bytes(path)
    if content.lstrip()[:1] == b"[":
        try:
            values = json.loads(content)
        except RecursionError as error:
            raise UnreadableFile("is nested too deeply to be a list of rows") from error
        except ValueError as error:
            raise UnreadableFile(f"is not valid JSON ({error})") from error
        for number, value in enumerate(values, start=1):
            yield number, value if isinstance(value, dict) else _not_an_object(value)
        return
    if alone := _one_object(content):
        yield 1, alone
        return
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield number, _parse_line(line)


def _one_object(content: bytes) -> Row | None:
    """The object that a file is as a whole, over several lines."""
    if content.lstrip()[:1] != b"{" or b"\n" not in content.strip():
        return None
    try:
        value: Row = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value


def _parse_line(line: bytes) -> Row | str:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"is not UTF-8 at byte {error.start}"
    except RecursionError:
        return "is nested too deeply to be a row"
    except ValueError as error:
        return f"is not valid JSON ({error})"
    return value if isinstance(value, dict) else _not_an_object(value)


def _not_an_object(value: object) -> str:
    return f"is {_KINDS.get(type(value), 'null')}, not an object"


_KINDS = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "true or false"}


def _read_bytes(path: Path) -> bytes:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    if not suffixes or suffixes[-1] not in SUFFIXES:
        raise UnreadableFile(f"is not one of {', '.join(SUFFIXES)} (each also with .gz, .zst or .xz)")
    if path.exists() and not path.is_file():
        raise UnreadableFile("is not a file")  # a pipe would be waited for
    try:
        with uncompressed(path, compression) as stream:
            content = read_whole(stream, path.stat().st_size)
    except FileNotFoundError as error:
        raise UnreadableFile("does not exist") from error
    except (OSError, *DAMAGE) as error:
        raise UnreadableFile(f"cannot be read ({error})") from error
    return content.removeprefix(b"\xef\xbb\xbf")
