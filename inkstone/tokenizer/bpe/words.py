"""A batch of documents as one flat array of code points, cut into words that are hashed without a Python loop.

Counting words for training and looking words up for encoding both start here. A word's hash is 64 bits of its code
points alone, so equal words have equal hashes wherever they stand; that two of a billion different words share one has
a chance of one in forty.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from inkstone.tokenizer.bpe.pattern import borders, pre_tokenizer
from inkstone.tokenizer.bpe.table import Slots

T = TypeVar("T")
BLOCK_CHARACTERS = 1 << 18
_BASE = 0x9E3779B97F4A7C15
_SPREAD = np.uint64(0xD6E8FEB86659FD93)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True)
class Words:
    """Words of a block: word i is points[starts[i]:starts[i + 1]]; document d begins with word documents[d]."""

    points: np.ndarray  # uint32 [characters]
    starts: np.ndarray  # int64 [words + 1]
    documents: np.ndarray  # int64 [documents + 1]

    def hashes(self) -> np.ndarray:
        """uint64 [words]."""
        first, last = int(self.starts[0]), int(self.starts[-1])
        if first == last:
            return np.zeros(0, dtype=np.uint64)
        values = (self.points[first:last].astype(np.uint64) + np.uint64(1)) * _SPREAD
        values ^= values >> np.uint64(32)
        up, down = _powers(1 << (len(values) - 1).bit_length())
        values *= up[: len(values)]
        begins = self.starts[:-1] - first
        np.cumsum(values, out=values)  # wraps round, and so do the differences: nothing is lost
        sums = np.diff(values[np.append(begins[1:], len(values)) - 1], prepend=np.uint64(0)) * down[begins]
        sums ^= sums >> np.uint64(29)
        sums *= _MIX
        return sums ^ (sums >> np.uint64(32))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def chosen(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The code points of some words, one after the other, and how many each has."""
        lengths = np.diff(self.starts)[which]
        before = np.cumsum(lengths) - lengths
        return self.points[np.repeat(self.starts[which] - before, lengths) + np.arange(lengths.sum())], lengths


def code_points(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """All characters of `texts` as uint32, and where each text begins, with the end: int64 [texts + 1].

    Raises UnicodeEncodeError on a lone surrogate.
    """
    points = np.frombuffer("".join(texts).encode("utf-32-le"), dtype="<u4")
    starts = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)), out=starts[1:])
    return points, starts


def cut(points: np.ndarray, starts: np.ndarray, longest: int | None = None) -> np.ndarray:
    """Where the pattern's pieces begin: bool [points]. No piece is longer than `longest` characters."""
    if not len(points):
        return np.zeros(0, dtype=bool)
    begins, left = borders(points, starts[:-1])
    for document in np.flatnonzero(left):
        first, last = int(starts[document]), int(starts[document + 1])
        begins[first:last] = False
        for _, (start, _) in pre_tokenizer().pre_tokenize_str(points[first:last].tobytes().decode("utf-32-le")):
            begins[first + start] = True
    if longest is not None:
        ends = np.append(np.flatnonzero(begins), len(points))
        for word in np.flatnonzero(np.diff(ends) > longest):
            begins[ends[word] : ends[word + 1] : longest] = True
    return begins


def words_of(points: np.ndarray, begins: np.ndarray, starts: np.ndarray) -> Words:
    """The words between the marked beginnings; every document's first character must be marked."""
    firsts = np.flatnonzero(begins)
    return Words(points, np.append(firsts, len(points)), np.searchsorted(firsts, starts))


def together(items: Iterable[T], size_of: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Lists of items of about `most` in all."""
    pending: list[T] = []
    size = 0
    for item in items:
        pending.append(item)
        size += size_of(item)
        if size >= most:
            yield pending
            pending, size = [], 0
    if pending:
        yield pending


@lru_cache(maxsize=4)
def _powers(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Powers of the base and of its inverse modulo 2^64."""
    both = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        powers = np.full(length, base, dtype=np.uint64)
        powers[0] = 1
        both.append(np.multiply.accumulate(powers))
    return both[0], both[1]


class Counter:
    """How often every different word was met, weighted; words are kept in the order in which they first came."""

    def __init__(self) -> None:
        self._slots = Slots(16)
        self._counts = np.zeros(self._slots.capacity, dtype=np.float64)
        self._order = np.zeros(self._slots.capacity, dtype=np.int64)
        self._points: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []

    def add(self, words: Words, weight: float | np.ndarray = 1.0) -> None:
        """Count the words of a block, each with its weight."""
        hashes = words.hashes() | np.uint64(1)
        slots = self._slots.find(hashes)
        missing = np.flatnonzero(self._slots.keys[slots] == 0)
        if len(missing):
            fresh, first = np.unique(hashes[missing], return_index=True)
            order = np.argsort(first)
            self._keep(words, fresh[order], missing[first[order]])
            slots = self._slots.find(hashes)
        np.add.at(self._counts, slots, weight)

    def result(self) -> tuple[Words, np.ndarray]:
        """The different words, and their counts rounded to int64, at least 1."""
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        full = np.flatnonzero(self._slots.keys)
        counts = np.zeros(len(full), dtype=np.int64)
        counts[self._order[full]] = np.maximum(1, np.rint(self._counts[full])).astype(np.int64)
        points = np.concatenate([np.zeros(0, np.uint32), *self._points])
        return Words(points, np.append(0, np.cumsum(lengths)), np.zeros(1, np.int64)), counts

    def _keep(self, words: Words, hashes: np.ndarray, which: np.ndarray) -> None:
        if 2 * (self._slots.used + len(hashes)) > self._slots.capacity:
            self._grow(self._slots.used + len(hashes))
        first = self._slots.used
        slots = self._slots.insert(hashes)
        self._order[slots] = np.arange(first, first + len(hashes))
        points, lengths = words.chosen(which)
        self._points.append(points)
        self._lengths.append(lengths)

    def _grow(self, used: int) -> None:
        old, counts, order = self._slots, self._counts, self._order
        self._slots = Slots((4 * used).bit_length())
        self._counts = np.zeros(self._slots.capacity, dtype=np.float64)
        self._order = np.zeros(self._slots.capacity, dtype=np.int64)
        full = np.flatnonzero(old.keys)
        slots = self._slots.insert(old.keys[full])
        self._counts[slots], self._order[slots] = counts[full], order[full]
