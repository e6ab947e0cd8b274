"""Compressed files, undone while reading: .gz, .zst, .xz; and read whole only as far as their size explains.

A small file can unpack to gigabytes. Who reads line by line, up to a limit, is safe from that; who needs all of a file
at once uses `read_whole`.
"""

import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

SUFFIXES = (".gz", ".zst", ".xz")
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What a damaged file may raise while it is read."""
_ALWAYS, _RATIO = 64_000_000, 100  # bytes that are always read, and times a file's size; text shrinks to a fifth or so


def uncompressed(raw: Path | BinaryIO, suffix: str) -> BinaryIO:
    """The bytes of a file by the last suffix of its name; also `peek` and lines up to a limit."""
    match suffix.lower():
        case ".gz":
            return cast(BinaryIO, gzip.open(raw, "rb"))
        case ".xz":
            return cast(BinaryIO, lzma.open(raw, "rb"))
        case ".zst":
            return io.BufferedReader(cast(io.RawIOBase, zstandard.open(raw, "rb")), 1 << 20)
    # A remote file's own readline knows no limit.
    return raw.open("rb") if isinstance(raw, Path) else io.BufferedReader(cast(io.RawIOBase, raw), 1 << 20)


def read_whole(stream: BinaryIO, size: int) -> bytes:
    """All that a file of `size` bytes (0: unknown) holds."""
    data = stream.read(max(_ALWAYS, size * _RATIO) + 1 if size else -1)
    check_size(len(data), size)
    return data


def check_size(unpacked: int, size: int) -> None:
    """Raises EOFError where no text in a file of `size` bytes (0: unknown) would take so many bytes."""
    if size and unpacked > max(_ALWAYS, size * _RATIO):
        raise EOFError(f"it unpacks to {unpacked / 1e6:.0f} MB or more, over {_RATIO} times its size")
