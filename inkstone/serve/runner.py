"""One model's engine in a thread of its own, and the flows of answers that coroutines wait for.

    flow = runner.open([request, request])        # raises Busy when the queue is full
    while not flow.done: happened = await flow.next()   # [(index, delta), ...]; none: nothing has come for a while
    flow.cancel()

The thread alone touches the engine; requests and cancellations reach it through a queue and take effect between two
steps. A step that fails ends the requests it had with EngineFailed, and the next request finds a new engine.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from inkstone.errors import InkstoneError, InputError
from inkstone.generate import Delta, Engine, Request
from inkstone.model import Decoder

QUIET_S = 10.0
"""After once to twice as long without a token a stream says that it is alive."""

TOGETHER_S = 0.04
"""Tokens of a stream that come sooner after one another are handed out together: nobody reads faster, and each piece
that is written costs."""

Told = list[tuple[int, Delta]]


class Busy(InkstoneError):
    """As many requests wait as may."""


class EngineFailed(InkstoneError):
    """The engine failed in a step; what it had is lost, a new one takes what comes next."""


@dataclass(eq=False)
class Flow:
    """The deltas of some requests as they come, each with its request's index; leaving its block cancels the rest."""

    size: int
    runner: "Runner"
    loop: asyncio.AbstractEventLoop
    events: "asyncio.Queue[Told | InkstoneError]" = field(default_factory=asyncio.Queue)
    ended: set[int] = field(default_factory=set)
    quiet: bool = False
    held: Told = field(default_factory=list)
    told: float = 0.0
    """When something was handed out; this and `held` are the engine thread's."""

    def __post_init__(self) -> None:
        self._look()

    def __enter__(self) -> "Flow":
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def _look(self) -> None:
        """Say so where nothing has come since the last look. One timer for a flow, for one for each token costs."""
        if self.quiet:
            self.events.put_nowait([])
        self.quiet = True
        self.timer = self.loop.call_later(QUIET_S, self._look)

    async def next(self) -> Told:
        """What has come, or nothing after up to twice QUIET_S. Raises what went wrong."""
        told = await self.events.get()
        if isinstance(told, InkstoneError):
            raise told
        self.quiet = not told
        self.ended |= {index for index, delta in told if delta.finish}
        return told

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

    def fail(self, error: InkstoneError) -> None:
        """Called by the engine's thread."""
        self.loop.call_soon_threadsafe(self.events.put_nowait, error)


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
        """Begin; to be called in a coroutine. Raises Busy, InputError for more than would ever fit."""
        if len(requests) > self.most:
            raise InputError(
                f"{len(requests)} answers are asked for, and the server takes {self.most} at once: ask in parts"
            )
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
                flow.fail(error)
                self._one_less()
            except Exception as error:  # the engine cannot be made: the request must hear of it, not wait for ever
                flow.fail(EngineFailed(f"the engine could not start ({type(error).__name__}: {error})"))
                self._one_less()

    def _step(self, engine: Engine) -> None:
        try:
            deltas = engine.step()
        except Exception as error:  # whatever it was, the others' requests must not hang
            self.failures += 1
            self.engine = None
            for number, (flow, _) in list(self._owners.items()):
                flow.fail(EngineFailed(f"the engine failed ({type(error).__name__}) and begins anew: ask again"))
                self._leave(number)
            return
        now, ready = time.monotonic(), dict[Flow, None]()
        for delta in deltas:
            flow, index = self._owners[delta.id]
            flow.held.append((index, delta))
            if delta.finish:
                self._leave(delta.id)
            if delta.finish or now - flow.told >= TOGETHER_S:
                ready[flow] = None
        told: dict[asyncio.AbstractEventLoop, list[tuple[Flow, Told]]] = {}
        for flow in ready:
            told.setdefault(flow.loop, []).append((flow, flow.held))
            flow.held, flow.told = [], now
        for loop, some in told.items():  # a loop is woken once for a step, not once for a token
            loop.call_soon_threadsafe(_hand_out, some)

    def _leave(self, number: int) -> None:
        del self._owners[number]
        self._one_less()

    def _one_less(self) -> None:
        with self._lock:
            self.pending -= 1


def _hand_out(ready: list[tuple[Flow, Told]]) -> None:
    for flow, told in ready:
        flow.events.put_nowait(told)


def cache_tokens(model: Decoder, rows: int, budget_bytes: float) -> int:
    """Tokens of keys and values: what the budget holds, at least one whole context, at most `rows` of them."""
    config = model.config
    each = 2 * config.num_layers * config.num_kv_heads * config.head_dim * model.dtype.itemsize
    longest = model.position_limit or model.max_positions
    return max(longest + 16, min(int(budget_bytes / each), rows * longest))
