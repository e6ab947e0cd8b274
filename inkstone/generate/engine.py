"""Continuous batching: requests come and go while it runs, and everything that generates goes through it.

    engine = Engine(model, tokens=8192)
    number = engine.submit(Request(prompt, SamplingSettings(), stop_ids))
    while engine.busy:
        for delta in engine.step(): ...

A step gives every running request one token, and fills what is left of its budget with pieces of prompts, so a long
prompt never stalls the others. A prompt shares the blocks of whatever beginning is already known. A request gets blocks
for its longest answer where the pool has them for all that could run, else for its beginning; it then takes more as it
grows, and where there are none the youngest is pushed out, keeps its tokens and is computed again later.

A step in which every request computes one token is captured as a CUDA graph on a GPU, if asked (`graphs.py`).

With `lookup` a request may get several tokens in a step: guesses, from its own text (`lookup.py`) or of a smaller model
(`draft.py`), that the same forward finds right. What is right is what plain decoding would choose, by the same draws.
`generate` and `stream` are helpers for a list of prompts and for one.
"""

import itertools
import random
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.generate.blocks import Blocks, blocks_for, hidden_of
from inkstone.generate.draft import Draft
from inkstone.generate.graphs import Steps, wanted
from inkstone.generate.lookup import Lookup
from inkstone.generate.request import Delta, Request, TokenScore, score_tokens
from inkstone.generate.sampler import Choice, SamplingSettings, sample
from inkstone.model import BLOCK, BlockPool, Decoder, Span


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
    said: Counter[int] = field(default_factory=Counter)
    scored: list[TokenScore] = field(default_factory=list)
    guesses: bool = False
    """Whether its tokens may be guessed."""
    lookup: Lookup | None = None
    drafted: int = 0
    """How many of its tokens the draft has computed."""
    draws: deque[float] = field(default_factory=deque)
    """Of the coming tokens, as far as one has looked."""

    @property
    def missing(self) -> int:
        return len(self.tokens) - self.cached

    @property
    def asks_for_prompt(self) -> bool:
        """Whether its prompt's log-probabilities are still to be given."""
        return self.request.prompt_logprobs is not None and len(self.tokens) == len(self.request.prompt)

    def choice(self, known_ids: int, ahead: int = 0) -> Choice:
        """What its next token depends on, or the one that many places further."""
        how, forbidden = self.request.sampling, float("-inf")
        added = {token: -how.presence_penalty - how.frequency_penalty * times for token, times in self.said.items()}
        for token, bias in how.logit_bias.items():
            added[token] = added.get(token, 0.0) + (bias if bias > -100 else forbidden)
        if len(self.tokens) - len(self.request.prompt) < how.min_tokens:
            added |= {stop: forbidden for stop in self.request.stop_ids if stop < known_ids}
        allowed = self.request.constraint.allowed() if self.request.constraint else None
        while len(self.draws) <= ahead:
            self.draws.append(self.draw.random())
        return Choice(how, self.draws[ahead], self.seen_V, (list(added), list(added.values())), allowed)


