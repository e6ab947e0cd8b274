"""Ctrl-C, SIGTERM and a closed terminal as a request: the loop finishes its step, saves, and then stops."""

import signal
import threading
from types import FrameType


class StopRequest:
    """`with StopRequest() as stop:` - `stop.requested` turns true on the first SIGINT, SIGTERM or SIGHUP.

    A second signal gets the usual behaviour back, so nobody is trapped.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        # Signal handlers belong to the main thread; elsewhere (a server's worker) there is nobody to press Ctrl-C.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()
