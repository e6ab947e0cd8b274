"""Perplexity under a trigram model of tokens with interpolated Kneser-Ney smoothing, counted by hash.

Counts lie in sorted arrays of 64-bit hashes with an index over the upper bits, so a look-up is a few gathers and a
batch of tokens is scored at once. Trigrams seen once are left out: they make three quarters of the size and little of
the answer. A token that training never saw gets the share that smoothing leaves for new ones.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from inkstone.corpus.judge.kernel import F64, I64, U64, Tokens, mix, running_sums

DISCOUNT = 0.75
NEW_TOKENS = 200_000  # tokens that a language has beyond those seen: shares what is left for them

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
Counts = np.ndarray[tuple[int], np.dtype[np.float32]]


@dataclass(frozen=True)
class Table:
    """Sorted keys with columns of figures; `look_up` gives zeros for keys it does not hold."""

    keys: U64
    columns: tuple[Counts, ...]

    @cached_property
    def _index(self) -> tuple[I64, np.uint64, int]:
        bits = max(len(self.keys).bit_length(), 1)
        shift = np.uint64(64 - bits)
        starts = np.searchsorted(self.keys >> shift, np.arange((1 << bits) + 1, dtype=np.uint64))
        return starts, shift, int(np.diff(starts).max(initial=0))

    def look_up(self, keys: U64) -> list[Counts]:
        starts, shift, longest = self._index
        bucket = (keys >> shift).astype(np.int64)
        place, end = starts[bucket], starts[bucket + 1]
        found = np.full(len(keys), -1)
        open_ = np.flatnonzero(place < end)
        for step in range(longest):
            at = place[open_] + step
            hit = self.keys[at] == keys[open_]
            found[open_[hit]] = at[hit]
            open_ = open_[~hit & (at + 1 < end[open_])]
            if not len(open_):
                break
        return [np.where(found >= 0, column[found], np.float32(0)) if len(column) else np.zeros(len(keys), np.float32)
                for column in self.columns]  # fmt: skip


@dataclass(frozen=True)
class NgramModel:
    """The counts of Kneser-Ney smoothing.

    words: different tokens before each token. pairs: different tokens before the pair, times the pair came (as a
    context), different tokens after it. contexts: per token, different pairs that end in any word after it, and
    different tokens after it. triples: times it came.
    """

    words: Table
    contexts: Table
    pairs: Table
    triples: Table
    kinds: float  # different pairs

    def perplexity(self, tokens: Tokens) -> F64:
        """Per token, one figure per document; 1 where it has no token. The first two have less context."""
        return np.exp(-_document_mean(self.log_probabilities(tokens), tokens.offsets))

    def log_probabilities(self, tokens: Tokens) -> F64:
        """Natural logarithm of the probability of every token after the two before it in its document."""
        word = tokens.hashes
        before, pair, triple = _contexts(tokens)
        (kinds_before,) = self.words.look_up(word)
        seen = max(len(self.words.keys), 1)
        single = np.maximum(kinds_before - DISCOUNT, 0) / max(self.kinds, 1)
        single = single + DISCOUNT * seen / max(self.kinds, 1) / (seen + NEW_TOKENS)
        around, follow = self.contexts.look_up(before)
        held, _, _ = self.pairs.look_up(pair)
        double = np.where(
            around > 0,
            (np.maximum(held - DISCOUNT, 0) + DISCOUNT * follow * single) / np.maximum(around, 1),
            single,
        )
        _, times, after = self.pairs.look_up(_previous_pairs(tokens, pair))
        (came,) = self.triples.look_up(triple)
        whole = np.where(
            times > 0, (np.maximum(came - DISCOUNT, 0) + DISCOUNT * after * double) / np.maximum(times, 1), double
        )
        return np.log(np.maximum(whole, 1e-12))

    def arrays(self) -> dict[str, Array]:
        found: dict[str, Array] = {"kinds": np.array([self.kinds])}
        for name in ("words", "contexts", "pairs", "triples"):
            table: Table = getattr(self, name)
            found[f"{name}.keys"] = table.keys
            found |= {f"{name}.{number}": column for number, column in enumerate(table.columns)}
        return found

    @staticmethod
    def from_arrays(arrays: dict[str, Array]) -> "NgramModel":
        def table(name: str, columns: int) -> Table:
            return Table(arrays[f"{name}.keys"], tuple(arrays[f"{name}.{number}"] for number in range(columns)))  # type: ignore[arg-type, misc]

        return NgramModel(
            table("words", 1), table("contexts", 2), table("pairs", 3), table("triples", 1), float(arrays["kinds"][0])
        )


def train_ngrams(tokens: Tokens) -> NgramModel:
    """Count the n-grams of a batch of documents."""
    word = tokens.hashes
    before, pair, triple = _contexts(tokens)
    document = tokens.documents()
    second = np.append(False, document[1:] == document[:-1])[: len(word)]  # has a token before it
    third = np.append([False, False], document[2:] == document[:-2])[: len(word)] if len(word) > 2 else second & False

    triples, first, times = np.unique(triple[third], return_index=True, return_counts=True)
    endings = pair[third][first]  # of each kind of triple, its last two tokens: kinds before a pair
    heads = _previous_pairs(tokens, pair)[third]  # and its first two: the context
    kinds_after, number_after = np.unique(heads[first], return_counts=True)
    pairs, first_pair, _ = np.unique(pair[second], return_index=True, return_counts=True)
    kinds_before, number_before = np.unique(endings, return_counts=True)
    contexts, context_times = np.unique(heads, return_counts=True)
    columns = (
        np.maximum(_placed(pairs, kinds_before, number_before), 1),  # a pair that opens a document came after nothing
        _placed(pairs, contexts, context_times),
        _placed(pairs, kinds_after, number_after),
    )
    lefts, rights = before[second][first_pair], word[second][first_pair]
    left_keys, left_group = np.unique(lefts, return_inverse=True)
    around = np.bincount(left_group, columns[0], len(left_keys)).astype(np.float32)
    follow = np.bincount(left_group, minlength=len(left_keys)).astype(np.float32)
    words = np.unique(word)
    right_keys, right_number = np.unique(rights, return_counts=True)
    often = times > 1
    return NgramModel(
        Table(words, (np.maximum(_placed(words, right_keys, right_number), 1),)),
        Table(left_keys, (around, follow)),
        Table(pairs, columns),
        Table(triples[often], (times[often].astype(np.float32),)),
        float(len(pairs)),
    )


def _placed(keys: U64, some: U64, figures: I64) -> Counts:
    """`figures` of `some` of the sorted keys in the order of `keys`, 0 for the others."""
    placed = np.zeros(len(keys), np.float32)
    if len(some):
        at = np.minimum(np.searchsorted(keys, some), max(len(keys) - 1, 0))
        inside = keys[at] == some
        placed[at[inside]] = figures[inside]
    return placed


def _contexts(tokens: Tokens) -> tuple[U64, U64, U64]:
    """For every token the one before it, the pair and the triple that end in it (0 where the document begins)."""
    word = tokens.hashes
    before, pair, triple = (np.zeros(len(word), np.uint64) for _ in range(3))
    before[1:] = word[:-1]
    pair[1:] = mix(word[:-1] * np.uint64(3) + word[1:])
    triple[2:] = mix(pair[1:-1] * np.uint64(5) + word[2:])
    starts = tokens.offsets[:-1][np.diff(tokens.offsets) > 0]
    before[starts], pair[starts], triple[starts] = 0, 0, 0
    seconds = tokens.offsets[:-1][np.diff(tokens.offsets) > 1] + 1
    triple[seconds] = 0
    return before, pair, triple


def _previous_pairs(tokens: Tokens, pair: U64) -> U64:
    """The pair that ends just before every token (0 where there is none in its document)."""
    previous = np.zeros(len(pair), np.uint64)
    previous[1:] = pair[:-1]
    starts = tokens.offsets[:-1][np.diff(tokens.offsets) > 0]
    previous[starts] = 0
    return previous


def _document_mean(values: F64, offsets: I64) -> F64:
    return np.diff(running_sums(values, np.float64)[offsets]) / np.maximum(np.diff(offsets), 1)
