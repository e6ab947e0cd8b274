"""Which files are read, in which order, and how their bytes become lines or rows.

Inputs are files, folders and globs on this machine, or URLs (`s3://`, `hf://`, `gs://`, `https://` ...) through fsspec.
Files are sorted by a label, their name (with as many parent folders as make it unique), so the result depends neither
on the order of arguments nor on where the data lies. Compression (.gz, .zst, .xz, .bz2) is undone while reading.
Folders are followed through links, each once; hidden files are passed over, and whoever asks is told what else was.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from inkstone.compressed import SUFFIXES, uncompressed
from inkstone.errors import InputError

FORMATS = {
    ".txt": "text", ".md": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet",
    ".csv": "csv", ".tsv": "csv", ".html": "text", ".htm": "text", ".xhtml": "text", ".text": "text",
    ".markdown": "text", ".warc": "warc", ".wet": "warc",
}  # fmt: skip


@dataclass(frozen=True)
class InputFile:
    """One file to read. `label` stands in document ids; `source` is used where a row names none."""

    path: Path | str  # a URL where it is a string
    label: str
    source: str
    format: str
    size: int


def find_files(inputs: Iterable[Path | str], passed_over: Counter[str] | None = None) -> list[InputFile]:
    """All readable files among `inputs` (folders are searched), in the order of their labels.

    `passed_over` counts what is in the folders and not read, by its ending. Raises InputError naming every path that
    is missing, cannot be listed or is of an unknown kind.
    """
    problems: list[str] = []
    others = Counter[str]() if passed_over is None else passed_over
    sizes: dict[Path | str, int] = {}
    for given in inputs:
        try:
            found = _remote(str(given)) if is_url(given) else _local(Path(given), others)
        except InputError as error:
            problems += error.problems
            continue
        if not found:
            problems.append(f"{given}: the folder holds no file that can be read ({_kinds()}).")
        sizes |= found
    if not sizes and not problems:
        problems.append("[corpus] inputs matches no file: name files, folders or globs of raw text.")
    if problems:
        raise InputError(problems)
    labels = _labels(sorted(sizes, key=str))
    return [
        InputFile(path, label, _stem(_pure(path).name), cast(str, _format(path)), sizes[path])
        for label, path in sorted((label, path) for path, label in labels.items())
    ]


def is_url(path: Path | str) -> bool:
    """Whether `path` is to be opened by fsspec."""
    return isinstance(path, str) and "://" in path


def open_bytes(path: Path | str) -> BinaryIO:
    """The file's bytes, uncompressed."""
    raw = _file_system(path)[0].open(path, "rb") if is_url(path) else Path(path)
    return uncompressed(raw, _pure(path).suffix)


def url_states(url: str) -> dict[str, str]:
    """The files a URL names, each with what tells whether it changed (its tag or time, and its size)."""
    found = {}
    for path in _remote(url):
        system, _ = _file_system(path)
        info = system.info(path)
        marks = ("ETag", "etag", "blob_id", "mtime", "LastModified", "created")
        mark = next((info[key] for key in marks if info.get(key)), "")
        found[str(path)] = f"{info.get('size')} {mark}"
    return found


def walk(folder: Path) -> Iterator[Path]:
    """The files under a folder, also behind links to folders, each folder once. Raises OSError where one is closed."""
    seen: set[Path] = set()

    def closed(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=closed, followlinks=True):
        here = Path(place)
        folders[:] = [] if here.resolve() in seen else sorted(name for name in folders if not name.startswith("."))
        yield from () if here.resolve() in seen else (here / name for name in names if not name.startswith("."))
        seen.add(here.resolve())


def _local(given: Path, passed_over: Counter[str]) -> dict[Path | str, int]:
    if given.is_dir():
        paths = []
        for path in walk(given):
            if path.is_file() and _format(path):
                paths.append(path)
            else:
                passed_over[path.suffix if path.is_file() else "links that lead nowhere"] += 1
    elif not given.is_file():
        raise InputError(f"{given}: no such file; correct [corpus] inputs.")
    elif not _format(given):
        raise InputError(f"{given}: cannot read a file of this kind; known are {_kinds()}.")
    else:
        paths = [given]
    # Not `resolve`: where files are links into a store of blobs, only the link's name says what is in it.
    return {Path(os.path.abspath(path)): path.stat().st_size for path in paths}  # noqa: PTH100


def _remote(url: str) -> dict[Path | str, int]:
    """Files under a URL: of a folder all that can be read, of a glob all that match."""
    system, path = _file_system(url)
    try:
        if any(sign in path for sign in "*?["):
            names = [name for name in system.glob(path) if _format(name)]
        elif system.isdir(path):
            names = [name for name in system.find(path) if _format(name)]
        elif not system.exists(path):
            raise InputError(f"{url}: no such file; correct [corpus] inputs.")
        elif not _format(path):
            raise InputError(f"{url}: cannot read a file of this kind; known are {_kinds()}.")
        else:
            names = [path]
        return {str(system.unstrip_protocol(name)): int(system.info(name).get("size") or 0) for name in names}
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{url}: cannot be listed ({error or type(error).__name__}).") from error


def _file_system(url: Path | str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it."""
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(str(url))
    except ImportError as error:
        raise InputError(
            f"{url}: {error}. pip install 'inkstone[remote]' brings fsspec with s3:// and hf://."
        ) from error
    except ValueError as error:
        raise InputError(f"{url}: {error}; known are the protocols of fsspec, e.g. s3://, hf://, https://.") from error
    return system, path


def _pure(path: Path | str) -> PurePosixPath:
    return PurePosixPath(str(path))


def _format(path: Path | str) -> str | None:
    suffixes = [suffix.lower() for suffix in _pure(path).suffixes[-2:]]
    if suffixes and suffixes[-1] in SUFFIXES:
        return FORMATS.get(suffixes[0]) if len(suffixes) == 2 and suffixes[0] != ".parquet" else None
    return FORMATS.get(suffixes[-1]) if suffixes else None


def _stem(name: str) -> str:
    for endings in (SUFFIXES, tuple(FORMATS)):
        for ending in endings:
            if name.lower().endswith(ending):
                name = name[: -len(ending)]
                break
    return name


def _labels(paths: list[Path | str]) -> dict[Path | str, str]:
    """The shortest tail of each path that no other path shares."""
    labels: dict[Path | str, str] = {}
    pending, depth = paths, 1
    while pending:
        tails: dict[str, list[Path | str]] = {}
        for path in pending:
            tails.setdefault("/".join(_pure(path).parts[-depth:]), []).append(path)
        labels.update((group[0], tail) for tail, group in tails.items() if len(group) == 1)
        pending = [path for group in tails.values() if len(group) > 1 for path in group]
        depth += 1
    return labels


def _kinds() -> str:
    return f"{', '.join(FORMATS)}, all but parquet also with {', '.join(SUFFIXES)}"
