"""Continuous batching in one page: a fixed number of cache rows, a queue, and a loop of decode steps.

A waiting prompt is prefilled into a free row; every step then decodes one token for all busy rows; a row is free again
as soon as its request stops, so a short answer never waits for a long one. `generate` runs the loop to the end,
`stream` yields the tokens of a single request as they come.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.generate.sampler import SamplingSettings, choose
from inkstone.model import CacheContext, Decoder, KVCache

_PREFILL_TOKENS = 1024


@dataclass
class _Request:
    index: int
    prompt: list[int]
    limit: int
    generator: torch.Generator
    answer: list[int] = field(default_factory=list)


def generate(
    model: Decoder,
    prompts: Sequence[list[int]],
    sampling: SamplingSettings,
    stop_ids: set[int],
    rows: int = 32,
) -> list[list[int]]:
    """New token ids for each prompt, in order, without the stop token. At most `rows` are decoded together.

    Raises InputError when a prompt is empty or leaves no room in the model's positions.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    for index, token_id in _run(model, prompts, sampling, stop_ids, rows):
        answers[index].append(token_id)
    return answers


def stream(model: Decoder, prompt: list[int], sampling: SamplingSettings, stop_ids: set[int]) -> Iterator[int]:
    """The tokens of one request as they are decoded."""
    for _, token_id in _run(model, [prompt], sampling, stop_ids, 1):
        yield token_id


@torch.inference_mode()
def _run(
    model: Decoder, prompts: Sequence[list[int]], sampling: SamplingSettings, stop_ids: set[int], rows: int
) -> Iterator[tuple[int, int]]:
    if not prompts:
        return
    waiting = [_request(model, index, prompt, sampling) for index, prompt in enumerate(prompts)]
    rows = min(rows, len(waiting))
    length = max(len(request.prompt) + request.limit for request in waiting)
    cache = KVCache(model.config, rows, length, model.dtype, model.device)
    busy: list[_Request | None] = [None] * rows
    while waiting or any(busy):
        fresh: dict[int, Tensor] = {}
        for row in range(rows):
            if busy[row] is None and waiting:
                busy[row] = waiting.pop(0)
                fresh[row] = _prefill(model, cache, row, busy[row])
        logits = fresh or _decode(model, cache, busy)
        for row, logits_V in logits.items():
            request = busy[row]
            assert request is not None
            token_id = choose(logits_V, request.prompt + request.answer, sampling, request.generator)
            if token_id in stop_ids:
                busy[row] = None
                continue
            request.answer.append(token_id)
            yield request.index, token_id
            if len(request.answer) >= request.limit:
                busy[row] = None


def _request(model: Decoder, index: int, prompt: list[int], sampling: SamplingSettings) -> _Request:
    limit = model.config.position_limit
    room = sampling.max_new_tokens if limit is None else limit - len(prompt)
    if not prompt or room < 1:
        most = "any number" if limit is None else f"1 to {limit - 1}"
        raise InputError(
            f"prompt {index} has {len(prompt)} tokens; the model takes {most}: shorten it or start a new conversation"
        )
    generator = torch.Generator().manual_seed(sampling.seed + index)
    return _Request(index, prompt, min(sampling.max_new_tokens, room), generator)


def _prefill(model: Decoder, cache: KVCache, row: int, request: _Request | None) -> Tensor:
    """Logits [V] after the prompt, whose keys and values now fill the row; long prompts are taken in pieces."""
    assert request is not None
    tokens = torch.tensor([request.prompt], device=model.device)
    positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
    size = tokens.shape[1] if model.config.angles_depend_on_length else _PREFILL_TOKENS
    for piece, at in zip(tokens.split(size, 1), positions.split(size, 1), strict=True):
        hidden_BTD = model.hidden(piece, CacheContext(cache, at, slice(row, row + 1)))
    return model.lm_head(hidden_BTD[0, -1])


def _decode(model: Decoder, cache: KVCache, busy: list[_Request | None]) -> dict[int, Tensor]:
    """One step for every busy row: logits [V] after its last token. Idle rows rewrite their first slot, unread."""
    last = [request.answer[-1] if request else 0 for request in busy]
    position = [len(request.prompt) + len(request.answer) - 1 if request else 0 for request in busy]
    device = model.device
    context = CacheContext(cache, torch.tensor(position, device=device)[:, None])
    logits_BV = model(torch.tensor(last, device=device)[:, None], context)[:, -1]
    return {row: logits_BV[row] for row, request in enumerate(busy) if request}
