"""Runs the tasks of a pass: in this process, in a pool of processes, or on a Ray cluster, with equal files as result.

A pass is a function `work(argument, draft)` and a list of arguments. Each task fills its own directory, which appears
whole with a manifest that holds the task's key; a task whose directory is there with that key is not run again, so a
killed pass continues where it was. Tasks talk through these directories alone: that is all the engine there is, and
why one machine and a cluster (over a shared file system) give equal bytes. docs/design.md compares it with Daft.
"""

import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from inkstone.errors import InkstoneError, InputError
from inkstone.storage import atomic_directory, file_sha256, fingerprint, read_manifest, verify_manifest, write_manifest

_TRIES = 3
Work = Callable[[Any, Path], None]


@dataclass(frozen=True)
class Workers:
    """Where tasks run: `processes` on this machine, or the Ray cluster at an address ("local" starts one here)."""

    processes: int = 1
    ray: str | None = None


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
    jobs = {index: (work, arguments[index], places[index], keys[index]) for index in waiting}
    for index in _run(jobs, workers):
        finished(index)
    return places


def _run(jobs: dict[int, tuple[Work, Any, Path, str]], workers: Workers) -> Iterator[int]:
    if workers.ray is not None:
        return _on_ray(jobs, workers.ray)
    if workers.processes > 1 and len(jobs) > 1:
        return _in_pool(jobs, min(workers.processes, len(jobs)))
    return _here(jobs)


def _task(work: Work, argument: Any, place: Path, key: str) -> None:
    with atomic_directory(place) as draft:
        work(argument, draft)
        write_manifest(draft, {"key": key})


def _here(jobs: dict[int, tuple[Work, Any, Path, str]]) -> Iterator[int]:
    for index, job in jobs.items():
        _task(*job)
        yield index


def _in_pool(jobs: dict[int, tuple[Work, Any, Path, str]], processes: int) -> Iterator[int]:
    """A worker that dies (out of memory, killed) takes its pool along; the unfinished tasks get a new one."""
    left = dict(jobs)
    for _ in range(_TRIES):
        with ProcessPoolExecutor(processes, _context(), _end_with_parent) as pool:
            futures: dict[Future[None], int] = {pool.submit(_task, *job): index for index, job in left.items()}
            try:
                for future in as_completed(futures):
                    future.result()
                    del left[futures[future]]
                    yield futures[future]
                return
            except BrokenProcessPool:
                continue
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    raise InkstoneError(
        f"a worker process was killed {_TRIES} times, most likely for want of memory: run the same command again with "
        "fewer --workers; what was finished is kept"
    )


def _context() -> BaseContext:
    """Not fork: the parent may have threads (Arrow's), whose locks a forked child would inherit.

    A fork server is a process of its own without them; it imports this room once for all passes.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["inkstone.corpus.run.passes"])
    return context


def _end_with_parent() -> None:
    """A worker that outlived a killed run would write where the next run writes."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _on_ray(jobs: dict[int, tuple[Work, Any, Path, str]], address: str) -> Iterator[int]:
    """The same tasks on a cluster; `place` must lie on a file system that every node sees under the same path."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs the package ray: pip install 'inkstone[cluster]'") from error
    if not ray.is_initialized():
        package = str(Path(__file__).parents[2])
        try:
            ray.init(
                address="local" if address == "local" else address,
                runtime_env={"py_modules": [package]},
                log_to_driver=False,
                include_dashboard=False,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"--ray {address}: no Ray cluster answers there ({error})") from error
    remote = ray.remote(max_retries=_TRIES)(_task)
    slots = 4 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = list(jobs.items())
    running: dict[Any, int] = {}
    while waiting or running:
        while waiting and len(running) < slots:
            index, job = waiting.pop(0)
            running[remote.remote(*job)] = index
        done, _ = ray.wait(list(running))
        for reference in done:
            index = running.pop(reference)
            try:
                ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                raise InkstoneError(
                    f"the Ray cluster lost a task for good ({error}): run the same command again"
                ) from error
            yield index


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
    files = sorted(path for path in room.rglob("*") if path.suffix in (".py", ".toml"))
    return fingerprint({path.relative_to(room).as_posix(): file_sha256(path) for path in files})
