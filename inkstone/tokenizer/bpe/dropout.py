"""BPE-dropout for pipelines that the fast encoder does not know, byte-level ones above all (LLaMA-3, BLOOM, Falcon).

The library cuts a text into words, as its `tokenizer.json` says, and this module merges them: the library's own dropout
cannot be given a generator, so its draws could not be repeated. Without dropout the ids are those of the library.
"""

import json
import re
from collections.abc import Iterator, Sequence

import numpy as np
import tokenizers

from inkstone.errors import InputError
from inkstone.tokenizer.bpe.merging import LONGEST, Merger
from inkstone.tokenizer.bpe.words import code_points
from inkstone.tokenizer.foreign.sentencepiece import merge_parts

_WORDS = 50_000  # merged together
_PLAIN = ("single_word", "lstrip", "rstrip")


class WordMerger:
    """The merges of a BPE pipeline over the words that the pipeline itself cuts."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Raises InputError where dropping merges has no meaning for this kind of tokenizer."""
        spec = json.loads(backend.to_str())
        model = spec["model"]
        affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
        typed = [token for token in spec["added_tokens"] if not token["special"]]
        if model.get("type") != "BPE" or affixes or any(token[key] for token in typed for key in _PLAIN):
            raise InputError(
                "BPE-dropout needs a BPE tokenizer without marks at the ends of words and without added words that ask "
                "for borders; set bpe_dropout = 0."
            )
        self._backend = backend
        self._whole: dict[str, int] = model["vocab"] if model.get("ignore_merges") else {}
        self._merger = Merger(model["vocab"], [merge_parts(merge) for merge in model["merges"]])
        self._added = {token["content"]: token["id"] for token in typed}
        # Added words are found in the text as it is, or as it is rewritten; the longest of two that begin together.
        self._before, self._after = (
            _finder([token["content"] for token in typed if token["normalized"] == rewritten])
            for rewritten in (False, True)
        )

    def encode(
        self, texts: Sequence[str], dropout: float, draws: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts, int32, flat, and where each text's ids end, int64 [texts]."""
        words: list[str | int] = []  # an added word is its id already
        ends = []
        for text in texts:
            words += self._words(text)
            ends.append(len(words))
        counts, parts = np.zeros(len(words), dtype=np.int64), []
        for first in range(0, len(words), _WORDS):
            flat, counts[first : first + _WORDS] = self._merged(words[first : first + _WORDS], dropout, draws)
            parts.append(flat)
        return np.concatenate([np.zeros(0, np.int32), *parts]), np.append(0, np.cumsum(counts))[ends].astype(np.int64)

    def _words(self, text: str) -> Iterator[str | int]:
        normalizer, cutter = self._backend.normalizer, self._backend.pre_tokenizer
        for part, added in _split(text, self._before):
            if added:
                yield self._added[part]
                continue
            for piece, found in _split(normalizer.normalize_str(part) if normalizer else part, self._after):
                if found:
                    yield self._added[piece]
                elif piece:
                    yield from (word for word, _ in cutter.pre_tokenize_str(piece)) if cutter else [piece]

    def _merged(
        self, words: Sequence[str | int], dropout: float, draws: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the words, flat, and how many each has."""
        found = [[word] if isinstance(word, int) else self._kept(word, dropout) for word in words]
        texts = [str(word) for word, ids in zip(words, found, strict=True) if ids is None]
        merging = np.array([ids is None for ids in found], dtype=bool)
        points, starts = code_points(texts)
        flat, counts = self._merger.merge(self._merger.single[points], np.diff(starts), dropout, draws)
        every = np.array([0 if ids is None else len(ids) for ids in found], dtype=np.int64)
        every[merging] = counts
        result = np.zeros(int(every.sum()), dtype=np.int32)
        mine = np.repeat(merging, every)
        result[mine] = flat
        result[~mine] = [token for ids in found if ids is not None for token in ids]
        return result, every

    def _kept(self, word: str, dropout: float) -> list[int] | None:
        """Ids of a word that is not merged here: taken whole, too long, or of unknown characters."""
        if word in self._whole and not dropout:
            return [self._whole[word]]
        known = len(word) <= LONGEST and all(self._merger.single[ord(character)] >= 0 for character in word)
        return None if known else [token.id for token in self._backend.model.tokenize(word)]


def _finder(names: list[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))) if names else None


def _split(text: str, finder: re.Pattern[str] | None) -> Iterator[tuple[str, bool]]:
    """The text cut before and after every match, and what is one."""
    at = 0
    for match in finder.finditer(text) if finder else ():
        yield text[at : match.start()], False
        yield match.group(), True
        at = match.end()
    yield text[at:], False
