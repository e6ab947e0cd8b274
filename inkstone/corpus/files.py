"""Which files are read, in which order, and how their bytes become lines or rows.

Files are sorted by a label, their name (with as many parent folders as make it unique), so the result depends neither
on the order of arguments nor on where the data lies. Compression (.gz, .zst, .xz) is undone while reading.
"""

import gzip
import io
import lzma
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from inkstone.errors import InputError

FORMATS = {
    ".txt": "text", ".md": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet",
    ".csv": "csv",
}  # fmt: skip
COMPRESSIONS = (".gz", ".zst", ".xz")


@dataclass(frozen=True)
class InputFile:
    """One file to read. `label` stands in document ids; `source` is used where a row names none."""

    path: Path
    label: str
    source: str
    format: str
    size: int


def find_files(inputs: Iterable[Path]) -> list[InputFile]:
    """All readable files among `inputs` (folders are searched), in the order of their labels.

    Raises InputError naming every path that is missing or of an unknown kind.
    """
    problems: list[str] = []
    paths: set[Path] = set()
    for given in inputs:
        if given.is_dir():
            found = [path for path in given.rglob("*") if path.is_file() and _format(path)]
            if not found:
                problems.append(f"{given}: the folder holds no file that can be read ({_kinds()}).")
            paths.update(path.resolve() for path in found)
        elif not given.exists():
            problems.append(f"{given}: no such file; correct [corpus] inputs.")
        elif not _format(given):
            problems.append(f"{given}: cannot read a file of this kind; known are {_kinds()}.")
        else:
            paths.add(given.resolve())
    if not paths and not problems:
        problems.append("[corpus] inputs matches no file: name files, folders or globs of raw text.")
    if problems:
        raise InputError(problems)
    labels = _labels(sorted(paths))
    return [
        InputFile(path, label, _stem(path), cast(str, _format(path)), path.stat().st_size)
        for label, path in sorted((label, path) for path, label in labels.items())
    ]


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, uncompressed."""
    match path.suffix.lower():
        case ".gz":
            return cast(BinaryIO, gzip.open(path, "rb"))
        case ".xz":
            return cast(BinaryIO, lzma.open(path, "rb"))
        case ".zst":
            return io.BufferedReader(cast(io.RawIOBase, zstandard.open(path, "rb")), 1 << 20)
    return path.open("rb")


def _format(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        return FORMATS.get(suffixes[0]) if len(suffixes) == 2 and suffixes[0] != ".parquet" else None
    return FORMATS.get(suffixes[-1]) if suffixes else None


def _stem(path: Path) -> str:
    name = path.name
    for endings in (COMPRESSIONS, tuple(FORMATS)):
        for ending in endings:
            if name.lower().endswith(ending):
                name = name[: -len(ending)]
                break
    return name


def _labels(paths: list[Path]) -> dict[Path, str]:
    """The shortest tail of each path that no other path shares."""
    labels: dict[Path, str] = {}
    pending, depth = paths, 1
    while pending:
        tails: dict[str, list[Path]] = {}
        for path in pending:
            tails.setdefault("/".join(path.parts[-depth:]), []).append(path)
        labels.update((group[0], tail) for tail, group in tails.items() if len(group) == 1)
        pending = [path for group in tails.values() if len(group) > 1 for path in group]
        depth += 1
    return labels


def _kinds() -> str:
    return f"{', '.join(FORMATS)}, all but parquet also with {', '.join(COMPRESSIONS)}"
