"""Repetition measures equal a plain count, whatever the text: the shortcuts change the cost and not the numbers."""

from collections import Counter

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from inkstone.corpus.judge.kernel import flatten, tokenize
from inkstone.corpus.judge.repetition import TOP_MIN_OCCURRENCES, repetition

TOP, REPEATED = (2, 3, 6), (5, 8, 16)


def is_name(text: str, gram: str) -> bool:
    """Whether `gram`, where it covers a tenth to two fifths, has other neighbours at a quarter of its places."""
    at = [i for i in range(len(text)) if text.startswith(gram, i)]

    def differ(step: int) -> bool:
        beside = {text[min(max(i + step, 0), len(text) - 1)] for i in at}
        return (len(beside) - 1) * 4 >= len(at)

    n = len(gram)
    both = any(differ(-1 - k) for k in range(n)) and any(differ(n + k) for k in range(n))
    return both and 0.1 < len(at) * n / len(text) < 0.4


def test_a_name_counts_half_and_a_phrase_without_end_counts_whole() -> None:
    name = "长宗我部元亲"
    others = [
        "生于土佐的冈丰城里",
        "后来统一四国而称雄",
        "的父亲是国亲这个人",
        "曾向秀吉称臣并献马",
        "死于伏见的一座大屋",
        "喜读诗书也善于弓马不爱饮酒",
    ]
    phrase = "加我微信号码" * 20
    shares = repetition(tokenize(flatten(pa.array(["".join(name + other for other in others), phrase]))), (6,), ())
    assert shares["top_6gram_share"][0] == 6 * 6 / 2 / len("".join(name + other for other in others))
    assert shares["top_6gram_share"][1] == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("甲乙丙", max_size=60), min_size=1, max_size=6))
def test_shares_equal_a_plain_count(texts: list[str]) -> None:
    measures = repetition(tokenize(flatten(pa.array(texts, pa.string()))), TOP, REPEATED)
    for row, text in enumerate(texts):
        total = max(len(text), 1)
        for n in TOP:
            counts = Counter(text[i : i + n] for i in range(len(text) - n + 1))
            weights = (count / (2 if is_name(text, gram) else 1) for gram, count in counts.items()
                       if count >= TOP_MIN_OCCURRENCES)  # fmt: skip
            expected = min(max(weights, default=0) * n / total, 1)
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
