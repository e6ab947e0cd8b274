"""Duplicate documents: equal ones by hash, nearly equal ones by MinHash with banding, each match verified.

`signatures` describes a batch; rows that share a band key (`band_keys`) are compared by `matches`, which may run on any
part of the keys, so partitions can be worked on apart; `resolve` then decides over all matches. The first document in
order stays; a later one goes only if its signature agrees with the very document it is said to repeat, so likeness is
not passed on along chains. Documents shorter than one shingle are compared by hash alone.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from inkstone.corpus.judge.kernel import F64, I64, U32, U64, Mask, Tokens, mix, ngram_hashes, run_heads
from inkstone.corpus.settings import DedupSettings

_CHUNK = 8_192  # shingles worked on at a time, so that they stay in the processor's cache
_AT_ONCE = 65_536  # matches that are Python objects at a time
_MAX_ROUNDS = 64  # unlike representatives a bucket may have: keeps a bucket of boilerplate from being quadratic


@dataclass(frozen=True)
class Signatures:
    """One row per document: hash of all its tokens, MinHash values, and whether it is long enough to have them."""

    exact: U64
    minhash: U32  # [documents, bands * rows]
    has_shingles: Mask

    def take(self, rows: I64) -> "Signatures":
        """Some of the rows."""
        return Signatures(self.exact[rows], self.minhash[rows], self.has_shingles[rows])


def signatures(tokens: Tokens, settings: DedupSettings) -> Signatures:
    """Describe the documents of a batch."""
    exact = tokens.span_hashes(tokens.offsets[:-1], tokens.offsets[1:])
    has = np.diff(tokens.offsets) >= settings.shingle_tokens
    width = settings.bands * settings.rows
    minhash = np.zeros((len(exact), width), np.uint32)
    if settings.near and has.any():
        shingles, offsets = ngram_hashes(tokens, settings.shingle_tokens)
        minhash[has] = _minhash(shingles, offsets[:-1][has], _hash_functions(settings))
    return Signatures(exact, minhash, has)


def _hash_functions(settings: DedupSettings) -> U32:
    """Odd factors of x * a modulo 2^32. A summand would add nothing: the shingles are mixed already."""
    draw = np.random.default_rng(settings.seed)
    return draw.integers(0, 1 << 31, settings.bands * settings.rows, np.uint32) * np.uint32(2) + np.uint32(1)


def _minhash(shingles: U64, starts: I64, factors: U32) -> U32:
    """Smallest value of every hash function over each document's shingles (their upper 32 bits)."""
    halves = (shingles >> np.uint64(32)).astype(np.uint32)
    result = np.empty((len(starts), len(factors)), np.uint32)
    ends = np.append(starts[1:], len(shingles))
    row = 0
    while row < len(starts):
        last = max(row + 1, int(np.searchsorted(ends, starts[row] + _CHUNK, side="right")))
        values = halves[starts[row] : ends[last - 1]]
        local = starts[row:last] - starts[row]
        work = np.empty_like(values)
        for k in range(len(factors)):
            np.multiply(values, factors[k], out=work)
            result[row:last, k] = np.minimum.reduceat(work, local)
        row = last
    return result


def band_keys(minhash: U32, settings: DedupSettings) -> U64:
    """One key per document and band, [documents, bands]; documents alike in a band share its key."""
    keys = np.empty((len(minhash), settings.bands), np.uint64)
    for band in range(settings.bands):
        key = np.full(len(minhash), band, np.uint64)
        for column in range(band * settings.rows, (band + 1) * settings.rows):
            key = mix(key ^ minhash[:, column])
        keys[:, band] = key
    return keys


