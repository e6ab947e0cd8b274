"""Runs a process and watches its time and memory and those of all its children.

The process prints its own figures as JSON, last. Memory is what they hold beside shared pages.
"""

import contextlib
import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable


def cpu_seconds() -> float:
    """Of this process and its children that have ended."""
    return sum(
        u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def measure(
    command: list[str], limit_gb: float | None = None, seen: Callable[[int, float], None] = lambda held, used: None
) -> dict[str, float]:
    """Run a process that prints JSON last; adds peak memory in GB and CPU seconds of all its processes.

    Ends it where the memory passes the limit; `seen(bytes held, CPU seconds)` is called with every sample."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # Files, not pipes: nobody reads while it runs, and a process stops at a full pipe (datatrove logs more than 64 KB).
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, text=True, env=os.environ | threads)
        peak, cpu = _watch(process, limit_gb, seen)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{errors.read()[-3000:]}")
        result: dict[str, float] = json.loads(out.read().strip().splitlines()[-1])
    return {**result, "peak": peak / 1e9, "cpu_of_all": cpu}


def _watch(
    process: subprocess.Popen[str], limit_gb: float | None, seen: Callable[[int, float], None]
) -> tuple[int, float]:
    """Most bytes held and CPU seconds used by a process and its children, until it ends."""
    import psutil

    watched, peak, used, looked = psutil.Process(process.pid), 0, {}, 0.0
    watching: tuple[psutil.Process, ...] = (watched,)
    while process.poll() is None:
        if time.perf_counter() - looked > 0.5:  # looking for children goes through all processes of the machine
            with contextlib.suppress(psutil.NoSuchProcess):
                watching = (watched, *watched.children(recursive=True))
            looked = time.perf_counter()
        held = 0
        for one in watching:
            with contextlib.suppress(psutil.NoSuchProcess):
                memory = one.memory_info()
                held += memory.rss - memory.shared
                used[one.pid] = sum(one.cpu_times()[:2])
        peak = max(peak, held)
        seen(held, sum(used.values()))
        if limit_gb and held > limit_gb * 1e9:
            for one in reversed(watching):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            raise SystemExit(f"held {held / 1e9:.2f} GB, more than the limit of {limit_gb} GB: {process.args}")
        time.sleep(0.05)
    return peak, sum(used.values())
