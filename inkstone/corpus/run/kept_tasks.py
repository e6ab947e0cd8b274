"""Runs the tasks of a pass and keeps what each leaves, so that a pass that was killed continues where it was.

A pass is a function `work(argument, draft)` and a list of arguments. Each task fills its own directory, which appears
whole with a manifest that holds the task's key; a task whose directory is there with that key is not run again. Tasks
talk through these directories alone, which is why processes on one machine and a cluster (over a shared file system)
give equal bytes. docs/design.md compares it with Daft.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from inkstone.errors import InkstoneError
from inkstone.storage import atomic_directory, file_sha256, fingerprint, read_manifest, verify_manifest, write_manifest
from inkstone.tasks import Workers, run_calls

Work = Callable[[Any, Path], None]


def default_processes(megabytes: float) -> int:
    """One process per core, but a pool is not worth its start below some tens of megabytes of input."""
    return 1 if megabytes < 48 else os.cpu_count() or 1


def run_tasks(
    folder: Path,
    work: Work,
    arguments: Sequence[Any],
    settings_key: str,
    workers: Workers,
    finished: Callable[[int], None] = lambda index: None,
) -> list[Path]:
    """Run `work(argument, draft)` for every argument; returns the tasks' directories, in order.

    `settings_key` names what the result depends on beside the argument; `finished(index)` is told of every task that is
    done, also those from an earlier attempt. Raises InkstoneError when a worker keeps dying.
    """
    keys = [fingerprint({"work": work.__qualname__, "settings": settings_key, "code": code_digest(),
                         "argument": repr(argument)}) for argument in arguments]  # fmt: skip
    places = [folder / f"{index:05d}" for index in range(len(arguments))]
    waiting = []
    for index, place in enumerate(places):
        if _is_done(place, keys[index]):
            finished(index)
        else:
            waiting.append(index)
    jobs = [(work, arguments[index], places[index], keys[index]) for index in waiting]
    for number, _ in run_calls(_task, jobs, workers, "inkstone.corpus.run.passes"):
        finished(waiting[number])
    return places


def _task(work: Work, argument: Any, place: Path, key: str) -> None:
    with atomic_directory(place) as draft:
        work(argument, draft)
        write_manifest(draft, {"key": key})


def _is_done(place: Path, key: str) -> bool:
    """Whether an earlier attempt finished this task and its files are still whole."""
    try:
        done = read_manifest(place).get("key") == key
        if done:
            verify_manifest(place, contents=True)
            return True
    except InkstoneError:
        pass
    shutil.rmtree(place, ignore_errors=True)
    return False


@cache
def code_digest() -> str:
    """Names the code of this room, so that a resumed pass never mixes the results of two versions."""
    room = Path(__file__).parents[1]
    files = sorted(path for path in room.rglob("*") if path.suffix in (".py", ".toml", ".txt"))
    return fingerprint({path.relative_to(room).as_posix(): file_sha256(path) for path in files})
