"""Continuous batching: requests come and go while it runs, and everything that generates goes through it.

    engine = Engine(model, tokens=8192)
    number = engine.submit(Request(prompt, SamplingSettings(), stop_ids))
    while engine.busy:
        for delta in engine.step(): ...

A step gives every running request one token, and fills what is left of its budget with pieces of prompts, so a long
prompt never stalls the others. A prompt shares the blocks of whatever beginning is already known. A request waits until
the pool has blocks for its prompt and its longest answer, so one that runs is never pushed out. `generate` and `stream`
are helpers for a list of prompts and for one.
"""

import itertools
import random
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.generate.blocks import Blocks, blocks_for, hidden_of
from inkstone.generate.sampler import SamplingSettings, sample
from inkstone.model import BLOCK, BlockPool, Decoder, Span


@dataclass(frozen=True)
class Request:
    """What is asked for; with `logprobs` above 0 each token comes with its log-probability."""

    prompt: Sequence[int]
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    stop_ids: Collection[int] = ()
    logprobs: int = 0


@dataclass(frozen=True)
class Delta:
    """A new token of a request; at a stop token, which is not returned, only its end.

    The log-probability is the model's own, before penalty and temperature.
    """

    id: int
    token: int | None
    logprob: float | None = None
    finish: Literal["stop", "length"] | None = None


@dataclass(eq=False)
class _Sequence:
    """A request and how far it is: the first `cached` of its tokens have their keys and values in `blocks`."""

    id: int
    request: Request
    tokens: list[int]
    limit: int
    draw: random.Random
    seen_V: Tensor | None
    blocks: list[int] = field(default_factory=list)
    cached: int = 0
    serial: int = 0
    """Of the last block that is known (`Blocks.learn`)."""

    @property
    def missing(self) -> int:
        return len(self.tokens) - self.cached


