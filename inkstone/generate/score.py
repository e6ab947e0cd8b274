"""Log-probabilities of given continuations: what every likelihood benchmark asks.

Requests are sorted by their tokens, so neighbours in a batch share the longest prefix; that prefix (few-shot examples,
usually most of the prompt) is computed once and its keys and values are shared by the whole batch. Only the positions
that predict a continuation meet the output head, and log-softmax runs in float32.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.generate.blocks import blocks_for
from inkstone.model import BLOCK, BlockPool, CacheContext, Decoder, Span
from inkstone.progress import Progress


@dataclass(frozen=True)
class Scored:
    """`logprob`: sum of natural-log probabilities of the continuation's `tokens` tokens; `greedy`: each was argmax."""

    logprob: float
    greedy: bool
    tokens: int


def score(
    model: Decoder,
    requests: Sequence[tuple[list[int], list[int]]],
    batch: int = 64,
    progress: Progress | None = None,
    vocab_size: int | None = None,
) -> list[Scored]:
    """Score each (context ids, continuation ids), in order, among the ids below `vocab_size` (default: the model's).

    Raises InputError when a context or continuation is empty or the pair exceeds the model's positions: what to cut
    is the caller's decision.
    """
    for index, (context, continuation) in enumerate(requests):
        if not context or not continuation:
            raise InputError(f"request {index}: context and continuation need at least one token each")
        limit = model.config.position_limit
        length = len(context) + len(continuation)
        if limit is not None and length > limit:
            raise InputError(f"request {index} has {length} tokens, more than the model's {limit} positions")
        if vocab_size is not None and max(continuation) >= vocab_size:
            raise InputError(f"request {index}: the continuation holds ids that the vocabulary of {vocab_size} lacks")
    order = sorted(range(len(requests)), key=lambda i: (*requests[i][0], *requests[i][1]))
    results: list[Scored | None] = [None] * len(requests)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        for index, scored in zip(chosen, _score_batch(model, [requests[i] for i in chosen], vocab_size), strict=True):
            results[index] = scored
        if progress:
            progress.advance(start + len(chosen), len(order), "requests")
    return [result for result in results if result is not None]


@torch.inference_mode()
def next_token_logprobs(
    model: Decoder, contexts: Sequence[list[int]], batch: int = 64, vocab_size: int | None = None
) -> Tensor:
    """log p(next token | context) for each context: [N, V] float32, V being `vocab_size` (default: the model's).

    Raises InputError when a context is empty or exceeds the model's positions.
    """
    for index, context in enumerate(contexts):
        limit = model.config.position_limit
        if not context or (limit is not None and len(context) > limit):
            raise InputError(f"context {index} has {len(context)} tokens; the model takes 1 to {limit or 'any number'}")
    order = sorted(range(len(contexts)), key=lambda i: contexts[i])
    table = torch.empty(len(contexts), vocab_size or model.config.vocab_size, device=model.device)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        hidden, _ = _hidden_after_shared_prefix(model, [contexts[i] for i in chosen])
        for row, index in enumerate(chosen):
            logits_V = model.lm_head(hidden[row][-1])[:vocab_size]
            table[index] = logits_V.float().log_softmax(-1)
    return table


@torch.inference_mode()
def _score_batch(model: Decoder, requests: list[tuple[list[int], list[int]]], vocab_size: int | None) -> list[Scored]:
    # The last token predicts nothing, so it is not fed.
    sequences = [(context + continuation)[:-1] for context, continuation in requests]
    shared_limit = min(len(context) for context, _ in requests) - 1
    hidden, first = _hidden_after_shared_prefix(model, sequences, shared_limit)
    results = []
    for row, (context, continuation) in enumerate(requests):
        start = len(context) - 1 - first
        logits_TV = model.lm_head(hidden[row][start : start + len(continuation)])[:, :vocab_size].float()
        target = torch.tensor(continuation, device=logits_TV.device)
        logprob = logits_TV.log_softmax(-1).gather(1, target[:, None]).sum()
        results.append(Scored(float(logprob), bool((logits_TV.argmax(-1) == target).all()), len(continuation)))
    return results


def _hidden_after_shared_prefix(
    model: Decoder, sequences: list[list[int]], limit: int | None = None
) -> tuple[list[Tensor], int]:
    """Hidden states [T, D] of each sequence after the common prefix, and that prefix's length.

    At least one token of each sequence is left to compute. Everybody reads the prefix's blocks; the one that it fills
    only in part is copied to where each goes on.
    """
    device = model.device
    if model.config.angles_depend_on_length and max(map(len, sequences)) > model.config.max_positions:
        # Nothing may be shared where angles follow from each sequence's own length.
        return [model.hidden(torch.tensor([sequence], device=device))[0] for sequence in sequences], 0
    prefix = _common_prefix(sequences, min(min(map(len, sequences)) - 1, limit if limit is not None else 1 << 60))
    whole = prefix // BLOCK
    numbers = itertools.count(blocks_for(prefix))
    rows = [[*range(whole), *itertools.islice(numbers, blocks_for(len(one)) - whole)] for one in sequences]
    pool = BlockPool(model.config.num_layers, next(numbers))
    if prefix:
        span = Span(range(blocks_for(prefix)), 0, prefix)
        model.hidden(torch.tensor([sequences[0][:prefix]], device=device), CacheContext(pool, [span], device))
        if prefix % BLOCK:
            pool.copy(whole, [row[whole] for row in rows])
    spans = [Span(row, prefix, len(one) - prefix) for row, one in zip(rows, sequences, strict=True)]
    context = CacheContext(pool, spans, device)
    tokens = torch.tensor([token for one in sequences for token in one[prefix:]], device=device)
    hidden_ND = model.hidden(tokens.view_as(context.positions_BT), context).flatten(0, 1)
    return list(hidden_ND.split([span.count for span in spans])), prefix


def _common_prefix(sequences: list[list[int]], limit: int) -> int:
    """Length of the longest common prefix, at most `limit`."""
    # The smallest and the largest sequence differ first where any two do.
    low, high = min(sequences), max(sequences)
    length = 0
    while length < limit and low[length] == high[length]:
        length += 1
    return length
