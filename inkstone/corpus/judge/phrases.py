"""Phrases as token hashes: solicitation, navigation, function words, and the user's own banned phrases.

A phrase matches whole tokens (Han characters, Latin words), blind for case, spaces and punctuation. Only positions
whose token opens some phrase are looked at further, so a long list costs hardly more than a short one.
"""

import tomllib
from functools import cache
from importlib.resources import files

import numpy as np
import pyarrow as pa

from inkstone.corpus.judge.kernel import F64, I64, U64, Mask, Tokens, flatten, member, ratio, segment_sums, tokenize

WORDS = tomllib.loads((files("inkstone.corpus.judge") / "words.toml").read_text("utf-8"))
STOP_WORDS, STOP_CHARACTERS = tuple(WORDS["stop_words"].split()), tuple(WORDS["stop_characters"])
SPAM_PHRASES, MENU_PHRASES, WEB_PHRASES = (tuple(WORDS[name]) for name in ("spam", "menu", "web"))


def phrase_share(tokens: Tokens, phrases: tuple[str, ...], also: Mask, at_least: int) -> F64:
    """Share of each document's tokens inside one of `phrases` or marked in `also`.

    0 where no phrase stands in the document, or fewer than `at_least` phrases and marked tokens together.
    """
    start, covered = _covered(tokens, phrases)
    inside = segment_sums(covered | also, tokens.offsets)
    found = _per_document(tokens, start)
    enough = (found > 0) & (found + segment_sums(also, tokens.offsets) >= at_least)
    return np.where(enough, ratio(inside, np.diff(tokens.offsets)), 0.0)


def phrase_cover(tokens: Tokens, phrases: tuple[str, ...]) -> tuple[F64, I64]:
    """Share of each document's tokens inside one of `phrases`, and how many there are."""
    start, covered = _covered(tokens, phrases)
    share = ratio(segment_sums(covered, tokens.offsets), np.diff(tokens.offsets))
    return share, _per_document(tokens, start)


def phrase_places(tokens: Tokens, phrases: tuple[str, ...]) -> I64:
    """First tokens of all phrases."""
    return _matches(tokens, phrases)[0]


def phrase_count(tokens: Tokens, phrases: tuple[str, ...]) -> I64:
    """How many of `phrases` stand in each document."""
    return _per_document(tokens, _matches(tokens, phrases)[0])


def opens_with(tokens: Tokens, first: I64, count: I64, phrases: tuple[str, ...]) -> Mask:
    """Which spans of `count` tokens from `first` begin with one of `phrases`."""
    opens = np.zeros(len(first), bool)
    if len(tokens.hashes):
        head = tokens.hashes[np.minimum(first, len(tokens.hashes) - 1)]
        spans = np.flatnonzero((count > 0) & member(head, _openings(phrases)))
        place, _ = _check(tokens, first[spans], first[spans] + count[spans], phrases)
        opens[spans[np.isin(first[spans], place)]] = True
    return opens


def _covered(tokens: Tokens, phrases: tuple[str, ...]) -> tuple[I64, Mask]:
    """First tokens of all matches, and which tokens lie inside one."""
    start, length = _matches(tokens, phrases)
    width = len(tokens.hashes) + 1
    edges = np.bincount(start, minlength=width) - np.bincount(start + length, minlength=width)
    return start, np.cumsum(edges[:-1]) > 0


def _matches(tokens: Tokens, phrases: tuple[str, ...]) -> tuple[I64, I64]:
    """First tokens and lengths of all matches."""
    candidates = np.flatnonzero(member(tokens.hashes, _openings(phrases)))
    last = tokens.offsets[np.searchsorted(tokens.offsets, candidates, side="right")]
    return _check(tokens, candidates, last, phrases)


def _check(tokens: Tokens, start: I64, last: I64, phrases: tuple[str, ...]) -> tuple[I64, I64]:
    """Which phrases of any length begin at `start` and end before `last`."""
    lengths = np.array(_lengths(phrases), np.int64)
    starts, length = np.repeat(start, len(lengths)), np.tile(lengths, len(start))
    fits = starts + length <= np.repeat(last, len(lengths))
    starts, length = starts[fits], length[fits]
    hit = member(tokens.span_hashes(starts, starts + length), phrase_hashes(phrases))
    return starts[hit], length[hit]


def _per_document(tokens: Tokens, places: I64) -> I64:
    documents = len(tokens.offsets) - 1
    return np.bincount(np.searchsorted(tokens.offsets, places, side="right") - 1, minlength=documents)


@cache
def phrase_hashes(phrases: tuple[str, ...]) -> U64:
    """Sorted hashes of the phrases, one each (a phrase of one token has that token's span hash)."""
    tokens = _tokens(phrases)
    return np.unique(tokens.span_hashes(tokens.offsets[:-1], tokens.offsets[1:]))


@cache
def word_hashes(words: tuple[str, ...]) -> U64:
    """Sorted token hashes of single words."""
    return np.unique(_tokens(words).hashes)


@cache
def _openings(phrases: tuple[str, ...]) -> U64:
    tokens = _tokens(phrases)
    return np.unique(tokens.hashes[tokens.offsets[:-1]])


@cache
def _lengths(phrases: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(np.unique(np.diff(_tokens(phrases).offsets)).tolist())


def _tokens(phrases: tuple[str, ...]) -> Tokens:
    return tokenize(flatten(pa.array(list(phrases), pa.string())))
