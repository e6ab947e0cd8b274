"""Duplicate documents: equal ones by hash, nearly equal ones by MinHash with banding, each match verified.

`signatures` describes documents, `find_duplicates` decides over the whole corpus. The first document in order stays;
a later one goes only if its signature agrees with the very document it is said to repeat, so likeness is not passed on
along chains. Documents shorter than one shingle are compared by hash alone.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from inkstone.corpus.kernel import F64, I64, U32, U64, Mask, Tokens, hash_spans, mix, ngram_hashes
from inkstone.corpus.settings import DedupSettings

_CHUNK = 16_384  # shingles worked on at a time, so that they stay in the processor's cache
_MAX_KEPT_PER_BUCKET = 64
_CLOSE_COPY = 0.9


@dataclass(frozen=True)
class Signatures:
    """One row per document: hash of all its tokens, MinHash values, and whether it is long enough to have them."""

    exact: U64
    minhash: U32  # [documents, bands * rows]
    has_shingles: Mask

    def take(self, rows: I64) -> "Signatures":
        """Some of the rows."""
        return Signatures(self.exact[rows], self.minhash[rows], self.has_shingles[rows])

    def replace(self, rows: I64, other: "Signatures") -> "Signatures":
        """The same with `rows` taken from `other`, in its order."""
        changed = self.take(np.arange(len(self.exact)))
        changed.exact[rows], changed.minhash[rows], changed.has_shingles[rows] = (
            other.exact,
            other.minhash,
            other.has_shingles,
        )
        return changed


def signatures(tokens: Tokens, settings: DedupSettings) -> Signatures:
    """Describe the documents of a batch."""
    exact = hash_spans(tokens.hashes, tokens.offsets[:-1], tokens.offsets[1:])
    has = np.diff(tokens.offsets) >= settings.shingle_tokens
    width = settings.bands * settings.rows
    minhash = np.zeros((len(exact), width), np.uint32)
    if settings.near and has.any():
        shingles, offsets = ngram_hashes(tokens, settings.shingle_tokens)
        minhash[has] = _minhash(shingles, offsets[:-1][has], *_hash_functions(settings))
    return Signatures(exact, minhash, has)


def _hash_functions(settings: DedupSettings) -> tuple[U64, U64]:
    """Odd factors and summands of x * a + b modulo 2^64."""
    draw = np.random.default_rng(settings.seed)
    width = settings.bands * settings.rows
    factors = draw.integers(0, 1 << 63, width, np.uint64) * np.uint64(2) + np.uint64(1)
    return factors, draw.integers(0, 1 << 63, width, np.uint64)


def _minhash(shingles: U64, starts: I64, factors: U64, summands: U64) -> U32:
    """Smallest value of every hash function over each document's shingles (the upper 32 bits)."""
    result = np.empty((len(starts), len(factors)), np.uint32)
    ends = np.append(starts[1:], len(shingles))
    row = 0
    while row < len(starts):
        last = max(row + 1, int(np.searchsorted(ends, starts[row] + _CHUNK, side="right")))
        values = shingles[starts[row] : ends[last - 1]]
        local = starts[row:last] - starts[row]
        work = np.empty_like(values)
        for k in range(len(factors)):
            np.multiply(values, factors[k], out=work)
            np.add(work, summands[k], out=work)
            result[row:last, k] = np.minimum.reduceat(work, local) >> np.uint64(32)
        row = last
    return result


@dataclass(frozen=True)
class Duplicates:
    """For every document: the earlier document it repeats (-1: none), how much alike, and how it was found."""

    of: I64
    similarity: F64
    near: Mask


def find_equal(found: Signatures) -> Duplicates:
    """Documents whose tokens are those of an earlier document."""
    _, first, group = np.unique(found.exact, return_index=True, return_inverse=True)
    original = first[group]
    copies = original != np.arange(len(found.exact))
    return Duplicates(np.where(copies, original, -1), copies.astype(float), np.zeros(len(copies), bool))


def find_duplicates(found: Signatures, settings: DedupSettings) -> Duplicates:
    """Compare all documents as the settings say; the first of every cluster stays."""
    none = np.zeros(len(found.exact), bool)
    duplicates = (
        find_equal(found) if settings.exact else Duplicates(none.astype(np.int64) - 1, none.astype(float), none)
    )
    if settings.near:
        of, similarity, near = duplicates.of, duplicates.similarity, duplicates.near
        rows = np.flatnonzero((of < 0) & found.has_shingles)
        for row, original, agreement in _near(found.minhash, rows, settings):
            of[row], similarity[row], near[row] = original, agreement, True
        moved = np.flatnonzero((of >= 0) & near[of] & ~near)  # equal to a document that is itself a near duplicate
        similarity[moved], near[moved], of[moved] = similarity[of[moved]], True, of[of[moved]]
    return duplicates


def close_copies(found: Signatures, settings: DedupSettings) -> Mask:
    """Documents that are nearly the whole of an earlier one; `find_duplicates` draws the line further away."""
    close = max(settings.min_similarity, _CLOSE_COPY)
    strict = settings.model_copy(update={"exact": True, "min_similarity": close})
    copies: Mask = find_duplicates(found, strict).of >= 0
    return copies


def _near(minhash: U32, rows: I64, settings: DedupSettings) -> list[tuple[int, int, float]]:
    """(row, earlier row that stays, agreement) for every near duplicate.

    Only documents that share a band with another are looked at, in order, each against the kept documents in its
    buckets (at most the first 64 of a bucket, so a bucket of boilerplate cannot make this quadratic).
    """
    buckets = _buckets(minhash, rows, settings)
    kept_in: dict[int, list[int]] = {}
    found = []
    for row, shared in buckets:
        candidates = sorted({other for bucket in shared for other in kept_in.get(bucket, ())})
        if candidates:
            agreement = (minhash[candidates] == minhash[row]).mean(axis=1)
            best = int(agreement.argmax())
            if agreement[best] >= settings.min_similarity:
                found.append((row, candidates[best], float(agreement[best])))
                continue
        for bucket in shared:
            kept = kept_in.setdefault(bucket, [])
            if len(kept) < _MAX_KEPT_PER_BUCKET:
                kept.append(row)
    return found


def _buckets(minhash: U32, rows: I64, settings: DedupSettings) -> list[tuple[int, list[int]]]:
    """Every row that shares a band with another row, in order, with its buckets."""
    members, names, named = [], [], 0
    for band in range(settings.bands):
        key = np.full(len(rows), band, np.uint64)
        for column in range(band * settings.rows, (band + 1) * settings.rows):
            key = mix(key ^ minhash[rows, column])
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        same = ordered[1:] == ordered[:-1]
        crowded = np.zeros(len(rows), bool)
        crowded[1:] |= same
        crowded[:-1] |= same
        group = np.cumsum(np.append(True, ~same)[: len(rows)]) + named
        members.append(rows[order[crowded]])
        names.append(group[crowded])
        named += len(rows) + 1
    member, name = np.concatenate(members), np.concatenate(names)
    order = np.lexsort((name, member))
    member, name = member[order], name[order]
    edges = [*np.flatnonzero(np.diff(member, prepend=-1)).tolist(), len(member)]
    all_names = name.tolist()
    return [(int(member[start]), all_names[start:end]) for start, end in pairwise(edges)]
