"""Guesses what a text goes on with: what a smaller model of the same vocabulary would say (Leviathan et al. 2023,
arXiv 2211.17192).

    opened = with_draft(opened, Path("small"))                    # refuses another vocabulary
    Engine(opened.model, tokens, lookup=4, draft=opened.draft)    # up to four tokens at a time

It keeps its own keys and values, in blocks of the same numbers as the model's, so that shared beginnings are shared
here too. It chooses with the very draws that the model will choose with: near distributions then choose alike, and a
sampled text is token by token that of plain decoding, which is more than having its distribution.
"""

from collections.abc import Mapping
from typing import Protocol, TypeVar

import numpy as np
from torch import Tensor

from inkstone.generate.blocks import hidden_of
from inkstone.generate.sampler import Choice, sample
from inkstone.model import BLOCK, BlockPool, Decoder, Span


class Guessed(Protocol):
    """A sequence of the engine: `cached` of its tokens are computed, `drafted` by the draft."""

    tokens: list[int]
    blocks: list[int]
    cached: int
    drafted: int

    def choice(self, known_ids: int, ahead: int = 0) -> Choice: ...


One = TypeVar("One", bound=Guessed)


class Draft:
    """The smaller model beside an engine with so many blocks."""

    def __init__(self, model: Decoder, blocks: int) -> None:
        self.model, self.pool = model, BlockPool(model.config.num_layers, blocks, model.device)
        self._filled = np.zeros(blocks, dtype=bool)

    def begin(self, one: Guessed, shared: int) -> None:
        """A request has its blocks, of which the first `shared` hold a known beginning: perhaps for the draft too."""
        self.forget(one.blocks[shared:])
        filled = self._filled[one.blocks]
        one.drafted = BLOCK * (len(filled) if filled.all() else int(filled.argmin()))

    def forget(self, blocks: list[int]) -> None:
        """They will hold something else."""
        self._filled[blocks] = False

    def guess(self, chosen: Mapping[One, int], rooms: Mapping[One, int]) -> dict[One, list[int]]:
        """As many tokens as there is room for after each; what is `chosen` of those is computed here as well."""
        found: dict[One, list[int]] = {one: [] for one in rooms}
        feed: dict[One, list[int]] = {}
        for one in rooms:
            one.drafted = min(one.drafted, len(one.tokens) - 1)  # guesses that were wrong
            feed[one] = one.tokens[one.drafted : one.cached + chosen[one]]
        while feed:
            logits_RV = self._forward(feed)
            going = [(row, one) for row, one in enumerate(feed) if len(found[one]) < rooms[one]]
            choices = [one.choice(logits_RV.shape[1], len(found[one])) for _, one in going]
            ids = sample(logits_RV[[row for row, _ in going]], choices).tolist() if going else []
            for (_, one), token in zip(going, ids, strict=True):
                found[one].append(token)
            feed = {one: found[one][-1:] for _, one in going if len(found[one]) < rooms[one]}
        for one in rooms:
            self._filled[one.blocks[: (one.cached + chosen[one]) // BLOCK]] = True
        return found

    def _forward(self, feed: Mapping[One, list[int]]) -> Tensor:
        """Logits [R, V] after the last token of each."""
        spans = [Span(one.blocks, one.drafted, len(new)) for one, new in feed.items()]
        hidden_ND = hidden_of(self.model, self.pool, list(feed.values()), spans)
        for one, new in feed.items():
            one.drafted += len(new)
        ends = np.cumsum([len(new) for new in feed.values()]) - 1
        logits_RV: Tensor = self.model.lm_head(hidden_ND[ends.tolist()])[:, : self.model.known_ids]
        return logits_RV
