"""Who holds which block of the pool, and which blocks keep a beginning that the next prompt may share.

A full block is known by the block before it and its 16 tokens, so what is found again is the same text from its first
token on. A block that nobody holds keeps what it knows until it is the least recently used one and is needed.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from inkstone.model import BLOCK, BlockPool, CacheContext, Decoder, Span

_Key = tuple[int, tuple[int, ...]]
"""The serial of the block before it, and the block's tokens."""


def blocks_for(tokens: int) -> int:
    """How many blocks hold that many tokens."""
    return -(-tokens // BLOCK)


def hidden_of(model: Decoder, pool: BlockPool, tokens: Sequence[list[int]], spans: Sequence[Span]) -> Tensor:
    """Hidden states [N, D] of the new `tokens` of each span, laid end to end; the pool keeps their keys and values."""
    context = CacheContext(pool, spans)
    tokens_N = torch.tensor(list(itertools.chain(*tokens)), device=model.device)
    return model.hidden(tokens_N.view_as(context.positions_BT), context).flatten(0, 1)


class Blocks:
    """`count` blocks, all empty at first."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._holders = [0] * count
        # When a block was last held: 0 where it knows nothing, infinite while somebody holds it.
        self._stamps = np.zeros(count)
        self._known: dict[_Key | None, tuple[int, int]] = {}
        self._key_of: dict[int, _Key] = {}
        self._clock, self._serial = itertools.count(1), itertools.count(1)

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return int(np.isfinite(self._stamps).sum())

    def match(self, tokens: Sequence[int]) -> tuple[list[int], int]:
        """Hold the blocks that know the beginning of `tokens`, short of its last one; and the serial of the last block.

        Serials, unlike numbers of blocks, are never used again, so what follows a forgotten block is not found.
        """
        found: list[int] = []
        serial = 0
        while (start := len(found) * BLOCK) + BLOCK < len(tokens):
            entry = self._known.get((serial, tuple(tokens[start : start + BLOCK])))
            if entry is None:
                break
            found.append(entry[0])
            serial = entry[1]
        return self._hold(found), serial

    def learn(self, block: int, serial: int, tokens: Sequence[int]) -> int:
        """A held block knows `tokens` after the block of that serial: its own serial, or that of one that knew them."""
        key = (serial, tuple(tokens))
        if key not in self._known:
            self._known[key] = (block, next(self._serial))
            self._key_of[block] = key
        return self._known[key][1]

    def take(self, count: int, first: int | None = None) -> list[int]:
        """Hold `count` blocks, which must be free: from `first` on or side by side if possible; else the oldest."""
        free = np.isfinite(self._stamps)
        taken, age = (np.append(0, values.cumsum()) for values in (~free, np.where(free, self._stamps, 0)))
        chosen = np.argsort(self._stamps, kind="stable")[:count]
        starts = np.flatnonzero(taken[count:] == taken[: len(taken) - count])
        if len(starts):
            chosen = starts[np.argmin(age[starts + count] - age[starts])] + np.arange(count)
        if first is not None and free[first : first + count].sum() == count:
            chosen = first + np.arange(count)
        for block in chosen.tolist():
            self._known.pop(self._key_of.pop(block, None), None)
        return self._hold(chosen.tolist())

    def release(self, blocks: Sequence[int]) -> None:
        """Hold no longer. Of what is known, the end of a text is forgotten before its beginning."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if not self._holders[block]:
                self._stamps[block] = next(self._clock) if block in self._key_of else 0

    def forget_all(self) -> None:
        """Nothing is known any more; who holds what stays."""
        self._known, self._key_of = {}, {}
        self._stamps[np.isfinite(self._stamps)] = 0

    def _hold(self, blocks: list[int]) -> list[int]:
        for block in blocks:
            self._holders[block] += 1
            self._stamps[block] = np.inf
        return blocks
