"""A run that hangs says so: which rank, in which step, and what its main thread is doing.

    with Watchdog(mesh.rank, folder / "hangs") as dog:
        dog.step(120)        # at the beginning of each step

On many GPUs one rank that waits for another stops all of them without a word until the backend's own limit. A step that
takes twenty times the slowest one so far (five minutes at least; the first steps compile and are not judged) is written
down by a thread, with the innermost calls, which name the collective. Nothing is stopped: it may only be slow.
"""

import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType

_TIMES, _LEAST_S, _UNJUDGED = 20.0, 300.0, 3
_LOOKS_S = 5.0
_CALLS = 6


class Watchdog:
    """Watches the thread that made it; `least_s` is the shortest time that counts as hanging."""

    def __init__(self, rank: int, folder: Path, least_s: float = _LEAST_S, looks_s: float = _LOOKS_S) -> None:
        self.rank, self.folder, self.least_s, self.looks_s = rank, folder, least_s, looks_s
        self.watched = threading.get_ident()
        self.done = threading.Event()
        self.number, self.begun, self.slowest, self.steps, self.told = 0, time.monotonic(), 0.0, 0, -1
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.done.set()
        self.thread.join()

    def step(self, number: int) -> None:
        """A step begins: the one before has ended."""
        now = time.monotonic()
        if self.steps > _UNJUDGED:
            self.slowest = max(self.slowest, now - self.begun)
        self.number, self.begun, self.steps = number, now, self.steps + 1

    def _watch(self) -> None:
        while not self.done.wait(self.looks_s):
            taken = time.monotonic() - self.begun
            limit = max(self.least_s, _TIMES * self.slowest)
            if self.steps > _UNJUDGED and taken > limit and self.told != self.number:
                self.told = self.number
                self._tell(taken)

    def _tell(self, taken: float) -> None:
        frame = sys._current_frames().get(self.watched)
        calls = traceback.extract_stack(frame)[-_CALLS:] if frame else []
        where = " < ".join(f"{call.name} ({Path(call.filename).name}:{call.lineno})" for call in reversed(calls))
        said = f"rank {self.rank}: step {self.number} has not ended for {taken:.0f} s; it is in {where}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"rank-{self.rank}.txt").open("a", encoding="utf-8") as stream:
            stream.write(said + "\n")
        print(said, file=sys.stderr, flush=True)
