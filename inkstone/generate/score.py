"""Log-probabilities of given continuations: what every likelihood benchmark asks.

Requests are sorted by their tokens, so neighbours in a batch share the longest prefix; that prefix (few-shot examples,
usually most of the prompt) is computed once and its keys and values are shared by the whole batch. Only the positions
that predict a continuation meet the output head, and log-softmax runs in float32.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.generate.blocks import blocks_for, hidden_of
from inkstone.model import BLOCK, BlockPool, Decoder, Span


@dataclass(frozen=True)
class Scored:
    """`logprob`: sum of natural-log probabilities of the continuation's `tokens` tokens; `greedy`: each was argmax."""

    logprob: float
    greedy: bool
    tokens: int


@torch.inference_mode()
def score(model: Decoder, requests: Sequence[tuple[list[int], list[int]]], batch: int = 64) -> list[Scored]:
    """Score each (context ids, continuation ids), in order.

    Raises InputError when a context or continuation is empty or the pair exceeds the model's positions: what to cut
    is the caller's decision.
    """
    limit, vocab = model.position_limit, model.known_ids or model.config.vocab_size
    for index, (context, continuation) in enumerate(requests):
        if not context or not continuation:
            raise InputError(f"request {index}: context and continuation need at least one token each")
        length = len(context) + len(continuation)
        if limit is not None and length > limit:
            raise InputError(f"request {index} has {length} tokens, more than the model's {limit} positions")
        if max(continuation) >= vocab:
            raise InputError(f"request {index}: the continuation holds ids that the tokenizer lacks")
    # The last token predicts nothing, so it is not fed.
    sequences = [(context + continuation)[:-1] for context, continuation in requests]
    results: dict[int, Scored] = {}
    for index, hidden_TD in _hidden_ends(model, sequences, [len(one) for _, one in requests], batch):
        logits_TV = model.lm_head(hidden_TD)[:, :vocab].float()
        target = torch.tensor(requests[index][1], device=logits_TV.device)
        logprob = logits_TV.log_softmax(-1).gather(1, target[:, None]).sum()
        results[index] = Scored(float(logprob), bool((logits_TV.argmax(-1) == target).all()), len(target))
    return [results[index] for index in range(len(requests))]


def _hidden_ends(
    model: Decoder, sequences: Sequence[list[int]], counts: Sequence[int], batch: int
) -> Iterator[tuple[int, Tensor]]:
    """(index, hidden states [T, D] of the last `counts[index]` tokens) of each sequence, `batch` of them at a time."""
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        limit = min(len(sequences[index]) - counts[index] for index in chosen)
        hidden = _hidden_after_shared_prefix(model, [sequences[index] for index in chosen], limit)
        yield from ((index, hidden_TD[-counts[index] :]) for index, hidden_TD in zip(chosen, hidden, strict=True))


def _hidden_after_shared_prefix(model: Decoder, sequences: list[list[int]], limit: int) -> Sequence[Tensor]:
    """Hidden states [T, D] of each sequence after their common prefix of at most `limit` tokens.

    Everybody reads the prefix's blocks; the one that it fills only in part is copied to where each goes on.
    """
    if model.config.angles_depend_on_length and max(map(len, sequences)) > model.config.max_positions:
        # Nothing may be shared where angles follow from each sequence's own length.
        return [model.hidden(torch.tensor([sequence], device=model.device))[0] for sequence in sequences]
    prefix = min(common_prefix(sequences), limit)
    whole, first = prefix // BLOCK, blocks_for(prefix)
    numbers = itertools.count(first)
    rows = [[*range(whole), *itertools.islice(numbers, blocks_for(len(one)) - whole)] for one in sequences]
    pool = BlockPool(model.config.num_layers, next(numbers), model.device)
    if prefix:
        hidden_of(model, pool, [sequences[0][:prefix]], [Span(range(first), 0, prefix)])
    if first > whole:
        pool.copy(whole, [row[whole] for row in rows])
    spans = [Span(row, prefix, len(one) - prefix) for row, one in zip(rows, sequences, strict=True)]
    hidden_ND = hidden_of(model, pool, [one[prefix:] for one in sequences], spans)
    return hidden_ND.split([span.count for span in spans])


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """How many leading tokens all sequences share."""
    shortest, longest = min(sequences), max(sequences)  # the extremes in dictionary order differ first
    pairs = enumerate(zip(shortest, longest, strict=False))
    return next((length for length, (one, other) in pairs if one != other), min(len(shortest), len(longest)))
