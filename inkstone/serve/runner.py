"""One model's engine in a thread of its own, and the flows of answers that coroutines wait for.

    flow = runner.open([request, request])        # raises Busy when the queue is full
    while not flow.done: happened = await flow.next()   # (index, delta), or None: nothing has come for a while
    flow.cancel()

The thread alone touches the engine; requests and cancellations reach it through a queue and take effect between two
steps. A step that fails ends the requests it had with EngineFailed, and the next request finds a new engine.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from inkstone.errors import InkstoneError, InputError
from inkstone.generate import Delta, Engine, Request
from inkstone.model import Decoder

QUIET_S = 10.0
"""After once to twice as long without a token a stream says that it is alive."""


class Busy(InkstoneError):
    """As many requests wait as may."""


class EngineFailed(InkstoneError):
    """The engine failed in a step; what it had is lost, a new one takes what comes next."""


@dataclass(eq=False)
class Flow:
    """The deltas of some requests as they come, each with its request's index."""

    size: int
    runner: "Runner"
    loop: asyncio.AbstractEventLoop
    events: "asyncio.Queue[tuple[int, Delta | InkstoneError] | None]" = field(default_factory=asyncio.Queue)
    ended: set[int] = field(default_factory=set)
    quiet: bool = False

    def __post_init__(self) -> None:
        self._look()

    def _look(self) -> None:
        """Say None where nothing has come since the last look. One timer for a flow, for one for each token costs."""
        if self.quiet:
            self.events.put_nowait(None)
        self.quiet = True
        self.timer = self.loop.call_later(QUIET_S, self._look)

    async def next(self) -> tuple[int, Delta] | None:
        """The next event, or None after up to twice QUIET_S without one. Raises what went wrong."""
        happened = await self.events.get()
        if happened is None:
            return None
        self.quiet, (index, event) = False, happened
        if isinstance(event, InkstoneError):
            raise event
        if event.finish:
            self.ended.add(index)
        return index, event

    @property
    def done(self) -> bool:
        return len(self.ended) == self.size

    def cancel(self, index: int | None = None) -> None:
        """End one request, or all."""
        gone = {index} if index is not None else set(range(self.size)) - self.ended
        if gone | self.ended == set(range(self.size)):
            self.timer.cancel()
        self.ended |= gone
        self.runner.commands.put(lambda: self.runner.forget(self, gone))

    def tell(self, index: int, event: Delta | InkstoneError) -> None:
        """Called by the engine's thread."""
        self.loop.call_soon_threadsafe(self.events.put_nowait, (index, event))


class Runner:
    """`make_engine` is called in the thread, again after a failure; at most `most` requests run and wait."""

    def __init__(self, make_engine: Callable[[], Engine], most: int) -> None:
        self.make_engine, self.most = make_engine, most
        self.commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.engine: Engine | None = None
        self.pending = 0
        self.failures = 0
        self._owners: dict[int, tuple[Flow, int]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def open(self, requests: Sequence[Request]) -> Flow:
        """Begin; to be called in a coroutine. Raises Busy."""
        with self._lock:
            if self.pending + len(requests) > self.most:
                raise Busy(f"{self.pending} requests run or wait, of {self.most}: try again in a moment")
            self.pending += len(requests)
        flow = Flow(len(requests), self, asyncio.get_running_loop())
        self.commands.put(lambda: self._submit(flow, requests))
        return flow

    def close(self) -> None:
        """End the thread after the step it is in."""
        self.commands.put(None)
        self._thread.join(timeout=10)

    def forget(self, flow: Flow, indices: set[int]) -> None:
        """In the thread: cancel these requests of a flow."""
        for number, (owner, index) in list(self._owners.items()):
            if owner is flow and index in indices and self.engine:
                self.engine.cancel(number)
                self._leave(number)

    def _run(self) -> None:
        while True:
            idle = not (self.engine and self.engine.busy)
            try:
                while (command := self.commands.get(block=idle)) is not None:
                    command()
                    idle = False
                return
            except queue.Empty:
                pass
            if self.engine and self.engine.busy:
                self._step(self.engine)

    def _submit(self, flow: Flow, requests: Sequence[Request]) -> None:
        for index, request in enumerate(requests):
            try:
                self.engine = self.engine or self.make_engine()
                self._owners[self.engine.submit(request)] = (flow, index)
            except InputError as error:
                flow.tell(index, error)
                self._one_less()
            except Exception as error:  # the engine cannot be made: the request must hear of it, not wait for ever
                flow.tell(index, EngineFailed(f"the engine could not start ({type(error).__name__}: {error})"))
                self._one_less()

    def _step(self, engine: Engine) -> None:
        try:
            deltas = engine.step()
        except Exception as error:  # whatever it was, the others' requests must not hang
            self.failures += 1
            self.engine = None
            for number, (flow, index) in list(self._owners.items()):
                flow.tell(index, EngineFailed(f"the engine failed ({type(error).__name__}) and begins anew: ask again"))
                self._leave(number)
            return
        told: dict[asyncio.AbstractEventLoop, list[tuple[Flow, int, Delta]]] = {}
        for delta in deltas:
            flow, index = self._owners[delta.id]
            told.setdefault(flow.loop, []).append((flow, index, delta))
            if delta.finish:
                self._leave(delta.id)
        for loop, some in told.items():  # a loop is woken once for a step, not once for a token
            loop.call_soon_threadsafe(_hand_out, some)

    def _leave(self, number: int) -> None:
        del self._owners[number]
        self._one_less()

    def _one_less(self) -> None:
        with self._lock:
            self.pending -= 1


def _hand_out(told: list[tuple[Flow, int, Delta]]) -> None:
    for flow, index, delta in told:
        flow.events.put_nowait((index, delta))


def cache_tokens(model: Decoder, rows: int, budget_bytes: float) -> int:
    """Tokens of keys and values: what the budget holds, at least one whole context, at most `rows` of them."""
    config = model.config
    each = 2 * config.num_layers * config.num_kv_heads * config.head_dim * model.dtype.itemsize
    longest = config.position_limit or config.max_positions
    return max(longest + 16, min(int(budget_bytes / each), rows * longest))