class Engine:
    """`tokens` in the pool, `rows` requests at once, `step_tokens` computed in one step."""

    def __init__(self, model: Decoder, tokens: int, rows: int = 32, step_tokens: int = 1024) -> None:
        self.model, self.rows, self.step_tokens = model, rows, max(step_tokens, rows + 1)
        self.blocks = Blocks(blocks_for(tokens))
        self.pool = BlockPool(model.config.num_layers, self.blocks.count, model.device)
        self.waiting: deque[_Sequence] = deque()
        self.running: list[_Sequence] = []
        self._ids = itertools.count()
        # Where angles depend on a sequence's length in the end, no piece of it may be computed or shared early.
        self._whole = model.config.angles_depend_on_length

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.running)

    def submit(self, request: Request) -> int:
        """The request's number. Raises InputError for a prompt that the model or the pool can never take."""
        number, size, most = next(self._ids), len(request.prompt), self.model.config.position_limit
        limit, vocab = _limit(self.model, request), self.model.config.vocab_size
        if not size or limit <= size:
            takes = "any number" if most is None else f"1 to {most - 1}"
            raise InputError(
                f"prompt {number} has {size} tokens; the model takes {takes}: shorten it or start a new conversation"
            )
        if not 0 <= min(request.prompt) <= max(request.prompt) < vocab:
            raise InputError(f"prompt {number} holds ids outside the model's {vocab}")
        if blocks_for(limit) > self.blocks.count:
            raise InputError(
                f"prompt {number} and its answer may have {limit} tokens, more than the engine's "
                f"{self.blocks.count * BLOCK}: shorten it, lower max_new_tokens or give the engine more"
            )
        seen_V = None
        if request.sampling.repetition_penalty != 1:
            seen_V = torch.zeros(vocab, dtype=torch.bool).index_fill(0, torch.tensor(request.prompt), True)
            seen_V = seen_V[: self.model.known_ids].to(self.model.device)
        draw = random.Random(request.sampling.seed % 2**64)
        self.waiting.append(_Sequence(number, request, list(request.prompt), limit, draw, seen_V))
        return number

    def cancel(self, number: int) -> None:
        """Forget a request, whatever its state; its blocks are free."""
        self.waiting = deque(one for one in self.waiting if one.id != number)
        for one in [one for one in self.running if one.id == number]:
            self._end(one)

    @torch.inference_mode()
    def step(self) -> list[Delta]:
        """Compute up to `step_tokens` tokens; the new ones."""
        chosen = self._schedule()
        if not chosen:
            return []
        try:
            logits_RV = self._forward(chosen)
        except BaseException:
            # Others count already on what was to be computed: nothing of it is known, all of it comes again.
            self.waiting.extendleft(reversed(chosen))
            for one in chosen:
                self._end(one)
            self.blocks.forget_all()
            raise
        for one, count in chosen.items():
            one.cached += count
        ready = [one for one in chosen if not one.missing]
        return self._deltas(ready, logits_RV) if ready else []

    def _schedule(self) -> dict[_Sequence, int]:
        """Who computes how many tokens in this step: those that decode, then prompts, those that still wait at last."""
        if self._whole:
            # One prompt, or one token of everybody.
            new = self._admitted()
            return {new: new.missing} if new else dict.fromkeys(self.running, 1)
        chosen: dict[_Sequence, int] = {}
        budget = self.step_tokens
        decoding_first = sorted(self.running, key=lambda one: one.missing > 1)
        for one in itertools.chain(decoding_first, iter(self._admitted, None)):
            chosen[one] = count = min(one.missing, budget)
            # What this step fills is known from now on: who is admitted next in this step may share it.
            for number in range(one.cached // BLOCK, (one.cached + count) // BLOCK):
                tokens = one.tokens[number * BLOCK : (number + 1) * BLOCK]
                one.serial = self.blocks.learn(one.blocks[number], one.serial, tokens)
            budget -= count
            if not budget:
                break
        return chosen

    def _admitted(self) -> _Sequence | None:
        """The first that waits, now running, if there are a row and blocks for it."""
        if not self.waiting or len(self.running) == self.rows:
            return None
        one = self.waiting[0]
        found, serial = ([], 0) if self._whole else self.blocks.match(one.tokens)
        count = blocks_for(one.limit) - len(found)
        if count > self.blocks.free:
            self.blocks.release(found)
            return None
        one.blocks = found + self.blocks.take(count)
        one.cached, one.serial = len(found) * BLOCK, serial
        self.running.append(self.waiting.popleft())
        return one

    def _end(self, one: _Sequence) -> None:
        self.running.remove(one)
        self.blocks.release(one.blocks)

    def _forward(self, chosen: dict[_Sequence, int]) -> Tensor:
        """Logits [R, V] after the last token of those that are complete."""
        spans = [Span(one.blocks, one.cached, count) for one, count in chosen.items()]
        tokens = [one.tokens[one.cached : one.cached + count] for one, count in chosen.items()]
        hidden_ND = hidden_of(self.model, self.pool, tokens, spans)
        ends = zip(itertools.accumulate(chosen.values()), chosen.items(), strict=True)
        last = [end - 1 for end, (one, count) in ends if count == one.missing]
        logits_RV: Tensor = self.model.lm_head(hidden_ND[last])[:, : self.model.known_ids]
        return logits_RV

    def _deltas(self, ready: list[_Sequence], logits_RV: Tensor) -> list[Delta]:
        """The next token of each; who stops there or is long enough leaves."""
        settings = [one.request.sampling for one in ready]
        ids_R = sample(logits_RV, settings, [one.draw.random() for one in ready], [one.seen_V for one in ready])
        logprobs: list[float | None] = [None] * len(ready)
        if any(one.request.logprobs for one in ready):
            logprobs = logits_RV.float().log_softmax(-1).gather(1, ids_R[:, None])[:, 0].tolist()
        deltas = []
        for one, token, logprob in zip(ready, ids_R.tolist(), logprobs, strict=True):
            if token in one.request.stop_ids:
                deltas.append(Delta(one.id, None, finish="stop"))
            else:
                one.tokens.append(token)
                if one.seen_V is not None:
                    one.seen_V[token] = True
                finish: Literal["length"] | None = "length" if len(one.tokens) == one.limit else None
                deltas.append(Delta(one.id, token, logprob if one.request.logprobs else None, finish))
            if deltas[-1].finish:
                self._end(one)
        return deltas


def generate(
    model: Decoder, prompts: Sequence[list[int]], sampling: SamplingSettings, stop_ids: Collection[int], rows: int = 32
) -> list[list[int]]:
    """New token ids for each prompt, in order, without the stop token. At most `rows` are decoded together.

    Request i draws from seed + i. Raises InputError when a prompt is empty or leaves no room in the model's positions.
    """
    return [ids for _, ids in sorted(generate_each(model, prompts, sampling, stop_ids, rows))]


def generate_each(
    model: Decoder, prompts: Sequence[list[int]], sampling: SamplingSettings, stop_ids: Collection[int], rows: int = 32
) -> Iterator[tuple[int, list[int]]]:
    """`generate`, but each answer comes with its prompt's number as soon as it is complete."""
    seeds = (sampling.model_copy(update={"seed": seed}) for seed in itertools.count(sampling.seed))
    requests = [Request(prompt, one, stop_ids) for prompt, one in zip(prompts, seeds, strict=False)]
    answers: list[list[int]] = [[] for _ in prompts]
    for delta in _run(model, requests, rows):
        if delta.token is not None:
            answers[delta.id].append(delta.token)
        if delta.finish:
            yield delta.id, answers[delta.id]


def stream(model: Decoder, prompt: list[int], sampling: SamplingSettings, stop_ids: Collection[int]) -> Iterator[int]:
    """The tokens of one request as they are decoded."""
    deltas = _run(model, [Request(prompt, sampling, stop_ids)], 1)
    return (delta.token for delta in deltas if delta.token is not None)


def _run(model: Decoder, requests: list[Request], rows: int) -> Iterator[Delta]:
    """All deltas, from an engine that is as large as the `rows` longest requests need."""
    blocks = sorted((blocks_for(_limit(model, request)) for request in requests), reverse=True)
    engine = Engine(model, sum(blocks[:rows]) * BLOCK, rows)
    for request in requests:
        engine.submit(request)
    while engine.busy:
        yield from engine.step()


def _limit(model: Decoder, request: Request) -> int:
    """Tokens of prompt and answer at most."""
    length, limit = len(request.prompt) + request.sampling.max_new_tokens, model.config.position_limit
    return length if limit is None else min(length, limit)