class Engine:
    """`tokens` in the pool, `rows` requests at once, `step_tokens` computed in one step, `lookup` tokens guessed.

    `graphs`: whether steps of one token each run in fixed shapes, captured on a GPU; None: with INKSTONE_GRAPHS=1.
    """

    def __init__(
        self,
        model: Decoder,
        tokens: int,
        rows: int = 32,
        step_tokens: int = 1024,
        lookup: int = 0,
        draft: Decoder | None = None,
        graphs: bool | None = None,
    ) -> None:
        self.model, self.rows, self.step_tokens = model, rows, max(step_tokens, rows + 1)
        self.lookup = lookup or (_DRAFTED if draft else 0)
        self.blocks = Blocks(blocks_for(min(tokens, model.cache_tokens or tokens)))
        fixed = wanted(model, graphs)
        self.pool = BlockPool(model.config.num_layers, self.blocks.count + fixed, model.device)
        self.steps = Steps(model, self.pool, rows) if fixed else None
        self.draft = Draft(draft, self.blocks.count) if draft else None
        self.waiting: deque[_Sequence] = deque()
        self.running: list[_Sequence] = []
        self._ids = itertools.count()
        self.counts: Counter[str] = Counter()
        # Where angles depend on a sequence's length in the end, no piece of it may be computed or shared early.
        self._whole = model.config.angles_depend_on_length

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.running)

    def figures(self) -> dict[str, int]:
        """What the engine holds now and has done since it began."""
        held = self.blocks.count - self.blocks.free
        now = {"running": len(self.running), "waiting": len(self.waiting), "blocks": self.blocks.count, "held": held}
        return now | {name: self.counts[name] for name in _COUNTED}

    def submit(self, request: Request) -> int:
        """The request's number. Raises InputError for a prompt that the model or the pool can never take."""
        number, size, most = next(self._ids), len(request.prompt), self.model.position_limit
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
        known = self.model.known_ids or vocab
        strange = [token for token in request.sampling.logit_bias if not 0 <= token < known]
        if strange:
            raise InputError(f"logit_bias names the id {strange[0]}, but the tokenizer has {known} ids: leave it out")
        if not 0 <= request.logprobs <= vocab or not 0 <= (request.prompt_logprobs or 0) <= vocab:
            raise InputError(f"log-probabilities of {request.logprobs} tokens are asked for: give 0 to {vocab}")
        seen_V = None
        if request.sampling.repetition_penalty != 1:
            seen_V = torch.zeros(vocab, dtype=torch.bool).index_fill(0, torch.tensor(request.prompt), True)
            seen_V = seen_V[: self.model.known_ids].to(self.model.device)
        draw = random.Random(request.sampling.seed % 2**64)
        tokens = list(request.prompt)
        guesses = self.lookup > 0 and not self._whole and _is_plain(request)
        lookup = Lookup(tokens) if guesses and not self.draft else None
        self.waiting.append(_Sequence(number, request, tokens, limit, draw, seen_V, guesses=guesses, lookup=lookup))
        return number

    def cancel(self, number: int) -> None:
        """Forget a request, whatever its state; its blocks are free."""
        before = len(self.waiting) + len(self.running)
        self.waiting = deque(one for one in self.waiting if one.id != number)
        for one in [one for one in self.running if one.id == number]:
            self._end(one)
        self.counts["cancelled"] += before - len(self.waiting) - len(self.running)

    @torch.inference_mode()
    def step(self) -> list[Delta]:
        """Compute up to `step_tokens` tokens; the new ones."""
        chosen = self._schedule()
        if not chosen:
            return []
        try:
            guesses = self._guess(chosen)
            logits_RV = self._forward(chosen, guesses)
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
        return self._deltas(ready, guesses, logits_RV) if ready else []

    def _schedule(self) -> dict[_Sequence, int]:
        """Who computes how many tokens in this step: those that decode, then prompts, those that still wait at last."""
        if self._whole:
            # One prompt, or one token of everybody.
            new = self._admitted()
            return {new: new.missing} if new else dict.fromkeys(self.running, 1)
        self._grow()
        chosen: dict[_Sequence, int] = {}
        budget = self.step_tokens
        decoding_first = sorted(self.running, key=lambda one: one.missing > 1)
        for one in itertools.chain(decoding_first, iter(self._admitted, None)):
            chosen[one] = count = min(one.missing, budget)
            # What this step fills is known from now on: who is admitted next in this step may share it.
            self._learn(one, count)
            budget -= count
            if not budget:
                break
        return chosen

    def _grow(self) -> None:
        """Blocks for what each may compute now, oldest first; where they lack the youngest is pushed out."""
        for one in list(self.running):
            while one in self.running:
                need = blocks_for(min(one.limit, len(one.tokens) + self.lookup)) - len(one.blocks)
                if need <= 0 or need <= self.blocks.free:
                    taken = self.blocks.take(need, one.blocks[-1] + 1) if need > 0 else []
                    one.blocks += taken
                    if self.draft:
                        self.draft.forget(taken)
                    break
                youngest = self.running[-1]
                self._end(youngest)
                self.waiting.appendleft(youngest)
                self.counts["pushed_out"] += 1

    def _learn(self, one: _Sequence, count: int) -> None:
        """The blocks that `count` more tokens fill keep what they hold for others."""
        for number in range(one.cached // BLOCK, (one.cached + count) // BLOCK):
            tokens = one.tokens[number * BLOCK : (number + 1) * BLOCK]
            one.serial = self.blocks.learn(one.blocks[number], one.serial, tokens)

    def _guess(self, chosen: dict[_Sequence, int]) -> dict[_Sequence, list[int]]:
        """Tokens that may follow the next one's place, for those that are complete; there are blocks for them."""
        rooms = {one: min(self.lookup, one.limit - len(one.tokens) - 1) for one in chosen if one.guesses}
        rooms = {one: max(0, room) if chosen[one] == one.missing else 0 for one, room in rooms.items()}
        if self.draft:
            found = self.draft.guess(chosen, rooms)
        else:
            found = {one: one.lookup.guess(room) for one, room in rooms.items() if one.lookup and room}
        return {one: found.get(one, []) for one in chosen}

    def _admitted(self) -> _Sequence | None:
        """The first that waits, now running, if there are a row and blocks for it."""
        if not self.waiting or len(self.running) == self.rows:
            return None
        one = self.waiting[0]
        # A prompt whose log-probabilities are asked for is computed whole.
        found, serial = ([], 0) if self._whole or one.asks_for_prompt else self.blocks.match(one.tokens)
        count, room = blocks_for(one.limit) - len(found), self.blocks.free
        together = itertools.islice(self.waiting, self.rows - len(self.running))
        if sum(blocks_for(other.limit) for other in together) > room and not self._whole:
            # Not enough for all that could run. Those that do will want a block each before long.
            count = blocks_for(min(one.limit, len(one.tokens) + _MARGIN)) - len(found)
            room -= len(self.running)
        if count > room:
            self.blocks.release(found)
            return None
        one.blocks = found + self.blocks.take(count)
        if self.draft:
            self.draft.begin(one, len(found))
        one.cached, one.serial, one.scored = len(found) * BLOCK, serial, []
        self.counts["prompt_tokens"] += len(one.tokens)
        self.counts["shared_tokens"] += one.cached
        self.running.append(self.waiting.popleft())
        return one

    def _end(self, one: _Sequence) -> None:
        self.running.remove(one)
        self.blocks.release(one.blocks)

    def _forward(self, chosen: dict[_Sequence, int], guesses: dict[_Sequence, list[int]]) -> Tensor:
        """Logits [R, V] after the last token of those that are complete, and after each of its guesses."""
        tokens = [one.tokens[one.cached : one.cached + count] + guesses[one] for one, count in chosen.items()]
        spans = [Span(one.blocks, one.cached, len(new)) for one, new in zip(chosen, tokens, strict=True)]
        if self.steps and all(len(new) == one.missing == 1 for one, new in zip(chosen, tokens, strict=True)):
            return self.steps(tokens, spans)[:, : self.model.known_ids]
        hidden_ND = hidden_of(self.model, self.pool, tokens, spans)
        ends = list(zip(itertools.accumulate(map(len, tokens)), chosen.items(), strict=True))
        for end, (one, count) in ends:
            if one.asks_for_prompt:
                self._score_prompt(one, hidden_ND[end - count : end])
        complete = [(end, len(guesses[one])) for end, (one, count) in ends if count == one.missing]
        last = [place for end, guessed in complete for place in range(end - 1 - guessed, end)]
        logits_RV: Tensor = self.model.lm_head(hidden_ND[last])[:, : self.model.known_ids]
        return logits_RV

    def _score_prompt(self, one: _Sequence, hidden_ND: Tensor) -> None:
        """Log-probabilities of the tokens that follow those computed now, in pieces that bound the memory."""
        follow = one.tokens[one.cached + 1 : one.cached + 1 + len(hidden_ND)]
        for start in range(0, len(follow), _SCORED_TOGETHER):
            piece = slice(start, min(start + _SCORED_TOGETHER, len(follow)))
            logits_NV = self.model.lm_head(hidden_ND[piece])[:, : self.model.known_ids]
            one.scored += score_tokens(logits_NV, follow[piece], one.request.prompt_logprobs or 0)

    def _deltas(self, ready: list[_Sequence], guesses: dict[_Sequence, list[int]], logits_RV: Tensor) -> list[Delta]:
        """The next token of each, and more where guesses were right; who stops there or is long enough leaves."""
        vocab = logits_RV.shape[1]
        choices = [one.choice(vocab, ahead) for one in ready for ahead in range(1 + len(guesses[one]))]
        drawn = sample(logits_RV, choices).tolist()
        starts = list(itertools.accumulate((1 + len(guesses[one]) for one in ready), initial=0))[:-1]
        ids = [drawn[start] for start in starts]
        asked = [row for row, one in enumerate(ready) if one.request.logprobs]
        most = max((ready[row].request.logprobs for row in asked), default=0)
        told = score_tokens(logits_RV[[starts[row] for row in asked]], [ids[row] for row in asked], most)
        scored = dict(zip(asked, told, strict=True))
        deltas = []
        for row, (one, token) in enumerate(zip(ready, ids, strict=True)):
            prompt, one.scored = tuple(one.scored), []
            allowed = choices[starts[row]].allowed
            closed = allowed is not None and not allowed.any()
            deltas.append(self._delta(one, token, prompt, scored.get(row), closed))
            for place, guess in enumerate(guesses[one]):
                self.counts["guessed_tokens"] += 1
                if deltas[-1].finish or guess != deltas[-1].token:
                    break
                self._learn(one, 1)  # its keys and values are there
                one.cached += 1
                self.counts["guessed_right"] += 1
                deltas.append(self._delta(one, drawn[starts[row] + place + 1]))
            if deltas[-1].finish:
                self._end(one)
        return deltas

    def _delta(
        self, one: _Sequence, token: int, prompt: tuple[TokenScore, ...] = (), seen: TokenScore | None = None,
        closed: bool = False,
    ) -> Delta:  # fmt: skip
        """The token said, unless it ends the answer or nothing may come (`closed`)."""
        if closed or token in one.request.stop_ids:
            return Delta(one.id, None, finish="stop", prompt=prompt)
        one.tokens.append(token)
        self._remember(one, token)
        finish: Literal["length"] | None = "length" if len(one.tokens) == one.limit else None
        top = seen.top[: one.request.logprobs] if seen else ()
        return Delta(one.id, token, seen.logprob if seen else None, finish, top, prompt)

    def _remember(self, one: _Sequence, token: int) -> None:
        """What the next choice wants to know of this one."""
        self.counts["new_tokens"] += 1
        one.draws.popleft()
        if one.seen_V is not None:
            one.seen_V[token] = True
        if one.request.sampling.presence_penalty or one.request.sampling.frequency_penalty:
            one.said[token] += 1
        if one.request.constraint:
            one.request.constraint.accept(token)


def _is_plain(request: Request) -> bool:
    """Whether its choices depend on logits and draws alone, so that several are made at once."""
    kept = {"seed", "max_new_tokens", "temperature", "top_p", "top_k", "min_p"}
    plain = SamplingSettings(**request.sampling.model_dump(include=kept)) == request.sampling
    return plain and not request.logprobs and request.prompt_logprobs is None and request.constraint is None


_COUNTED = (
    "prompt_tokens",
    "shared_tokens",
    "new_tokens",
    "cancelled",
    "guessed_tokens",
    "guessed_right",
    "pushed_out",
)
_MARGIN = 4 * BLOCK
"""Tokens of an answer that there must be blocks for when it begins."""
_DRAFTED = 4
"""Tokens that a draft guesses at a time, where it is not said."""
_SCORED_TOGETHER = 128
"""Positions of a prompt whose logits are there at once."""


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


def stream(
    model: Decoder,
    prompt: list[int],
    sampling: SamplingSettings,
    stop_ids: Collection[int],
    lookup: int = 0,
    draft: Decoder | None = None,
) -> Iterator[int]:
    """The tokens of one request as they are decoded."""
    deltas = _run(model, [Request(prompt, sampling, stop_ids)], 1, lookup, draft)
    return (delta.token for delta in deltas if delta.token is not None)


def _run(
    model: Decoder, requests: list[Request], rows: int, lookup: int = 0, draft: Decoder | None = None
) -> Iterator[Delta]:
    """All deltas, from an engine that is as large as the `rows` longest requests need."""
    blocks = sorted((blocks_for(_limit(model, request)) for request in requests), reverse=True)
    engine = Engine(model, sum(blocks[:rows]) * BLOCK, rows, lookup=lookup, draft=draft)
    for request in requests:
        engine.submit(request)
    while engine.busy:
        yield from engine.step()


def _limit(model: Decoder, request: Request) -> int:
    """Tokens of prompt and answer at most."""
    length, limit = len(request.prompt) + request.sampling.max_new_tokens, model.position_limit
    return length if limit is None else min(length, limit)
