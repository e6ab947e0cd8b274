"""A million random strings: every one comes back, in our own vocabulary and in a foreign one."""

import random

import pytest
from foreign_samples import REAL, needs_shared
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inkstone.tokenizer import Tokenizer

# Planes and blocks that text has, and some that it does not have yet; surrogates are no characters.
BLOCKS = [(0, 0x80), (0x80, 0x3000), (0x3000, 0xA000), (0xA000, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
STRINGS = 10_000


def strings(seed: int) -> list[str]:
    draw = random.Random(seed)

    def one() -> str:
        blocks = draw.sample(BLOCKS, draw.randint(1, 3))
        return "".join(chr(draw.randrange(*draw.choice(blocks))) for _ in range(draw.randint(0, 20)))

    return [one() for _ in range(STRINGS)]


def hold(tokenizer: Tokenizer, texts: list[str], expected: list[str]) -> None:
    encoded = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(ids) for ids in encoded] == expected
    assert all(tokenizer.control_ids.isdisjoint(ids) for ids in encoded)


def test_thousands_of_random_strings_come_back(tokenizer: Tokenizer) -> None:
    texts = strings(seed=0)[:5000]
    hold(tokenizer, texts, texts)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(seed=st.integers(0, 2**64))
def test_a_million_random_strings_come_back(tokenizer: Tokenizer, seed: int) -> None:
    texts = strings(seed)
    hold(tokenizer, texts, texts)


@pytest.mark.slow
@needs_shared
def test_a_million_random_strings_come_back_from_a_foreign_vocabulary() -> None:
    spm = pytest.importorskip("sentencepiece")
    tokenizer = Tokenizer.load(REAL / "chatglm2.model")
    oracle = spm.SentencePieceProcessor(model_file=str(REAL / "chatglm2.model"))
    for seed in range(100):
        texts = strings(seed)
        assert tokenizer.encode_batch(texts) == oracle.encode(texts)
        hold(tokenizer, texts, [text.replace("▁", " ") for text in texts])
