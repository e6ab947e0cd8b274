"""Runs calls of one function: in this process, in a pool of processes, or on a Ray cluster, with equal results.

`run_calls` yields each result as its call finishes. A worker that dies (out of memory, killed) takes its pool along;
the calls that are not finished get a new one, three times in all, so a call must be one that can be made again: ours
write directories that appear whole or not at all.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar

from inkstone.errors import InkstoneError, InputError

_TRIES = 3
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """Where calls run: `processes` on this machine, or the Ray cluster at an address ("local" starts one here)."""

    processes: int = 1
    ray: str | None = None


def run_calls(
    function: Callable[..., Result],
    calls: Sequence[tuple[Any, ...]],
    workers: Workers,
    preload: str = "",
    fewer: str = "fewer --workers",
) -> Iterator[tuple[int, Result]]:
    """Yield (index, function(*calls[index])) as calls finish.

    The function, which may be a `partial` with large tables, is sent to a process once, not with every call; `preload`
    is the module that the processes import, once for all of them. Raises InkstoneError where a worker keeps dying,
    telling the user to set `fewer`.
    """
    if workers.ray is not None:
        return _on_ray(function, calls, workers.ray)
    if workers.processes > 1 and len(calls) > 1:
        return _in_pool(function, calls, min(workers.processes, len(calls)), preload, fewer)
    return ((index, function(*call)) for index, call in enumerate(calls))


def start_ahead(preload: str) -> None:
    """Let the fork server import `preload` while this process does something else."""
    if _context(preload).get_start_method() == "forkserver":
        forkserver.ensure_running()


def _in_pool(
    function: Callable[..., Result], calls: Sequence[tuple[Any, ...]], processes: int, preload: str, fewer: str
) -> Iterator[tuple[int, Result]]:
    left = dict(enumerate(calls))
    for _ in range(_TRIES):
        with ProcessPoolExecutor(processes, _context(preload), _begin, (function,)) as pool:
            try:
                futures: dict[Future[Result], int] = {pool.submit(_call, call): index for index, call in left.items()}
                for future in as_completed(futures):
                    result = future.result()
                    del left[futures[future]]
                    yield futures.pop(future), result
                return
            except BrokenProcessPool:
                continue
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    raise InkstoneError(
        f"a worker process was killed {_TRIES} times, most likely for want of memory: run the same command again with "
        f"{fewer}; what was finished is kept"
    )


def _context(preload: str) -> BaseContext:
    """Not fork: the parent may have threads (Arrow's, PyTorch's), whose locks a forked child would inherit.

    A fork server is a process of its own without them; its children are copies that have imported `preload` already.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload] if preload else [])
    return context


_given: list[Callable[..., Any]] = []  # in a process of a pool: the function to call


def _begin(function: Callable[..., Any]) -> None:
    """What a process of a pool does first. One that outlived a killed run would write where the next run writes."""
    _given.append(function)

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _call(call: tuple[Any, ...]) -> Any:
    return _given[0](*call)


def _on_ray(
    function: Callable[..., Result], calls: Sequence[tuple[Any, ...]], address: str
) -> Iterator[tuple[int, Result]]:
    """The same calls on a cluster; paths must mean the same on every node, as on a shared file system."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs the package ray: pip install 'inkstone[cluster]'") from error
    if not ray.is_initialized():
        package = {"py_modules": [str(Path(__file__).parent)]}
        try:
            ray.init(address=address, runtime_env=package, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"--ray {address}: no Ray cluster answers there ({error})") from error
    remote = ray.remote(max_retries=_TRIES)(lambda call: function(*call))
    slots = 4 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = list(enumerate(calls))
    running: dict[Any, int] = {}
    while waiting or running:
        while waiting and len(running) < slots:
            index, call = waiting.pop(0)
            running[remote.remote(call)] = index
        done, _ = ray.wait(list(running))
        for reference in done:
            index = running.pop(reference)
            try:
                yield index, ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                raise InkstoneError(
                    f"the Ray cluster lost a task for good ({error}): run the same command again"
                ) from error
