"""Byte-pair merging of many short words at once: in every round each word makes its best merge.

The result is the one that `tokenizers` gives: the merge of the lowest rank first, of equal ones the leftmost. Words are
rows of a matrix, so a round costs a few array operations however many words there are.
"""

from collections.abc import Sequence

import numpy as np

from inkstone.tokenizer.pattern import UNICODE
from inkstone.tokenizer.table import Slots

_NEVER = np.iinfo(np.int32).max
_WIDTHS = (4, 8, 16, 32, 64)
LONGEST = _WIDTHS[-1]


class Merger:
    """The merges of a vocabulary as a table from two ids to a rank and the id of the piece they make."""

    def __init__(self, vocabulary: dict[str, int], merges: Sequence[Sequence[str]]) -> None:
        pairs = np.array([[vocabulary[left], vocabulary[right]] for left, right in merges], dtype=np.int64).reshape(
            -1, 2
        )
        made = np.array([vocabulary[left + right] for left, right in merges], dtype=np.int32)
        keys, last = np.unique(
            _key(pairs[::-1, 0], pairs[::-1, 1]), return_index=True
        )  # of equal pairs the last counts
        ranks = len(merges) - 1 - last
        self._slots = Slots(max(4, (4 * len(keys)).bit_length()))
        self._ranks = np.full(self._slots.capacity, _NEVER, dtype=np.int32)
        self._made = np.zeros(self._slots.capacity, dtype=np.int32)
        slots = self._slots.insert(keys)
        self._ranks[slots], self._made[slots] = ranks, made[ranks]
        self.single = np.full(UNICODE, -1, dtype=np.int32)  # id of every character that is a piece, or -1
        for piece, token in vocabulary.items():
            if len(piece) == 1:
                self.single[ord(piece)] = token

    def merge(
        self, symbols: np.ndarray, lengths: np.ndarray, dropout: float = 0.0, draws: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all words, flat, and how many each word has.

        `symbols` holds the words' characters as ids, one after the other; a word has 1 to `LONGEST` of them. With
        `dropout` every possible merge is passed over with that chance in each round (BPE-dropout); a word for which all
        are passed over is finished.
        """
        starts = np.cumsum(lengths) - lengths
        counts = lengths.copy()
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        narrower = 0
        for width in _WIDTHS:
            rows = np.flatnonzero((lengths > narrower) & (lengths <= width))
            narrower = width
            if len(rows):
                columns = np.arange(width)
                inside = columns < lengths[rows, None]
                table = np.where(inside, symbols[np.where(inside, starts[rows, None] + columns, 0)], -1)
                counts[rows] = self._rounds(table, lengths[rows], dropout, draws)
                parts.append((rows, table))
        flat = np.zeros(int(counts.sum()), dtype=np.int32)
        places = np.cumsum(counts) - counts
        for rows, table in parts:
            inside = np.arange(table.shape[1]) < counts[rows, None]
            flat[(places[rows, None] + np.arange(table.shape[1]))[inside]] = table[inside]
        return flat, counts

    def _rounds(
        self, table: np.ndarray, lengths: np.ndarray, dropout: float, draws: np.random.Generator | None
    ) -> np.ndarray:
        """Merge every row of `table` [words, width] in place, padding with -1 at the end; returns the new lengths."""
        lengths = lengths.copy()
        ranks, made = self._look_up(table[:, :-1], table[:, 1:])
        rows = np.arange(len(table))
        columns = np.arange(table.shape[1])
        while True:
            offered = ranks if draws is None else np.where(draws.random(ranks.shape) < dropout, _NEVER, ranks)
            at = offered.argmin(axis=1)
            here = np.arange(len(rows))
            active = offered[here, at] != _NEVER
            if not active.all():
                rows, ranks, made, at = rows[active], ranks[active], made[active], at[active]
                here = here[: len(rows)]
            if not len(rows):
                return lengths
            joined = made[here, at]
            source = np.minimum(columns + (columns > at[:, None]), table.shape[1] - 1)
            words = np.take_along_axis(table[rows], source, axis=1)
            words[:, -1] = -1
            words[here, at] = joined
            table[rows] = words
            lengths[rows] -= 1
            kept = source[:, :-1].clip(max=ranks.shape[1] - 1)
            ranks, made = np.take_along_axis(ranks, kept, axis=1), np.take_along_axis(made, kept, axis=1)
            ranks[:, -1] = _NEVER
            for left in (at - 1, at):
                fine = np.flatnonzero((left >= 0) & (left < ranks.shape[1]))
                place = left[fine]
                ranks[fine, place], made[fine, place] = self._look_up(words[fine, place], words[fine, place + 1])

    def _look_up(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slots = self._slots.find(_key(left, right).reshape(-1)).reshape(left.shape)
        return self._ranks[slots], self._made[slots]


def _key(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """An odd 64-bit key for two ids; -1 (no symbol) is in no merge."""
    return (
        ((left.astype(np.int64) + 1).astype(np.uint64) << np.uint64(33))
        | ((right.astype(np.int64) + 1).astype(np.uint64) << np.uint64(1))
        | np.uint64(1)
    )
