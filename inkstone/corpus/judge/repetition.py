"""How much of a document repeats itself: the most frequent n-gram, and the tokens inside n-grams that occurred before.

An n-gram can only repeat where the two (n-1)-grams inside it repeat, so only the shortest n-grams are looked at
everywhere; each longer one is looked at where it still can repeat. All sizes from 2 to 16 cost less than two full
sorts. Equal n-grams are found by sorting hash and position packed into one integer.
"""

from collections.abc import Collection

import numpy as np

from inkstone.corpus.judge.kernel import F64, I64, U64, Mask, Tokens, mix, ngram_base, window_positions

TOP_MIN_OCCURRENCES = 5  # fewer say nothing: an aphorism or a summary has two
NAME_SHARES = (0.1, 0.4)  # an n-gram that covers less breaks no limit; one that covers more is no name alone
NAME_NEIGHBOURS = 4  # a name has another neighbour at one of so many places, or more often
_SLOT_BITS = 19


def repetition(tokens: Tokens, top: Collection[int], repeated: Collection[int]) -> dict[str, F64]:
    """`top_Ngram_share` and `repeated_Ngram_share` for the sizes asked for, as shares of each document's tokens."""
    total = np.maximum(np.diff(tokens.offsets), 1)
    documents = len(total)
    salt = np.repeat(mix(np.arange(documents, dtype=np.uint64)), np.diff(tokens.offsets))
    measures: dict[str, F64] = {}
    window = tokens.hashes  # polynomial of the n tokens at each place in `at`
    at: I64 = np.arange(len(tokens.hashes))
    for n in range(1, max((*top, *repeated, 1)) + 1):
        if n > 1:
            window = window * ngram_base() + tokens.hashes[at + n - 1]
            keys = mix(window ^ salt[at])
            places, run = _equal(keys, at, prefilter=n == 2)
            if n in top:
                measures[f"top_{n}gram_share"] = np.minimum(_most_frequent(tokens, places, run, n) * n / total, 1.0)
            if n in repeated:
                later = np.ones(len(places), bool)
                later[run] = False
                measures[f"repeated_{n}gram_share"] = _covered(tokens, places[later], n) / total
            again = np.zeros(len(tokens.hashes) + 1, bool)
            again[places] = True
            still = again[at] & again[at + 1]  # else the n+1 tokens from here are new to the document
            window, at = window[still], at[still]
        else:
            at = window_positions(tokens.offsets, 2)
            window = tokens.hashes[at]
    return measures


def _equal(keys: U64, at: I64, prefilter: bool) -> tuple[I64, I64]:
    """Places whose key occurs more than once, sorted by (key, place), and where each run of equal keys begins."""
    if prefilter:
        possible = _sharing_a_slot(keys)
        keys, at = keys[possible], at[possible]
    bits = np.uint64(max(1, int(at[-1]).bit_length() if len(at) else 1))
    packed = (keys >> bits) << bits
    packed |= at.astype(np.uint64)
    packed.sort()
    same = (packed[1:] ^ packed[:-1]) >> bits == 0
    more = np.zeros(len(packed), bool)
    more[1:] |= same
    more[:-1] |= same
    begins = np.ones(len(packed), bool)
    begins[1:] = ~same
    packed &= (np.uint64(1) << bits) - np.uint64(1)
    return packed[more].astype(np.int64), np.flatnonzero(begins[more])


def _sharing_a_slot(keys: U64) -> Mask:
    """Which keys share the upper bits with another: all that repeat, and a few more. Much cheaper than sorting."""
    slot = (keys >> np.uint64(64 - _SLOT_BITS)).astype(np.int64)
    last = np.empty(1 << _SLOT_BITS, np.int32)
    order = np.arange(len(keys), dtype=np.int32)
    last[slot] = order
    crowded = np.zeros(1 << _SLOT_BITS, bool)
    crowded[slot[last[slot] != order]] = True
    return crowded[slot]


def _most_frequent(tokens: Tokens, places: I64, run: I64, n: int) -> F64:
    """Occurrences of each document's most frequent n-gram; 0 where none has enough to say anything.

    Those of a name count half. A name is what stands between other words at every place, where a phrase that is
    repeated without end stands between the same ones.
    """
    most = np.zeros(len(tokens.offsets) - 1)
    times = np.diff(run, append=len(places))
    run, times = run[times >= TOP_MIN_OCCURRENCES], times[times >= TOP_MIN_OCCURRENCES]
    document = np.searchsorted(tokens.offsets, places[run], side="right") - 1
    counted = times.astype(float)
    share = times * n / np.diff(tokens.offsets)[document]
    for row in np.flatnonzero((share > NAME_SHARES[0]) & (share < NAME_SHARES[1])).tolist():
        first, end = tokens.offsets[document[row] : document[row] + 2]
        if _is_name(tokens.hashes[first:end], places[run[row] : run[row] + times[row]] - first, n):
            counted[row] /= 2
    np.maximum.at(most, document, counted)
    return most


def _is_name(words: U64, at: I64, n: int) -> bool:
    """Whether the words before and after the n-gram at `at` (or, of a longer name, a little further) differ."""

    def differ(beside: I64) -> bool:
        return (len(np.unique(words[np.clip(beside, 0, len(words) - 1)])) - 1) * NAME_NEIGHBOURS >= len(at)

    return any(differ(at - 1 - k) for k in range(n)) and any(differ(at + n + k) for k in range(n))


def _covered(tokens: Tokens, places: I64, n: int) -> F64:
    """Tokens of each document that lie in one of the n-grams at `places`."""
    documents = len(tokens.offsets) - 1
    if not len(places):
        return np.zeros(documents)
    places = np.sort(places)
    new = np.minimum(np.diff(places, append=places[-1] + n), n)  # an n-gram may overlap the next one
    document = np.searchsorted(tokens.offsets, places, side="right") - 1
    return np.bincount(document, new, documents).astype(float)