@dataclass(frozen=True)
class Matches:
    """Pairs of documents, by rank: `later` repeats `earlier`; agreement 2 says that they are equal."""

    later: I64
    earlier: I64
    agreement: F64

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """All pairs once, ordered by the later document, equal ones first, then by agreement."""
        later, earlier = (np.concatenate([np.zeros(0, np.int64), *(getattr(p, n) for p in parts)])
                          for n in ("later", "earlier"))  # fmt: skip
        agreement = np.concatenate([np.zeros(0), *(part.agreement for part in parts)])
        order = np.lexsort((earlier, -agreement, later))
        later, earlier, agreement = later[order], earlier[order], agreement[order]
        first = run_heads(later, earlier)
        return cls(later[first], earlier[first], agreement[first])

    def only(self, which: Mask) -> "Matches":
        """Some of the pairs."""
        return Matches(self.later[which], self.earlier[which], self.agreement[which])


EQUAL = 2.0


def equals(keys: U64, ranks: I64) -> Matches:
    """Every document with the first one that has the same hash."""
    order = np.lexsort((ranks, keys))
    keys, ranks = keys[order], ranks[order]
    first = run_heads(keys)
    original = ranks[np.maximum.accumulate(np.where(first, np.arange(len(keys)), 0))]
    return Matches(ranks[~first], original[~first], np.full(int((~first).sum()), EQUAL))


def matches(keys: U64, ranks: I64, agreement: Callable[[I64, I64], F64], minimum: float) -> Matches:
    """Documents that share a key with an earlier one and agree with it in at least `minimum` of their signature.

    Each bucket is compared with its first document, those that agree leave it, and so on with the next first: a
    document is compared with representatives, not with every other.
    """
    order = np.lexsort((ranks, keys))
    keys, ranks = keys[order], ranks[order]
    found: list[Matches] = []
    for _ in range(_MAX_ROUNDS):
        crowded = np.zeros(len(keys), bool)
        same = keys[1:] == keys[:-1]
        crowded[1:] |= same
        crowded[:-1] |= same
        keys, ranks = keys[crowded], ranks[crowded]
        if not len(keys):
            break
        first = run_heads(keys)
        representative = ranks[np.maximum.accumulate(np.where(first, np.arange(len(keys)), 0))]
        later, earlier, inverse = _distinct(ranks[~first], representative[~first])
        score = agreement(later, earlier)
        alike = score >= minimum
        found.append(Matches(later[alike], earlier[alike], score[alike]))
        stays = ~first
        stays[~first] = ~alike[inverse]
        keys, ranks = keys[stays], ranks[stays]
    return Matches.joined(found)


def _distinct(one: I64, other: I64) -> tuple[I64, I64, I64]:
    """Pairs without repeats, and for every pair given its place among them."""
    order = np.lexsort((other, one))
    ordered, beside = one[order], other[order]
    new = run_heads(ordered, beside)
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.cumsum(new) - 1
    return ordered[new], beside[new], inverse


@dataclass(frozen=True)
class Duplicates:
    """The documents that go, by rank in order: which one stays instead, how much alike (1: equal), how it was found."""

    rank: I64
    of: I64
    similarity: F64
    near: Mask


def resolve(found: Matches) -> Duplicates:
    """Go through the documents in order (as `Matches.joined` leaves them); one goes if it matches one that stays."""
    rank, of, similarity, near = array("q"), array("q"), array("d"), array("b")  # 25 bytes a document that goes
    for start in range(0, len(found.later), _AT_ONCE):
        columns = (
            getattr(found, name)[start : start + _AT_ONCE].tolist() for name in ("later", "earlier", "agreement")
        )
        for later, earlier, agreement in zip(*columns, strict=True):
            if rank and rank[-1] == later:
                continue
            place = bisect_left(rank, earlier)
            stays = place == len(rank) or rank[place] != earlier
            if not stays and agreement != EQUAL:
                continue
            rank.append(later)
            # Equal to a document that itself repeats another: both repeat that one.
            of.append(earlier if stays else of[place])
            similarity.append((1.0 if agreement == EQUAL else agreement) if stays else similarity[place])
            near.append(agreement != EQUAL if stays else near[place])
    return Duplicates(np.array(rank, np.int64), np.array(of, np.int64), np.array(similarity), np.array(near, bool))
