"""Encode whole batches by looking words up: each distinct word is encoded once, by `tokenizers`, and remembered.

    encoder = Encoder.of(backend)                    # None where the tokenizer is of a kind that is not known here
    ids, ends = encoder.encode(["明月", "the river"])  # the same ids as the backend's, flat; text i ends at ends[i]

Two facts make words short, so that they repeat. Text is cut at the pattern's borders; and it is cut between any two
characters that stand side by side in no piece of the vocabulary, because no merge can ever join them. Long runs of
Chinese, which hardly ever repeat, fall apart into parts of two or three characters, which do. Pairs are kept in a
table of bits without their names: where two pairs share a bit a cut is missed, never a wrong one made.
"""

import json
from collections.abc import Sequence

import numpy as np
import tokenizers

from inkstone.tokenizer.bpe import LONGEST, Merger
from inkstone.tokenizer.pattern import PATTERN
from inkstone.tokenizer.table import Slots
from inkstone.tokenizer.words import Words, blocks, code_points, cut, words_of

LONGEST_WORD = 100_000  # characters; a longer run without any border is cut, so that memory stays bounded
_PAIR_BITS = 22
_CAPACITY_BITS = 21  # half as many words are remembered
_META = "\u2581"


class Encoder:
    """A table of pairs, the words met so far, and the library's own BPE for the others."""

    def __init__(self, content: dict[str, object], prefix: bool | None) -> None:
        """`content` is a tokenizer.json of a known kind; `prefix` is None where text is cut by `PATTERN`."""
        self._prefix = prefix
        bare = {**content, "normalizer": None, "pre_tokenizer": None, "post_processor": None, "added_tokens": []}
        self._backend = tokenizers.Tokenizer.from_str(json.dumps(bare))
        model = content["model"]
        assert isinstance(model, dict)
        self._merger = Merger(model["vocab"], [_two(merge) for merge in model["merges"]])
        self._pairs = _pair_table(model["vocab"])
        self._forget()

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> "Encoder | None":
        """The encoder of a BPE with byte fallback that cuts by `PATTERN`, or by nothing as SentencePiece does."""
        content = json.loads(backend.to_str())
        model, cutter = content["model"], content["pre_tokenizer"]
        plain = model.get("type") == "BPE" and not model.get("dropout") and not model.get("ignore_merges")
        plain = plain and not model.get("continuing_subword_prefix") and not model.get("end_of_word_suffix")
        if not plain or any(not token["special"] for token in content["added_tokens"]):
            return None
        if cutter == {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}:
            return cls(content, None) if content["normalizer"] is None and model.get("byte_fallback") else None
        prefix = _metaspace(content["normalizer"])
        return None if cutter is not None or prefix is None else cls(content, prefix)

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts, int32, and where each text's ids end, int64 [texts]. Raises UnicodeEncodeError."""
        ids: list[np.ndarray] = []
        ends: list[np.ndarray] = []
        total = 0
        for block in blocks(texts):
            found, lasts = self._encode_block(block)
            ids.append(found)
            ends.append(lasts + total)
            total += len(found)
        return np.concatenate([np.zeros(0, np.int32), *ids]), np.concatenate([np.zeros(0, np.int64), *ends])

    def _encode_block(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        words = self._words(texts)
        slots = self._look_up(words)
        lengths = self._lengths[slots]
        lasts = np.cumsum(lengths)
        total = int(lasts[-1]) if len(lasts) else 0
        # word i's ids are arena[places[i]:places[i] + lengths[i]]
        shift = self._places[slots] - (lasts - lengths)
        ids = self._arena[np.repeat(shift, lengths) + np.arange(total)]
        return ids, np.append(0, lasts)[words.documents[1:]]

    def _words(self, texts: list[str]) -> Words:
        if self._prefix is None:
            points, starts = code_points(texts)
            begins = cut(points, starts)
        else:
            texts = [text.replace(" ", _META) for text in texts]
            points, starts = code_points([_META + text if text else "" for text in texts] if self._prefix else texts)
            begins = np.zeros(len(points), dtype=bool)
            begins[starts[:-1][starts[:-1] < len(points)]] = True
        if len(points):
            begins[1:] |= ~self._pairs[_pair_slots(points[:-1], points[1:])]
        words = words_of(points, begins, starts)
        long = np.flatnonzero(np.diff(words.starts) > LONGEST_WORD)
        if not len(long):
            return words
        for word in long:
            begins[words.starts[word] : words.starts[word + 1] : LONGEST_WORD] = True
        return words_of(points, begins, starts)

    def _look_up(self, words: Words) -> np.ndarray:
        """The slot of every word, after encoding those that were not met before."""
        hashes = words.hashes() | np.uint64(1)
        if self._slots.used + len(hashes) > self._slots.capacity // 2:
            self._forget()
        slots = self._slots.find(hashes)
        missing = np.flatnonzero(self._slots.keys[slots] == 0)
        if len(missing):
            fresh, firsts = np.unique(hashes[missing], return_index=True)
            self._learn(fresh, words, missing[firsts])
            slots[missing] = self._slots.find(hashes[missing])
        return slots

    def _learn(self, hashes: np.ndarray, words: Words, which: np.ndarray) -> None:
        """Encode these words and remember their ids."""
        flat, lengths = self._merge(words, which)
        slots = self._slots.insert(hashes)
        self._places[slots] = self._filled + np.cumsum(lengths) - lengths
        self._lengths[slots] = lengths
        if self._filled + len(flat) > len(self._arena):
            grown = np.zeros(len(self._arena) + 2 * len(flat), dtype=np.int32)
            grown[: self._filled] = self._arena[: self._filled]
            self._arena = grown
        self._arena[self._filled : self._filled + len(flat)] = flat
        self._filled += len(flat)

    def _merge(self, words: Words, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the chosen words, flat, and their numbers; long words and unknown characters go to the library."""
        lengths = np.diff(words.starts)[which]
        places = np.repeat(words.starts[which] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
        symbols = self._merger.single[words.points[places]]
        known = np.add.reduceat(symbols < 0, np.cumsum(lengths) - lengths, dtype=np.int64) == 0
        short = known & (lengths <= LONGEST)
        flat, counts = self._merger.merge(symbols[np.repeat(short, lengths)], lengths[short])
        if short.all():
            return flat, counts
        others = words.texts(which[~short])
        encoded = [found.ids for found in self._backend.encode_batch_fast(others, add_special_tokens=False)]
        all_counts = np.zeros(len(which), dtype=np.int64)
        all_counts[short] = counts
        all_counts[~short] = [len(ids) for ids in encoded]
        result = np.zeros(int(all_counts.sum()), dtype=np.int32)
        mine = np.repeat(short, all_counts)
        result[mine] = flat
        result[~mine] = np.concatenate([np.array(ids, dtype=np.int32) for ids in encoded])
        return result, all_counts

    def _forget(self) -> None:
        self._slots = Slots(_CAPACITY_BITS)
        self._places = np.zeros(self._slots.capacity, dtype=np.int64)
        self._lengths = np.zeros(self._slots.capacity, dtype=np.int64)
        self._arena = np.zeros(1 << 20, dtype=np.int32)
        self._filled = 0


def _metaspace(normalizer: object) -> bool | None:
    """Whether SentencePiece's normaliser puts "▁" before the text; None for any other normaliser."""
    steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _META}
    prepend = {"type": "Prepend", "prepend": _META}
    return {1: False, 2: True}[len(steps)] if steps in ([replace], [prepend, replace]) else None


def _two(merge: str | list[str]) -> Sequence[str]:
    """A merge's two pieces; older files write them as one string with a space."""
    return merge.split(" ") if isinstance(merge, str) else merge


def _pair_table(vocabulary: dict[str, int]) -> np.ndarray:
    """Marks every two characters that stand side by side in a piece."""
    table = np.zeros(1 << _PAIR_BITS, dtype=bool)
    points, starts = code_points(list(vocabulary))
    inside = np.ones(len(points), dtype=bool)
    inside[starts[:-1][starts[:-1] < len(points)]] = False
    second = np.flatnonzero(inside)
    table[_pair_slots(points[second - 1], points[second])] = True
    return table


def _pair_slots(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    mixed = (first.astype(np.uint32) * np.uint32(0x9E3779B1) + second) * np.uint32(0x85EBCA77)
    return mixed >> np.uint32(32 - _PAIR_BITS)
