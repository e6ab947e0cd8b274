"""BPE-dropout: other splits of the same text, repeatable, merged as the library merges; byte-level vocabularies too."""

import itertools
import random

import numpy as np
import pytest
import tokenizers
from foreign_samples import HARD, REAL, lines, needs_shared
from tokenizer_samples import CHINESE, ENGLISH
from tokenizers import models

from inkstone.errors import InputError
from inkstone.tokenizer import Tokenizer
from inkstone.tokenizer.bpe.dropout import WordMerger


def split(flat: np.ndarray, ends: np.ndarray) -> list[list[int]]:
    return [part.tolist() for part in np.split(flat, ends[:-1])]


def test_dropout_keeps_the_text_splits_it_finer_and_follows_the_seed(tokenizer: Tokenizer) -> None:
    batch = [*CHINESE, *ENGLISH, "<|im_end|> 龘"] * 20
    plain = tokenizer.encode_flat(batch)[0]
    draws = [tokenizer.encode_flat(batch, 0.3, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(draws[0][0], draws[1][0]) and not np.array_equal(draws[0][0], draws[2][0])
    assert [tokenizer.decode(ids) for ids in split(*draws[0])] == batch
    assert len(draws[0][0]) > 1.1 * len(plain)
    assert not tokenizer.control_ids.intersection(draws[0][0].tolist())
    everything = tokenizer.encode_flat(batch, 1.0, np.random.default_rng(0))[0]
    assert len(everything) >= sum(map(len, batch))
    assert np.array_equal(tokenizer.encode_flat(batch)[0], plain)  # nothing was remembered


def test_dropout_is_refused_where_it_cannot_be_done() -> None:
    model = models.BPE(vocab={"a": 0, "b</w>": 1, "ab</w>": 2}, merges=[("a", "b</w>")], end_of_word_suffix="</w>")
    tokenizer = Tokenizer(tokenizers.Tokenizer(model), None, "a", None)
    with pytest.raises(InputError, match="BPE-dropout needs"):
        tokenizer.encode_flat(["ab"], 0.1, np.random.default_rng(0))
    with pytest.raises(InputError, match="BPE-dropout needs"):
        tokenizer.require_dropout()


@needs_shared
@pytest.mark.parametrize(
    "name", ["mpt.gguf", *(pytest.param(name, marks=pytest.mark.slow) for name in ("falcon.gguf", "llama-bpe.gguf"))]
)
def test_dropout_of_a_byte_level_vocabulary_merges_as_the_library_does(name: str) -> None:
    tokenizer = Tokenizer.load(REAL / name)
    texts = HARD + [line[:400] for line in lines("zh/wiki_cmrc2018", "en/wiki_demo", limit=40)]
    exact, ends = WordMerger(tokenizer._backend).encode(texts, 0.0, None)
    assert split(exact, ends) == tokenizer.encode_batch(texts)
    draws = [tokenizer.encode_flat(texts, 0.1, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(draws[0][0], draws[1][0]) and not np.array_equal(draws[0][0], draws[2][0])
    if name != "mpt.gguf":  # which composes characters first (NFC)
        assert [tokenizer.decode(ids) for ids in split(*draws[0])] == texts
    assert not tokenizer.control_ids.intersection(draws[0][0].tolist())
    # As many tokens as the algorithm of the paper gives (arXiv 1910.13267), written down as it is told there.
    spec = tokenizer.spec()["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(spec["merges"])}
    words = [word for word in WordMerger(tokenizer._backend)._words("".join(texts)) if isinstance(word, str)]
    chance = random.Random(5)
    theirs = sum(plain(word, ranks, 0.1, chance) for word in words)
    ours = len(tokenizer.encode_flat(["".join(texts)], 0.1, np.random.default_rng(7))[0])
    assert theirs > 1.03 * len(exact) and abs(ours / theirs - 1) < 0.03


def plain(word: str, ranks: dict[tuple[str, ...], int], dropout: float, chance: random.Random) -> int:
    """Number of tokens of a word, where each possible merge is passed over by chance in each round."""
    parts = list(word)
    while True:
        pairs = [(ranks[pair], at) for at, pair in enumerate(itertools.pairwise(parts)) if pair in ranks]
        offered = [pair for pair in pairs if chance.random() >= dropout]
        if not offered:
            return len(parts)
        _, at = min(offered)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
