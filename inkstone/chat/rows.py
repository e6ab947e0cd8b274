"""Read rows of JSON from the files people have: a list (.json) or one object per line (.jsonl), also compressed.

Which of the two is decided by the content, since many files named .json hold lines. A broken line is a fault of that
row; a file that cannot be read at all is an `UnreadableFile`. Rows come while the file is read, a megabyte at a time:
a file of any size takes little memory.
"""

import codecs
import json
import re
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path

from inkstone.compressed import DAMAGE, check_size, uncompressed
from inkstone.compressed import SUFFIXES as COMPRESSIONS

Row = dict[str, object]
SUFFIXES = (".json", ".jsonl")
_CHUNK = 1 << 20
_LONGEST = 64  # chunks that one value of a list, or a file that is one object, is looked for in
_BORDER = re.compile(r"[ \t\r\n]*(\[[ \t\r\n]*\]|[\[,\]])[ \t\r\n]*")
"""What stands before, between and behind the values of a list; an empty one is nothing else."""


class UnreadableFile(Exception):
    """The sentence says why the whole file cannot be used."""


def read_rows(path: Path) -> Iterator[tuple[int, Row | str]]:
    """(row number from 1, the object, or a sentence on why this row is none). Blank lines are no rows.

    Rows of .jsonl are numbered by line, rows of a list by their place.
    """
    with closing(_chunks(path)) as chunks:
        head = b""
        for chunk in chunks:
            head += chunk
            if head.strip():
                break
        head = head.removeprefix(codecs.BOM_UTF8)
        start = head.lstrip()
        if start[:1] == b"[":
            yield from _listed(chain([head], chunks), path)
            return
        if start[:1] == b"{" and isinstance(_parse_line(start.partition(b"\n")[0]), str):
            head += b"".join(islice(chunks, _LONGEST))
            if alone := _one_object(head):
                yield 1, alone
                return
        for number, line in enumerate(_lines(chain([head], chunks)), start=1):
            if line.strip():
                yield number, _parse_line(line)


def _listed(chunks: Iterator[bytes], path: Path) -> Iterator[tuple[int, Row | str]]:
    """The rows of a list. What is wrong with one is said of the whole file, with its place."""
    number = 0
    try:
        for number, value in enumerate(_values(chunks), start=1):
            yield number, value if isinstance(value, dict) else _not_an_object(value)
        return
    except (ValueError, RecursionError):
        content = b"".join(_chunks(path)).removeprefix(codecs.BOM_UTF8)
    try:
        values = json.loads(content)
    except RecursionError as error:
        raise UnreadableFile("is nested too deeply to be a list of rows") from error
    except ValueError as error:
        raise UnreadableFile(f"is not valid JSON ({error})") from error
    for place, value in enumerate(values[number:], start=number + 1):
        yield place, value if isinstance(value, dict) else _not_an_object(value)


def _values(chunks: Iterator[bytes]) -> Iterator[object]:
    """The values of a JSON list, one after the other. Raises ValueError for what is none, or has a huge value."""
    decoder, parse = codecs.getincrementaldecoder("utf-8")("surrogatepass"), json.JSONDecoder().raw_decode
    text, expected = "", "["
    for chunk in chain(chunks, [b""]):
        text += decoder.decode(chunk, final=not chunk)
        at = 0
        while (border := _BORDER.match(text, at)) and border[1][0] in expected:
            if border[1][-1] == "]":
                if text[border.end() :] or b"".join(chunks).strip():
                    raise ValueError("something stands after the list")
                return
            try:
                value, end = parse(text, border.end())
            except ValueError:
                break  # not all of it is there
            if not _BORDER.match(text, end):
                break  # a number may go on
            yield value
            at, expected = end, ",]"
        text = text[at:]
        if len(text) > _LONGEST * _CHUNK:
            break
    raise ValueError("the list is broken, or a value is huge")


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    yield rest


def _one_object(content: bytes) -> Row | None:
    """The object that a file is as a whole, over several lines."""
    if b"\n" not in content.strip():
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


def _chunks(path: Path) -> Generator[bytes]:
    """The bytes of a file, uncompressed."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    if not suffixes or suffixes[-1] not in SUFFIXES:
        raise UnreadableFile(f"is not one of {', '.join(SUFFIXES)} (each also with .gz, .zst, .xz or .bz2)")
    if path.exists() and not path.is_file():
        raise UnreadableFile("is not a file")  # a pipe would be waited for
    unpacked = 0
    try:
        size = path.stat().st_size
        with uncompressed(path, compression) as stream:
            while chunk := stream.read(_CHUNK):
                unpacked += len(chunk)
                check_size(unpacked, size)
                yield chunk
    except FileNotFoundError as error:
        raise UnreadableFile("does not exist") from error
    except (OSError, *DAMAGE) as error:
        raise UnreadableFile(f"cannot be read ({error})") from error
