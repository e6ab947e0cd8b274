"""Log-probabilities of given continuations: what every likelihood benchmark asks.

Requests are sorted by their tokens, so neighbours in a batch share the longest prefix; that prefix (few-shot examples,
usually most of the prompt) is computed once and its keys and values are shared by the whole batch. Only the positions
that predict a continuation meet the output head, and log-softmax runs in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from inkstone.errors import InputError
from inkstone.model import CacheContext, Decoder, KVCache
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
) -> list[Scored]:
    """Score each (context ids, continuation ids), in order.

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
    order = sorted(range(len(requests)), key=lambda i: (*requests[i][0], *requests[i][1]))
    results: list[Scored | None] = [None] * len(requests)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        for index, scored in zip(chosen, _score_batch(model, [requests[i] for i in chosen]), strict=True):
            results[index] = scored
        if progress:
            progress.advance(start + len(chosen), len(order), "requests")
    return [result for result in results if result is not None]


@torch.inference_mode()
def next_token_logprobs(model: Decoder, contexts: Sequence[list[int]], batch: int = 64) -> Tensor:
    """log p(next token | context) for each context: [N, V] float32.

    Raises InputError when a context is empty or exceeds the model's positions.
    """
    for index, context in enumerate(contexts):
        limit = model.config.position_limit
        if not context or (limit is not None and len(context) > limit):
            raise InputError(f"context {index} has {len(context)} tokens; the model takes 1 to {limit or 'any number'}")
    order = sorted(range(len(contexts)), key=lambda i: contexts[i])
    table = torch.empty(len(contexts), model.config.vocab_size, device=model.device)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        hidden, first = _hidden_after_shared_prefix(model, [contexts[i] for i in chosen])
        for row, index in enumerate(chosen):
            logits_V = model.lm_head(hidden[row, len(contexts[index]) - 1 - first])
            table[index] = logits_V.float().log_softmax(-1)
    return table


@torch.inference_mode()
def _score_batch(model: Decoder, requests: list[tuple[list[int], list[int]]]) -> list[Scored]:
    # The last token predicts nothing, so it is not fed.
    sequences = [(context + continuation)[:-1] for context, continuation in requests]
    shared_limit = min(len(context) for context, _ in requests) - 1
    hidden, first = _hidden_after_shared_prefix(model, sequences, shared_limit)
    results = []
    for row, (context, continuation) in enumerate(requests):
        start = len(context) - 1 - first
        logits_TV = model.lm_head(hidden[row, start : start + len(continuation)]).float()
        target = torch.tensor(continuation, device=logits_TV.device)
        logprob = logits_TV.log_softmax(-1).gather(1, target[:, None]).sum()
        results.append(Scored(float(logprob), bool((logits_TV.argmax(-1) == target).all()), len(continuation)))
    return results


def _hidden_after_shared_prefix(
    model: Decoder, sequences: list[list[int]], limit: int | None = None
) -> tuple[Tensor, int]:
    """Hidden states [B, T, D] of everything after the sequences' common prefix, and that prefix's length.

    At least one token of each sequence is left to compute; rows are padded on the right, which no real token sees.
    """
    device = model.device
    if model.config.angles_depend_on_length and max(map(len, sequences)) > model.config.max_positions:
        # Neither a prefix nor padding may be shared where angles follow from each sequence's own length.
        alone = [model.hidden(torch.tensor([sequence], device=device))[0] for sequence in sequences]
        return pad_sequence(alone, batch_first=True), 0
    prefix = _common_prefix(sequences, min(min(map(len, sequences)) - 1, limit if limit is not None else 1 << 60))
    cache = KVCache(model.config, len(sequences), max(map(len, sequences)), model.dtype, device)
    if prefix:
        positions = torch.arange(prefix, device=device)[None]
        shared = torch.tensor([sequences[0][:prefix]], device=device)
        model.hidden(shared, CacheContext(cache, positions, slice(0, 1)))
        cache.share_first_row(prefix)
    longest = max(map(len, sequences)) - prefix
    tokens = torch.zeros(len(sequences), longest, dtype=torch.long, device=device)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence) - prefix] = torch.tensor(sequence[prefix:], device=device)
    positions = torch.arange(prefix, prefix + longest, device=device).expand(len(sequences), longest)
    return model.hidden(tokens, CacheContext(cache, positions)), prefix


def _common_prefix(sequences: list[list[int]], limit: int) -> int:
    """Length of the longest common prefix, at most `limit`."""
    # The smallest and the largest sequence differ first where any two do.
    low, high = min(sequences), max(sequences)
    length = 0
    while length < limit and low[length] == high[length]:
        length += 1
    return length
