"""Files that tasks learn from: uploaded, checked with the readers of tuning, kept under a number of their own.

What a browser calls a file is shown; of a file's own name it is a part, in letters, digits, dots and dashes.
"""

import asyncio
import re
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from inkstone.chat import Problem, read_chats, read_preferences, read_verdicts
from inkstone.errors import InputError
from inkstone.serve.guard import Refused, file_name
from inkstone.serve.jobs.queue import ENDED
from inkstone.serve.store import Store

MAX_UPLOAD_BYTES = 256 * 2**20
_READERS: dict[str, Callable[..., object]] = {
    "verdict": read_verdicts,
    "preference": read_preferences,
    "chat": read_chats,
}


class Datasets:
    """The files of `folder`."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder.resolve()

    def path(self, row: dict[str, Any]) -> Path:
        return self.folder / f"{row['id']}-{row['created']:.0f}-{plain(row['name'])}"

    async def receive(self, name: str, pieces: AsyncIterator[bytes]) -> dict[str, Any]:
        """Check and keep what is sent. Raises Refused for too much and for a name that could do harm, InputError where
        no row can be used."""
        name = file_name(name, "jsonl?", ".json or .jsonl")
        self.folder.mkdir(parents=True, exist_ok=True)
        draft, size = self.folder / f".{uuid.uuid4().hex}-{plain(name)}", 0
        room = min(MAX_UPLOAD_BYTES, shutil.disk_usage(self.folder).free // 2)
        try:
            with draft.open("wb") as stream:
                async for piece in pieces:
                    size += len(piece)
                    if size > room:
                        why = "split it" if room == MAX_UPLOAD_BYTES else "it is half of what the disk has left"
                        raise Refused(413, f"the file has more than {room / 2**20:.3g} MiB: {why}")
                    stream.write(piece)
            return await asyncio.to_thread(self._keep, draft, name, size)
        finally:
            draft.unlink(missing_ok=True)

    def _keep(self, draft: Path, name: str, size: int) -> dict[str, Any]:
        try:
            about = _read(draft)
        except InputError as error:
            # The draft's own name says nothing to anybody.
            raise InputError([problem.replace(str(draft), name) for problem in error.problems]) from error
        row = self.store.add("datasets", {"name": name, "about": {**about, "size": size}})
        draft.rename(self.path(row))
        return row

    def remove(self, number: int) -> None:
        """Forget a file, unless a task is to read it. One that was stopped says so when it is resumed."""
        row = self.store.row("datasets", number)
        open_ = [job for job in self.store.rows("jobs") if job["state"] not in ENDED]
        if used := [str(job["id"]) for job in open_ if number in (job["task"].get("data"), job["task"].get("test"))]:
            raise Refused(409, f"task {', '.join(used)} learns from {row['name']} or is tested on it: stop it first")
        self.store.remove("datasets", number)
        self.path(row).unlink(missing_ok=True)


def plain(name: str) -> str:
    """A name that means the same to a shell, a pattern of files and a recipe."""
    return re.sub(r"[^\w.-]+", "-", name)[-60:].strip("-") or "data"


def _read(path: Path) -> dict[str, Any]:
    """Kind, usable rows and what is wrong with others: verdicts or preference pairs where it has any, else
    conversations. A row is usable as one of the three only."""
    for kind, read in _READERS.items():
        try:
            items, skipped = vars(read([path], on_problem="skip")).values()
            break
        except InputError:
            if kind == "chat":
                raise
    about = {"kind": kind, "rows": len(items), "faulty": len(skipped), "faults": fault_lines(skipped[:20])}
    return about | ({"good": sum(one.good for one in items)} if kind == "verdict" else {})


def fault_lines(faults: Sequence[Problem]) -> list[str]:
    """Malformed rows as lines for a page; a fault may quote what is no Unicode."""
    lines = (f"{one.row}: {'; '.join(one.faults)}" for one in faults)
    return [line.encode("utf-8", "backslashreplace").decode() for line in lines]
