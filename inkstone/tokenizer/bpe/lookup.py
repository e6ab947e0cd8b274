"""Encode whole batches by looking words up: each distinct word is merged once and remembered.

    encoder = Encoder.of(backend)                    # None where the tokenizer is of a kind that is not known here
    ids, ends = encoder.encode(["明月", "the river"])  # the same ids as the backend's, flat; text i ends at ends[i]

Two facts make words short, so that they repeat. Text is cut at the pattern's borders; and it is cut between any two
characters that stand side by side in no piece of the vocabulary, because no merge can ever join them. Long runs of
Chinese, which hardly ever repeat, fall apart into parts of two or three characters, which do. Pairs are kept in a
table of bits without their names: where two pairs share a bit a cut is missed, never a wrong one made.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import tokenizers

from inkstone.tokenizer.bpe.merging import LONGEST, Merger
from inkstone.tokenizer.bpe.pattern import PATTERN
from inkstone.tokenizer.bpe.remembered import Remembered
from inkstone.tokenizer.bpe.words import BLOCK_CHARACTERS, Words, code_points, cut, together, words_of
from inkstone.tokenizer.foreign.sentencepiece import merge_parts

Spec = dict[str, Any]
WINDOW = 1 << 20  # characters of one text that are looked at together
LONGEST_WORD = 1 << 16  # characters; a longer run without any border is cut, so that memory stays bounded
_UNSURE = 8  # words at the end of a window that the next window looks at again
_TOGETHER = 1 << 20  # words of which the new ones are merged together
_PAIR_BITS = 22
_META = "\u2581"


class Encoder:
    """A table of pairs, the merges, and the words met so far."""

    def __init__(self, written: str, spec: Spec, by_pattern: bool) -> None:
        """`spec` is a tokenizer.json of a known kind, `written` its text."""
        self._by_pattern = by_pattern
        self._space = ord(_META if spec["normalizer"] else " ")
        self._written = written
        self._library: tokenizers.Tokenizer | None = None
        model = spec["model"]
        self._merger = Merger(model["vocab"], [merge_parts(merge) for merge in model["merges"]])
        self._pairs = _pair_table(model["vocab"])

    @cached_property
    def _remembered(self) -> Remembered:
        """Made where words are met, so that an encoder on its way to a process carries no empty tables."""
        return Remembered()

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> "Encoder | None":
        """The encoder of a BPE with byte fallback that cuts by nothing as SentencePiece does, or by `PATTERN`."""
        written = backend.to_str()
        content = json.loads(written)
        model, cutter, normalizer = content["model"], content["pre_tokenizer"], content["normalizer"]
        plain = model.get("type") == "BPE" and not model.get("dropout") and not model.get("ignore_merges")
        plain = plain and not model.get("continuing_subword_prefix") and not model.get("end_of_word_suffix")
        complete = model.get("byte_fallback") and all(f"<0x{value:02X}>" in model["vocab"] for value in range(256))
        if not plain or not complete or any(not token["special"] for token in content["added_tokens"]):
            return None
        if cutter == {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}:
            return cls(written, content, by_pattern=True) if normalizer is None else None
        steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
        if cutter is not None or (
            normalizer is not None and steps != [{"type": "Replace", "pattern": {"String": " "}, "content": _META}]
        ):
            return None
        return cls(written, content, by_pattern=False)

    def encode(
        self, texts: Sequence[str], dropout: float = 0.0, draws: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts, int32, and where each text's ids end, int64 [texts]. Raises UnicodeEncodeError."""
        return self.encode_points(*code_points(texts), dropout, draws)

    def encode_points(
        self,
        points: np.ndarray,
        starts: np.ndarray,
        dropout: float = 0.0,
        draws: np.random.Generator | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same for a flat array of code points; text i is points[starts[i]:starts[i + 1]].

        With `dropout` each possible merge is passed over with that chance, by `draws`, each time a word is merged;
        nothing is remembered then.
        """
        parts: list[np.ndarray] = []
        counts = np.zeros(len(starts) - 1, dtype=np.int64)
        for blocks in together(self._blocks(points, starts), lambda block: len(block[1]), _TOGETHER):
            words = [block for _, block in blocks]
            for (first, block), (ids, lengths) in zip(blocks, self._ids(words, dropout, draws), strict=True):
                parts.append(ids)
                ends = np.append(0, np.cumsum(lengths))[block.documents]
                counts[first : first + len(ends) - 1] += np.diff(ends)
        return np.concatenate([np.zeros(0, np.int32), *parts]), np.cumsum(counts)

    def _blocks(self, points: np.ndarray, starts: np.ndarray) -> Iterator[tuple[int, Words]]:
        """The words of some texts, and the first one's number; a long text comes in windows."""
        for first, last in _documents(starts):
            at, end = int(starts[first]), int(starts[last])
            while at < end:
                window = points[at : min(end, at + WINDOW)]
                partial = at + len(window) < end  # then it is one long text
                local = np.array([0, len(window)]) if last == first + 1 else starts[first : last + 1] - at
                words = self._words(window, local)
                if partial:  # the last words may go on, or be cut otherwise by what follows
                    at += int(words.starts[-1 - _UNSURE])
                    words = Words(words.points, words.starts[:-_UNSURE], np.array([0, len(words.starts) - 1 - _UNSURE]))
                else:
                    at = end
                yield first, words

    def _ids(
        self, blocks: list[Words], dropout: float, draws: np.random.Generator | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For every block its ids, and how many each word has."""
        if dropout:
            for words in blocks:
                yield self._merge(*words.chosen(np.arange(len(words))), dropout, draws)
            return
        found = self._remembered.find([words.hashes() for words in blocks])
        if len(found.fresh):
            chosen = [words.chosen(which) for words, which in zip(blocks, found.where, strict=True)]
            points, lengths = (np.concatenate(column) for column in zip(*chosen, strict=True))
            self._remembered.add(found, *self._merge(points, lengths))
        for slots in found.slots:
            yield self._remembered.ids(slots)

    def _words(self, points: np.ndarray, starts: np.ndarray) -> Words:
        """Cut by the pattern and where no merge can join."""
        if self._by_pattern:
            begins = cut(points, starts)
        else:
            if self._space != ord(" "):
                points = np.where(points == ord(" "), np.uint32(self._space), points)
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

    def _merge(
        self, points: np.ndarray, lengths: np.ndarray, dropout: float = 0.0, draws: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of words, flat, and their numbers; long words go to the library."""
        symbols, sizes = self._merger.symbols(points, lengths)
        short = sizes <= LONGEST
        flat, counts = self._merger.merge(symbols[np.repeat(short, sizes)], sizes[short], dropout, draws)
        if short.all():
            return flat, counts
        long = np.repeat(~short, lengths)
        encoded = self._by_library(points[long], lengths[~short])
        all_counts = np.zeros(len(lengths), dtype=np.int64)
        all_counts[short] = counts
        all_counts[~short] = [len(ids) for ids in encoded]
        result = np.zeros(int(all_counts.sum()), dtype=np.int32)
        mine = np.repeat(short, all_counts)
        result[mine] = flat
        result[~mine] = np.concatenate([np.array(ids, dtype=np.int32) for ids in encoded])
        return result, all_counts

    def _by_library(self, points: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
        """Ids of every word; the library is opened where a long word needs it."""
        if self._library is None:
            self._library = tokenizers.Tokenizer.from_str(self._written)
            self._library.normalizer = self._library.pre_tokenizer = None
            self._library.encode_special_tokens = True
        text = points.astype("<u4").tobytes().decode("utf-32-le")
        ends = np.cumsum(lengths).tolist()
        words = [text[first:last] for first, last in zip([0, *ends], ends, strict=False)]
        return [found.ids for found in self._library.encode_batch_fast(words, add_special_tokens=False)]


def _documents(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of texts of about `BLOCK_CHARACTERS`; a text longer than a window stands alone."""
    first, texts = 0, len(starts) - 1
    while first < texts:
        last = int(np.searchsorted(starts, starts[first] + BLOCK_CHARACTERS, side="right")) - 1
        last = min(max(last, first + 1), texts)
        yield first, last
        first = last


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
