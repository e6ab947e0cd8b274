"""Compressed files, undone while reading: .gz, .zst, .xz, .bz2; and read whole only as far as their size explains.

A small file can unpack to gigabytes. Who reads line by line, up to a limit, is safe from that; who needs all of a file
at once uses `read_whole`.
"""

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

SUFFIXES = (".gz", ".zst", ".xz", ".bz2")
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What a damaged file may raise while it is read."""
_STEP = 1024  # compressed bytes undone at a time, which are 32 MB at most
_WINDOW = 1 << 31  # as `zstd --long=31` asks for; taken only as far as a file fills it
_ALWAYS, _RATIO = 64_000_000, 100  # bytes that are always read, and times a file's size; text shrinks to a fifth or so


def uncompressed(raw: Path | BinaryIO, suffix: str) -> BinaryIO:
    """The bytes of a file by the last suffix of its name; also `peek` and lines up to a limit."""
    match suffix.lower():
        case ".gz":
            return cast(BinaryIO, gzip.open(raw, "rb"))
        case ".xz":
            return cast(BinaryIO, lzma.open(raw, "rb"))
        case ".zst":
            return io.BufferedReader(_Frames(raw.open("rb") if isinstance(raw, Path) else raw), 1 << 20)
        case ".bz2":
            return cast(BinaryIO, bz2.open(raw, "rb"))
    # A remote file's own readline knows no limit.
    return raw.open("rb") if isinstance(raw, Path) else io.BufferedReader(cast(io.RawIOBase, raw), 1 << 20)


class _Frames(io.RawIOBase):
    """What .zst frames after each other hold. zstandard's own reader takes the end of a file cut short for its end."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self._undo = raw, zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._left, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._raw.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            if not (data := self._left or self._raw.read(_STEP)):
                if self._frame:
                    raise EOFError("it is cut short: it ends inside a frame")
                return 0
            self._frame = self._frame or self._undo.decompressobj()
            self._ready = memoryview(self._frame.decompress(data))
            self._left = self._frame.unused_data
            self._frame = None if self._frame.eof else self._frame
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def read_whole(stream: BinaryIO, size: int) -> bytes:
    """All that a file of `size` bytes (0: unknown) holds."""
    data = stream.read(max(_ALWAYS, size * _RATIO) + 1 if size else -1)
    check_size(len(data), size)
    return data


def check_size(unpacked: int, size: int) -> None:
    """Raises EOFError where no text in a file of `size` bytes (0: unknown) would take so many bytes."""
    if size and unpacked > max(_ALWAYS, size * _RATIO):
        raise EOFError(f"it unpacks to {unpacked / 1e6:.0f} MB or more, over {_RATIO} times its size")
