"""Learn merges from counted words: byte-pair encoding as `tokenizers` does it, over arrays of positions.

The most frequent pair of neighbours becomes a piece, again and again; of equal pairs the one whose parts are older.
All occurrences of a pair are merged in a few array operations. What makes it fast is leaving out early what can never
matter: two characters that stand side by side fewer than `floor` times are never merged, nor is anything across them,
so words are cut there before they are counted, and most of the rare words fall apart into parts that others have too.
That the last merge learned is at least as frequent as `floor` is checked at the end; if not, it is lowered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from inkstone.tokenizer.bpe.table import Slots
from inkstone.tokenizer.bpe.words import Counter, Words

_NONE, _GONE = -1, -2
_BUCKET_BITS = 24
_GUESS = 1.5  # as many pairs of characters as this times the wanted pieces are followed at first
_WORDS = 200_000  # looked at together


@dataclass(frozen=True)
class Bounds:
    """When learning stops, and which pieces are not wanted."""

    pieces: int
    longest: int  # characters; longer pieces are never made
    min_frequency: int
    unwanted: Callable[[str], bool]  # learned, since other merges follow from it, but left out of the result


def learn_merges(words: Words, counts: np.ndarray, characters: list[str], bounds: Bounds) -> list[tuple[str, str]]:
    """Merges in order. `words.points` are places in `characters`; word i occurs counts[i] times, int64."""
    first, second, inside = _pairs(words)
    buckets = (first * np.uint32(0x9E3779B1) + second) * np.uint32(0x85EBCA77) >> np.uint32(32 - _BUCKET_BITS)
    # How often a pair occurs, or more where two pairs share a bucket: then a cut is missed, never a wrong one made.
    totals = np.bincount(buckets, weights=np.repeat(counts, np.diff(words.starts))[inside], minlength=1 << _BUCKET_BITS)
    floor = bounds.min_frequency
    followed = np.sort(totals[totals > floor])[::-1]
    if len(followed) > _GUESS * bounds.pieces:
        floor = int(followed[int(_GUESS * bounds.pieces)])
    while True:
        merges, complete = _learn(*_cut(words, counts, inside[totals[buckets] < floor] + 1), characters, bounds, floor)
        if complete or floor <= bounds.min_frequency:
            return merges
        floor = max(bounds.min_frequency, 2 * floor // 3)


def _pairs(words: Words) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left and right symbol of every two neighbours in a word, and the place of the left one."""
    ends = np.zeros(len(words.points), dtype=bool)
    ends[words.starts[1:] - 1] = True
    inside = np.flatnonzero(~ends)
    return words.points[inside], words.points[inside + 1], inside


def _cut(words: Words, counts: np.ndarray, places: np.ndarray) -> tuple[Words, np.ndarray]:
    """Words cut before `places`, each different one once, without those of one symbol."""
    begins = np.zeros(len(words.points), dtype=bool)
    begins[words.starts[:-1]] = begins[places] = True
    starts = np.append(np.flatnonzero(begins), len(words.points))
    weights = np.repeat(counts, np.diff(words.starts))[starts[:-1]]
    long = np.flatnonzero(np.diff(starts) > 1)
    counter = Counter()
    for first in range(0, len(long), _WORDS):
        points, lengths = Words(words.points, starts, words.documents).chosen(long[first : first + _WORDS])
        part = Words(points, np.append(0, np.cumsum(lengths)), words.documents)
        counter.add(part, weights[long[first : first + _WORDS]])
    return counter.result()


def _learn(
    words: Words, counts: np.ndarray, characters: list[str], bounds: Bounds, floor: int
) -> tuple[list[tuple[str, str]], bool]:
    """Merges of pairs that occur at least `floor` times, and whether they gave all the pieces wanted."""
    chain = _Chain(words, counts, floor)
    names = list(characters)
    numbers = {name: number for number, name in enumerate(names)}
    merges: list[tuple[str, str]] = []
    pieces: set[str] = set()
    while (best := chain.best()) is not None:
        left, right = best
        name = names[left] + names[right]
        wanted = not bounds.unwanted(name)
        if wanted and name not in pieces and len(pieces) == bounds.pieces:
            return merges, True
        number = numbers.setdefault(name, len(names))
        if number == len(names):
            names.append(name)
            chain.lengths[number] = len(name)
        if wanted:
            pieces.add(name)
            merges.append((names[left], names[right]))
        chain.merge(left, right, number, bounds.longest)
    return merges, len(pieces) == bounds.pieces


