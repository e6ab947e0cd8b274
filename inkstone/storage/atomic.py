"""Write a directory or a file so that a kill at any moment leaves the old one or the new one, never a half one.

    with atomic_directory(path) as draft:      # write into draft
        (draft / "data.bin").write_bytes(...)
    # here `path` is complete and on disk

The draft is a sibling named `.NAME.draft`; it is fsynced and renamed over `path`. Its writer holds a lock on it, so
of two that are started at once the second ends with a sentence. Where a directory is replaced, Linux can exchange two
names in one step (renameat2); elsewhere two renames are needed, and `settle`, which every reader and writer of such a
directory calls first, repairs a kill between them.
"""

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from inkstone.errors import InkstoneError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class FullDisk(InkstoneError):
    """There is no space left for what was to become `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path}: the disk is full; nothing was changed there. Free some space and run the same command again."
        )

    def __reduce__(self) -> tuple[type["FullDisk"], tuple[Path]]:
        return FullDisk, (self.path,)  # it may come from another process


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty draft directory that becomes `path` when the block ends without an exception.

    On an exception the draft is removed and `path` is untouched. Raises InkstoneError when the disk is full, and when
    another process is writing `path`.
    """
    draft, mine = _sibling(path, "draft"), -1
    try:
        settle(path)
        if draft.exists():
            raise InkstoneError(f"another process is writing {path}: wait for it, or give another name")
        draft.mkdir(parents=True)
        mine = os.open(draft, os.O_RDONLY)
        _lock(mine)
        yield draft
        _fsync_tree(draft)
        _replace_directory(draft, path)
    except BaseException as error:
        if mine >= 0:
            shutil.rmtree(draft, ignore_errors=True)
        if _is_full_disk(error) or (isinstance(error, FullDisk) and draft in error.path.parents):
            raise FullDisk(path) from error
        raise
    finally:
        if mine >= 0:
            os.close(mine)
    shutil.rmtree(_sibling(path, "old"), ignore_errors=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a draft file name that replaces `path` when the block ends without an exception."""
    draft = _sibling(path, "draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        _fsync(draft)
        draft.replace(path)
        _fsync(path.parent)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if _is_full_disk(error):
            raise FullDisk(path) from error
        raise


def append_line(path: Path, line: str) -> None:
    """Add a line to a file that is read while it grows. Raises InkstoneError when the disk is full."""
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
    except OSError as error:
        if _is_full_disk(error):
            raise FullDisk(path) from error
        raise


def settle(path: Path) -> None:
    """Finish or undo what a killed writer of `path` left behind; afterwards `path` is the old or the new directory."""
    old = _sibling(path, "old")
    if old.exists():
        if path.exists():
            shutil.rmtree(old)
        else:
            old.rename(path)
    draft = _sibling(path, "draft")
    with suppress(FileNotFoundError, NotADirectoryError):
        handle = os.open(draft, os.O_RDONLY)
        try:
            if _lock(handle):
                shutil.rmtree(draft, ignore_errors=True)
        finally:
            os.close(handle)


def _lock(handle: int) -> bool:
    """Whether no other process holds it; the kernel frees it with its owner. A file system without locks has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)
    return True


def _sibling(path: Path, role: str) -> Path:
    return path.with_name(f".{path.name}.{role}")


def _replace_directory(draft: Path, path: Path) -> None:
    if not path.exists():
        draft.rename(path)
    elif _exchange(draft, path):
        draft.rename(_sibling(path, "old"))
    else:
        path.rename(_sibling(path, "old"))
        draft.rename(path)
    _fsync(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system cannot (then nothing has changed)."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _fsync_tree(root: Path) -> None:
    for folder, _, files in os.walk(root):
        for name in files:
            _fsync(Path(folder) / name)
        _fsync(Path(folder))


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_full_disk(error: BaseException) -> bool:
    """Whether that is what went wrong, whichever library noticed it."""
    by_number = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return by_number or "No space left on device" in str(error)
