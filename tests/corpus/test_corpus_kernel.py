"""The kernel against plain Python: the same tokens, hashes and repetition, one document at a time."""

import re
from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from inkstone.corpus.judge.kernel import (
    Tokens,
    decode,
    encode,
    flatten,
    hash_spans,
    member,
    mix,
    ngram_hashes,
    tokenize,
    window_positions,
)
from inkstone.corpus.judge.measures import measure
from inkstone.corpus.judge.phrases import phrase_count
from inkstone.corpus.judge.repetition import TOP_MIN_OCCURRENCES

documents = st.lists(st.text(st.sampled_from("水木火 ab1,。\n\t-"), max_size=40), min_size=1, max_size=5)


def tokens_of(texts: list[str]) -> Tokens:
    return tokenize(flatten(pa.array(texts, pa.string())))


def words(text: str) -> list[str]:
    return re.findall(r"[\u4e00-\u9fff]|[a-z0-9]+", text.lower())


def measured(texts: list[str]) -> dict[str, np.ndarray]:
    flat = flatten(pa.array(texts, pa.string()))
    return measure(flat, tokenize(flat))


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_texts_come_back_from_code_points_unchanged(texts: list[str]) -> None:
    assert encode(*decode(pa.array(texts, pa.string()))).to_pylist() == texts


@given(documents)
def test_tokens_are_han_characters_and_letter_digit_runs(texts: list[str]) -> None:
    tokens = tokens_of(texts)
    points, _ = decode(pa.array(texts, pa.string()))
    joined = points.tobytes().decode("utf-32-le")
    spelled = [joined[a:b] for a, b in zip(tokens.starts, tokens.ends, strict=True)]
    assert spelled == [word for text in texts for word in words(text)]
    assert np.diff(tokens.offsets).tolist() == [len(words(text)) for text in texts]


@given(documents)
def test_equal_tokens_have_equal_hashes_and_others_do_not(texts: list[str]) -> None:
    spelled = [word for text in texts for word in words(text)]
    names = dict(zip(spelled, tokens_of(texts).hashes.tolist(), strict=True))
    assert [names[word] for word in spelled] == tokens_of(texts).hashes.tolist()
    assert len(set(names.values())) == len(names)


def test_letter_case_does_not_change_a_hash() -> None:
    tokens = tokens_of(["Straße ÉTÉ Ink", "straße été INK"])
    assert tokens.hashes[:3].tolist() == tokens.hashes[3:].tolist()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.data())
def test_spans_hash_by_content_wherever_they_stand(values: list[int], data: st.DataObject) -> None:
    spans = [tuple(sorted(data.draw(st.tuples(*[st.integers(0, len(values))] * 2)))) for _ in range(6)]
    starts, ends = (np.array(side, np.int64) for side in zip(*spans, strict=True))
    hashes = hash_spans(mix(np.array(values, np.uint64)), starts, ends).tolist()
    for (a, b), left in zip(spans, hashes, strict=True):
        for (c, d), right in zip(spans, hashes, strict=True):
            assert (left == right) == (values[a:b] == values[c:d])


@given(documents, st.integers(1, 10))
def test_ngrams_stay_inside_their_document(texts: list[str], n: int) -> None:
    expected = [tuple(words(text)[i : i + n]) for text in texts for i in range(len(words(text)) - n + 1)]
    hashes, offsets = ngram_hashes(tokens_of(texts), n)
    assert np.diff(offsets).tolist() == [max(len(words(text)) - n + 1, 0) for text in texts]
    assert len(window_positions(tokens_of(texts).offsets, n)) == len(expected)
    assert len(set(hashes.tolist())) == len(set(expected))
    assert len(set(zip(expected, hashes.tolist(), strict=True))) == len(set(expected))


@given(documents)
def test_repeated_ngram_share_counts_tokens_in_later_occurrences(texts: list[str]) -> None:
    for n in (5, 10):
        expected = []
        for text in texts:
            tokens, seen, covered = words(text), set(), set()
            for i in range(len(tokens) - n + 1):
                gram = tuple(tokens[i : i + n])
                covered |= set(range(i, i + n)) if gram in seen else set()
                seen.add(gram)
            expected.append(len(covered) / max(len(tokens), 1))
        np.testing.assert_allclose(measured(texts)[f"repeated_{n}gram_share"], expected)


@given(documents)
def test_top_ngram_share_is_that_of_the_most_frequent(texts: list[str]) -> None:
    for n in (2, 4):
        expected = []
        for text in texts:
            tokens = words(text)
            counts = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
            top = max(counts.values(), default=0)
            expected.append(min(top * n / max(len(tokens), 1), 1) if top >= TOP_MIN_OCCURRENCES else 0)
        np.testing.assert_allclose(measured(texts)[f"top_{n}gram_share"], expected)


@given(st.lists(st.integers(0, 50)), st.sets(st.integers(0, 50)))
def test_member_is_set_membership(values: list[int], table: set[int]) -> None:
    found = member(np.array(values, np.uint64), np.array(sorted(table), np.uint64))
    assert found.tolist() == [value in table for value in values]


def test_phrases_match_whole_tokens_across_punctuation() -> None:
    texts = ["Click here!", "CLICK, HERE", "clicks here", "请加微信", "请加 微 信。", "加", "click\n", "here"]
    found = phrase_count(tokens_of(texts), ("click here", "加微信"))
    assert found.tolist() == [1, 1, 0, 1, 1, 0, 0, 0]