class _Chain:
    """All words as one chain of symbols, how often each pair of neighbours occurs, and where."""

    def __init__(self, words: Words, counts: np.ndarray, floor: int) -> None:
        size = len(words.points)
        self.floor = floor
        # One place behind the last symbol stands for "nothing": what is before a word's first and after its last.
        self.symbols = np.append(words.points.astype(np.int64), _NONE)
        self.next = np.append(np.arange(1, size + 1), size).astype(np.int32)
        self.previous = np.append(np.arange(-1, size - 1), size).astype(np.int32)
        self.next[words.starts[1:] - 1] = size
        self.previous[words.starts[:-1]] = size
        self.weights = np.append(np.repeat(counts, np.diff(words.starts)), 0)
        self.chosen = np.zeros(size + 1, dtype=bool)
        self.lengths = np.ones(1 << 22, dtype=np.int32)  # characters of every symbol
        self.places: dict[int, list[np.ndarray]] = {}
        self.slot_of: dict[int, int] = {}
        self.heap: list[tuple[int, int]] = []
        first, second, inside = _pairs(words)
        self.table = Slots(16)
        self.counts = np.zeros(self.table.capacity, dtype=np.int64)
        self._add(first.astype(np.int64) << 32 | second.astype(np.int64), inside.astype(np.int32))

    def best(self) -> tuple[int, int] | None:
        """The most frequent pair; None when all are rarer than `floor`."""
        while self.heap:
            count, key = heappop(self.heap)
            now = int(self.counts[self.slot_of[key]])
            if now == -count:
                return key >> 32, key & 0xFFFFFFFF
            if now >= self.floor:
                heappush(self.heap, (-now, key))
        return None

    def merge(self, left: int, right: int, made: int, longest: int) -> None:
        """Join every occurrence of a pair into the symbol `made`, and count what its neighbours lose and gain."""
        key = left << 32 | right
        self.counts[self.slot_of[key]] = 0
        symbols, following = self.symbols, self.next
        found = self.places.pop(key)
        at = found[0] if len(found) == 1 else np.concatenate(found)
        at = at[(symbols[at] == left) & (symbols[following[at]] == right)]
        if left == right:
            at = _every_other(np.sort(at), following)
        second = following[at]
        after, before, weights = following[second], self.previous[at], self.weights[at]
        self.chosen[at] = True
        old_before, old_after = symbols[before], symbols[after]
        free = (old_after >= 0) & ~self.chosen[after]  # what follows is not itself joined: else it counts there
        self.chosen[at] = False
        led = old_before >= 0
        self._lose(np.concatenate([old_before[led] << 32 | left, right << 32 | old_after[free]]),
                   np.concatenate([weights[led], weights[free]]))  # fmt: skip
        symbols[at], symbols[second] = made, _GONE
        following[at] = after
        self.previous[after] = at
        before = self.previous[at]
        new_before = symbols[before]
        led = (new_before >= 0) & (self.lengths[new_before] + self.lengths[made] <= longest)
        free &= self.lengths[old_after] + self.lengths[made] <= longest
        self._add(np.concatenate([new_before[led] << 32 | made, made << 32 | old_after[free]]),
                  np.concatenate([before[led], at[free]]))  # fmt: skip

    def _lose(self, keys: np.ndarray, weights: np.ndarray) -> None:
        slots = self.table.find(_mixed(keys))
        np.subtract.at(self.counts, slots, weights)  # of a pair that is not followed this is an empty slot
        self.counts[slots[self.table.keys[slots] == 0]] = 0

    def _add(self, keys: np.ndarray, places: np.ndarray) -> None:
        """Follow the pairs of these occurrences that are frequent enough."""
        if not len(keys):
            return
        order = np.argsort(keys)
        keys, places = keys[order], places[order]
        begins = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        sums = np.add.reduceat(self.weights[places], begins)
        ends = np.append(begins[1:], len(keys))
        frequent = np.flatnonzero(sums >= self.floor)
        if not len(frequent):
            return
        begins, ends, sums = begins[frequent], ends[frequent], sums[frequent]
        fresh = keys[begins]
        slots = self.table.find(_mixed(fresh))
        absent = self.table.keys[slots] == 0
        if absent.any():
            if 2 * (self.table.used + len(fresh)) > self.table.capacity:
                self._grow(self.table.used + len(fresh))
            self.table.insert(_mixed(fresh[absent]))
            slots = self.table.find(_mixed(fresh))
        self.counts[slots] += sums
        for key, slot, start, end, count in zip(
            fresh.tolist(), slots.tolist(), begins.tolist(), ends.tolist(), self.counts[slots].tolist(), strict=True
        ):
            self.slot_of[key] = slot
            self.places.setdefault(key, []).append(places[start:end])
            heappush(self.heap, (-count, key))

    def _grow(self, used: int) -> None:
        old, counts = self.table, self.counts
        self.table = Slots((4 * used).bit_length())
        self.counts = np.zeros(self.table.capacity, dtype=np.int64)
        full = np.flatnonzero(old.keys)
        slots = self.table.insert(old.keys[full])
        self.counts[slots] = counts[full]
        moved = np.zeros(old.capacity, dtype=np.int64)
        moved[full] = slots
        self.slot_of = {key: int(moved[slot]) for key, slot in self.slot_of.items()}


def _every_other(at: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Of overlapping occurrences, as in "aaaa", the first, the third and so on."""
    if not len(at):
        return at
    chained = np.append(False, following[at[:-1]] == at[1:])
    heads = np.flatnonzero(~chained)
    rank = np.arange(len(at)) - np.repeat(heads, np.diff(np.append(heads, len(at))))
    return at[rank % 2 == 0]


def _mixed(keys: np.ndarray) -> np.ndarray:
    """Keys as the table wants them: never 0."""
    return keys.astype(np.uint64) + np.uint64(1)
