"""Words that were met and their ids, found by hash for whole batches at once.

    found = remembered.find([hashes])                # several arrays of hashes
    remembered.add(found, ids, lengths)              # the ids of the words found.where, one word after the other
    ids, lengths = remembered.ids(found.slots[0])    # of all words of the first array, in order

Memory is bounded: when half of the slots are taken everything is forgotten and learned again as it comes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inkstone.tokenizer.bpe.table import Slots

_SLOT_BITS = 21
_LENGTH_BITS = 20  # of a word's entry; the rest says where its ids begin


@dataclass(frozen=True)
class Found:
    """Where the words of some arrays are remembered, and the words that are not yet."""

    slots: list[np.ndarray]  # int64, for every array one per word; of an unknown word only after `add`
    fresh: np.ndarray  # the different hashes that are unknown, in the order of `where`
    where: list[np.ndarray]  # for every array the indices of its words that stand for these
    _hashes: list[np.ndarray]
    _unknown: list[np.ndarray]  # for every array the indices of all its unknown words


class Remembered:
    """A hash table from words to places in one long array of ids."""

    def __init__(self) -> None:
        self._slots = Slots(_SLOT_BITS)
        self._entries = np.zeros(self._slots.capacity, dtype=np.int64)  # by slot: where its ids begin, how many
        self._ids = np.zeros(1 << 16, dtype=np.int32)
        self._filled = 0

    def find(self, hashes: Sequence[np.ndarray]) -> Found:
        """Look all words up. Room is made for the unknown ones, if need be by forgetting all others."""
        odd = [own | np.uint64(1) for own in hashes]  # never 0, which means an empty slot
        found = self._find(odd)
        if 2 * (self._slots.used + len(found.fresh)) > self._slots.capacity:
            self._forget(_SLOT_BITS)
            found = self._find(odd)
            if 2 * len(found.fresh) > self._slots.capacity:
                self._forget((2 * len(found.fresh)).bit_length())
        return found

    def add(self, found: Found, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Remember the ids of the words `found.where`; the next lengths[i] of `ids` are word i's."""
        places = self._filled + np.cumsum(lengths) - lengths
        self._entries[self._slots.insert(found.fresh)] = (places << _LENGTH_BITS) | lengths
        if self._filled + len(ids) > len(self._ids):
            grown = np.zeros(len(self._ids) + 2 * len(ids), dtype=np.int32)
            grown[: self._filled] = self._ids[: self._filled]
            self._ids = grown
        self._ids[self._filled : self._filled + len(ids)] = ids
        self._filled += len(ids)
        for slots, hashes, unknown in zip(found.slots, found._hashes, found._unknown, strict=True):
            slots[unknown] = self._slots.find(hashes[unknown])

    def ids(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ids of the words in these slots, one after the other, and how many each has."""
        entries = self._entries[slots]
        lengths = entries & ((1 << _LENGTH_BITS) - 1)
        lasts = np.cumsum(lengths)
        # the ids of word i are ids[place of i : place of i + lengths[i]]
        places = np.repeat((entries >> _LENGTH_BITS) - (lasts - lengths), lengths)
        places += np.arange(len(places))
        return self._ids[places], lengths

    def _find(self, hashes: list[np.ndarray]) -> Found:
        slots = [self._slots.find(own) for own in hashes]
        unknown = [np.flatnonzero(self._slots.keys[own] == 0) for own in slots]
        all_unknown = np.concatenate([own[which] for own, which in zip(hashes, unknown, strict=True)])
        _, firsts = np.unique(all_unknown, return_index=True)
        firsts.sort()
        ends = np.cumsum([len(which) for which in unknown])
        parts = np.split(firsts, np.searchsorted(firsts, ends[:-1]))
        begins = ends - [len(which) for which in unknown]
        where = [which[part - begin] for which, part, begin in zip(unknown, parts, begins, strict=True)]
        return Found(slots, all_unknown[firsts], where, hashes, unknown)

    def _forget(self, bits: int) -> None:
        self._slots = Slots(bits)
        self._entries = np.zeros(self._slots.capacity, dtype=np.int64)
        self._filled = 0
