"""Repetition measures equal a plain count, whatever the text: the shortcuts change the cost and not the numbers."""

from collections import Counter

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from inkstone.corpus.judge.kernel import flatten, tokenize
from inkstone.corpus.judge.repetition import TOP_MIN_OCCURRENCES, repetition

TOP, REPEATED = (2, 3, 6), (5, 8, 16)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("甲乙丙", max_size=60), min_size=1, max_size=6))
def test_shares_equal_a_plain_count(texts: list[str]) -> None:
    measures = repetition(tokenize(flatten(pa.array(texts, pa.string()))), TOP, REPEATED)
    for row, text in enumerate(texts):
        total = max(len(text), 1)
        for n in TOP:
            most = max(Counter(text[i : i + n] for i in range(len(text) - n + 1)).values(), default=0)
            expected = min(most * n / total, 1) if most >= TOP_MIN_OCCURRENCES else 0
            assert abs(measures[f"top_{n}gram_share"][row] - expected) < 1e-12
        for n in REPEATED:
            seen, covered = set(), set()
            for i in range(len(text) - n + 1):
                if text[i : i + n] in seen:
                    covered.update(range(i, i + n))
                seen.add(text[i : i + n])
            assert abs(measures[f"repeated_{n}gram_share"][row] - len(covered) / total) < 1e-12


def test_a_document_does_not_repeat_its_neighbour() -> None:
    measures = repetition(tokenize(flatten(pa.array(["海底一尾鱼儿慢慢地游过来了"] * 3))), TOP, REPEATED)
    assert not any(share.any() for share in measures.values())
