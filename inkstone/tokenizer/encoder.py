"""Encode whole batches by looking words up: each distinct word is encoded once, by `tokenizers`, and remembered.

    encoder = Encoder.of(backend)                    # None where the tokenizer is of a kind that is not known here
    ids, ends = encoder.encode(["明月", "the river"])  # the same ids as the backend's, flat; text i ends at ends[i]

Two facts make words short, so that they repeat. Text is cut at the pattern's borders; and it is cut between any two
characters that stand side by side in no piece of the vocabulary, because no merge can ever join them. Long runs of
Chinese, which hardly ever repeat, fall apart into parts of two or three characters, which do. Pairs are kept in a
table of bits without their names: where two pairs share a bit a cut is missed, never a wrong one made.
"""

import json
from collections.abc import Iterator, Sequence

import numpy as np
import tokenizers

from inkstone.tokenizer.bpe import LONGEST, Merger
from inkstone.tokenizer.pattern import PATTERN
from inkstone.tokenizer.table import Slots
from inkstone.tokenizer.words import BLOCK_CHARACTERS, Words, code_points, cut, words_of

WINDOW = 1 << 20  # characters of one text that are looked at together
LONGEST_WORD = 1 << 16  # characters; a longer run without any border is cut, so that memory stays bounded
_UNSURE = 8  # words at the end of a window that the next window looks at again
_PAIR_BITS = 22
_CAPACITY_BITS = 21  # half as many words are remembered
_META = "\u2581"


class Encoder:
    """A table of pairs, the words met so far, and the merges."""

    def __init__(self, content: dict[str, object], by_pattern: bool) -> None:
        """`content` is a tokenizer.json of a known kind."""
        self._by_pattern = by_pattern
        self._space = ord(_META if content["normalizer"] else " ")
        bare = {**content, "normalizer": None, "pre_tokenizer": None, "post_processor": None, "added_tokens": []}
        self._backend = tokenizers.Tokenizer.from_str(json.dumps(bare))
        model = content["model"]
        assert isinstance(model, dict)
        self._merger = Merger(model["vocab"], [_two(merge) for merge in model["merges"]])
        self._pairs = _pair_table(model["vocab"])
        self._slots = Slots(_CAPACITY_BITS)
        self._places = np.zeros(0, dtype=np.int64)
        self._lengths = np.zeros(0, dtype=np.int64)
        self._arena = np.zeros(0, dtype=np.int32)
        self._filled = 0
        self._forget()

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> "Encoder | None":
        """The encoder of a BPE with byte fallback that cuts by nothing as SentencePiece does, or by `PATTERN`."""
        content = json.loads(backend.to_str())
        model, cutter, normalizer = content["model"], content["pre_tokenizer"], content["normalizer"]
        plain = model.get("type") == "BPE" and not model.get("dropout") and not model.get("ignore_merges")
        plain = plain and not model.get("continuing_subword_prefix") and not model.get("end_of_word_suffix")
        complete = model.get("byte_fallback") and all(f"<0x{value:02X}>" in model["vocab"] for value in range(256))
        if not plain or not complete or any(not token["special"] for token in content["added_tokens"]):
            return None
        if cutter == {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}:
            return cls(content, by_pattern=True) if normalizer is None else None
        steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
        if cutter is not None or (
            normalizer is not None and steps != [{"type": "Replace", "pattern": {"String": " "}, "content": _META}]
        ):
            return None
        return cls(content, by_pattern=False)

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
                ids, ends = self._ids(words, dropout, draws)
                parts.append(ids)
                counts[first:last] += np.diff(ends, prepend=0)
        return np.concatenate([np.zeros(0, np.int32), *parts]), np.cumsum(counts)

    def _ids(self, words: Words, dropout: float, draws: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
        if dropout:
            ids, lengths = self._merge(words, np.arange(len(words.starts) - 1), dropout, draws)
            return ids, np.append(0, np.cumsum(lengths))[words.documents[1:]]
        slots = self._look_up(words)
        lengths = self._lengths[slots]
        lasts = np.cumsum(lengths)
        total = int(lasts[-1]) if len(lasts) else 0
        # word i's ids are arena[places[i]:places[i] + lengths[i]]
        shift = self._places[slots] - (lasts - lengths)
        ids = self._arena[np.repeat(shift, lengths) + np.arange(total)]
        return ids, np.append(0, lasts)[words.documents[1:]]

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

    def _merge(
        self, words: Words, which: np.ndarray, dropout: float = 0.0, draws: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the chosen words, flat, and their numbers; long words and unknown characters go to the library."""
        points, lengths = words.chosen(which)
        symbols = self._merger.single[points]
        known = np.add.reduceat(symbols < 0, np.cumsum(lengths) - lengths, dtype=np.int64) == 0
        short = known & (lengths <= LONGEST)
        flat, counts = self._merger.merge(symbols[np.repeat(short, lengths)], lengths[short], dropout, draws)
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
        self._filled = 0
        self._slots = Slots(_CAPACITY_BITS)
        self._places = np.zeros(self._slots.capacity, dtype=np.int64)
        self._lengths = np.zeros(self._slots.capacity, dtype=np.int64)
        self._arena = np.zeros(1 << 20, dtype=np.int32)


def _documents(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of texts of about `BLOCK_CHARACTERS`; a text longer than a window stands alone."""
    first, texts = 0, len(starts) - 1
    while first < texts:
        last = int(np.searchsorted(starts, starts[first] + BLOCK_CHARACTERS, side="right")) - 1
        last = min(max(last, first + 1), texts)
        yield first, last
        first = last


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
