"""Decontamination: documents that quote an item of a benchmark are found by the n-grams they share with it.

An item's question is searched for alone and followed by its options; passages that a question is about are not (they
are ordinary text, and often in the corpus for good reason), unless the item is nothing else. A document is
contaminated where it holds at least `min_overlap` of all runs of eight tokens of one item. Labels of options
(A. B. C. D.) do not count as tokens, so a quiz printed in any layout is found; runs that many items share ("which of
the following is") say nothing and are left out. Items of fewer than about eight words are too common to search for;
their number is reported.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from inkstone.corpus.judge.kernel import F64, HAN, I64, U8, U64, Tokens, flatten, ngram_hashes, run_heads, tokenize
from inkstone.corpus.judge.phrases import WORDS, word_hashes
from inkstone.corpus.read.files import find_files
from inkstone.corpus.read.readers import Broken, Row, read_rows
from inkstone.errors import InputError

NGRAM = 8
MIN_WORDS = 8.0  # a Han character counts as 0.6 of a word
MAX_ITEMS_PER_NGRAM = 16
_QUESTION, _PASSAGE, _LABELS = (WORDS["benchmark_fields"][name].split() for name in ("question", "passage", "label"))


@dataclass(frozen=True)
class Benchmarks:
    """N-grams of benchmark items, sorted, with the item of each; `possible` is a first look-up by the upper bits."""

    hashes: U64
    item: I64
    sizes: I64  # n-grams of every item
    names: tuple[str, ...]
    possible: U8
    too_short: int


def load_benchmarks(paths: list[str]) -> Benchmarks | None:
    """Index the files and folders `paths`. Raises InputError naming every row that cannot be read."""
    if not paths:
        return None
    problems: list[str] = []
    names: list[str] = []
    texts: list[str] = []
    for file in find_files([Path(path) for path in paths]):
        for number, row in read_rows(file):
            if isinstance(row, Broken):
                problems.append(f"[corpus] decontaminate: {row.detail}")
                continue
            name = next((str(row[key]) for key in ("id", "task_id", "question_id") if row.get(key)), "")
            for text in _variants(row):
                names.append(name or f"{file.label}:{number}")
                texts.append(text)
    if problems:
        raise InputError(problems[:20])
    return index_texts(names, texts)


def find_contamination(tokens: Tokens, benchmarks: Benchmarks) -> tuple[F64, I64]:
    """For every document the largest share of an item's n-grams that it holds, and that item (-1 where none)."""
    documents = len(tokens.offsets) - 1
    most, which = np.zeros(documents), np.full(documents, -1)
    document, item, overlap = overlaps(tokens, benchmarks)
    order = np.argsort(overlap, kind="stable")
    most[document[order]], which[document[order]] = overlap[order], item[order]
    return most, which


def overlaps(tokens: Tokens, benchmarks: Benchmarks) -> tuple[I64, I64, F64]:
    """(document, item, share of the item's n-grams that the document holds) of all that share any."""
    hashes, offsets = ngram_hashes(without_labels(tokens), NGRAM)
    found = np.flatnonzero(benchmarks.possible[_slots(hashes, benchmarks.possible)])
    first = np.searchsorted(benchmarks.hashes, hashes[found])
    last = np.searchsorted(benchmarks.hashes, hashes[found], side="right")
    found, first, count = found[last > first], first[last > first], (last - first)[last > first]
    if not len(found):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    place = np.repeat(first - np.concatenate([[0], np.cumsum(count)[:-1]]), count) + np.arange(count.sum())
    document = np.repeat(np.searchsorted(offsets, found, side="right") - 1, count)
    items = len(benchmarks.sizes)
    # One row per document, item and distinct n-gram: `place` names both n-gram and item.
    pairs = np.unique(document * len(benchmarks.hashes) + place)
    document, item = pairs // len(benchmarks.hashes), benchmarks.item[pairs % len(benchmarks.hashes)]
    key, held = np.unique(document * items + item, return_counts=True)
    return key // items, key % items, held / benchmarks.sizes[key % items]


def without_labels(tokens: Tokens) -> Tokens:
    """Tokens but for single Latin letters from a to h, which label options."""
    keep = np.flatnonzero((tokens.ends - tokens.starts > 1) | ~np.isin(tokens.hashes, _label_hashes()))
    offsets = np.searchsorted(keep, tokens.offsets)
    return Tokens(tokens.hashes[keep], tokens.starts[keep], tokens.ends[keep], offsets)


@cache
def _label_hashes() -> U64:
    return word_hashes(tuple("abcdefgh"))


def _slots(hashes: U64, possible: U8) -> I64:
    """The place of each hash in `possible`, by its upper bits."""
    return (hashes >> np.uint64(65 - len(possible).bit_length())).astype(np.int64)


def index_texts(names: list[str], texts: list[str]) -> Benchmarks:
    """The index of these texts; an item may stand there with several."""
    flat = flatten(pa.array(texts, pa.string()))
    every = tokenize(flat)
    tokens = without_labels(every)
    han = np.add.reduceat(np.append(flat.classes[tokens.starts] == HAN, 0), tokens.offsets[:-1]) if texts else 0
    total = np.diff(tokens.offsets)
    words = total - 0.4 * np.where(total > 0, han, 0)
    hashes, offsets = ngram_hashes(tokens, NGRAM)
    item = np.repeat(np.arange(len(texts)), np.diff(offsets))
    hashes, item = hashes[words[item] >= MIN_WORDS], item[words[item] >= MIN_WORDS]
    order = np.lexsort((item, hashes))
    hashes, item = hashes[order], item[order]
    fresh = run_heads(hashes, item)
    hashes, item = hashes[fresh], item[fresh]
    _, group, count = np.unique(hashes, return_inverse=True, return_counts=True)
    rare = count[group] <= MAX_ITEMS_PER_NGRAM
    hashes, item = hashes[rare], item[rare]
    sizes = np.bincount(item, minlength=len(texts))
    possible = np.zeros(1 << min(max(len(hashes).bit_length() + 3, 10), 26), np.uint8)
    possible[_slots(hashes, possible)] = 1
    searched = {name for name, size in zip(names, sizes.tolist(), strict=True) if size}
    return Benchmarks(hashes, item, np.maximum(sizes, 1), tuple(names), possible, len(set(names) - searched))


def _variants(row: Row) -> Iterator[str]:
    """The texts of an item to search for: its question alone, and with its options."""
    leaves = {name: text for name, value in row.items() if (text := _text(value)) and name.lower() not in _LABELS}
    questions = [text for name, text in leaves.items() if name.lower() in _QUESTION]
    passages = [text for name, text in leaves.items() if name.lower() in _PASSAGE]
    options = [text for name, text in leaves.items() if name.lower() not in (*_QUESTION, *_PASSAGE)]
    question = "\n".join(questions or passages)
    if question:
        yield question
    if options and (question or len(options) > 1):
        yield "\n".join([question, *options])


def _text(value: object) -> str:
    """All strings in a field, one per line."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value if isinstance(value, str) else "\n".join(filter(None, map(_text, inner)))
