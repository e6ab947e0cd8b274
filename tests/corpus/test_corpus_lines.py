"""Line rules: lines that many documents share go, whatever else stays to the last character."""

import numpy as np
import pyarrow as pa

from inkstone.corpus.kernel import flatten, tokenize
from inkstone.corpus.lines import LineCounts, Removed, candidate_lines, line_keys, remove_lines
from inkstone.corpus.settings import LineRules

NOTICE = "本站所载文章版权归原作者所有，转载请注明出处。"
LONG = "The opinions printed on these pages are those of their authors alone and nobody else."


def cleaned(texts: list[str], rules: LineRules) -> tuple[list[str], list[Removed]]:
    counts = LineCounts()
    for half in (texts[::2], texts[1::2]):  # the order of counting does not matter
        flat = flatten(pa.array(half, pa.string()))
        lines = candidate_lines(flat, tokenize(flat), rules)
        counts.add(line_keys(lines), lines.offsets)
    result, removed = remove_lines(pa.array(texts, pa.string()), rules, counts.frequent(rules))
    return result.to_pylist(), removed


def story(number: int) -> str:
    return f"第{number}天\n作者甲\n今天是旅行的第{number}天，我们又走了{number * 3}里路。\n晚上住在山下。"


def test_a_long_line_in_more_documents_than_allowed_goes_from_all_of_them() -> None:
    texts = [f"{story(n)}\n{LONG}\nEnd {n}." for n in range(6)]
    kept, removed = cleaned(texts, LineRules(max_line_documents=5))
    assert kept == [f"{story(n)}\nEnd {n}." for n in range(6)]
    assert [(line.document, line.text, line.rule, line.documents, line.limit) for line in removed] == [
        (n, LONG, "boilerplate_line", 6, 5) for n in range(6)
    ]


def test_a_line_in_exactly_the_allowed_number_of_documents_stays() -> None:
    texts = [f"{story(n)}\n{LONG}" for n in range(5)]
    assert cleaned(texts, LineRules(max_line_documents=5)) == (texts, [])


def test_a_line_counts_once_per_document() -> None:
    texts = ["\n".join([LONG] * 20), *[story(n) for n in range(4)]]
    assert cleaned(texts, LineRules(max_line_documents=5)) == (texts, [])


def test_short_lines_stay_however_frequent() -> None:
    texts = [f"浣溪沙\n苏轼\n第{n}首，山下兰芽短浸溪。" for n in range(50)]
    assert cleaned(texts, LineRules(max_line_documents=5, max_menu_documents=3)) == (texts, [])


def test_navigation_goes_from_the_first_few_repeats_on() -> None:
    menus = ["首页 | 新闻 | 论坛 | 登录", "上一篇：没有了", "Home » News » Today", "Skip to content", "版权所有 © 2020"]
    texts = [story(n) + "\n" + "\n".join(menus) for n in range(4)]
    kept, removed = cleaned(texts, LineRules())
    assert kept == [story(n) for n in range(4)]
    assert {line.rule for line in removed} == {"menu_line"}
    assert len(removed) == 4 * len(menus)


def test_code_tables_and_speakers_are_not_navigation() -> None:
    same = [
        ">>> import sys",
        "int mid = (l + r) >> 1;",
        "| name | type | text | note |",
        "std::vector<std::pair<int>>",
        "A: no",
    ]
    texts = [story(n) + "\n" + "\n".join(same) for n in range(9)]
    assert cleaned(texts, LineRules()) == (texts, [])


def test_zero_switches_a_line_rule_off() -> None:
    texts = [f"{story(n)}\n{LONG}\nSkip to content" for n in range(9)]
    assert cleaned(texts, LineRules(max_line_documents=0, max_menu_documents=0)) == (texts, [])


def test_lines_differing_in_case_and_punctuation_are_one_line() -> None:
    texts = [f"{story(n)}\n{LONG.upper() if n % 2 else LONG.replace(' and', ', and')}" for n in range(6)]
    kept, _ = cleaned(texts, LineRules(max_line_documents=5))
    assert kept == [story(n) for n in range(6)]


def test_sums_of_kept_and_removed_lines_are_the_text() -> None:
    texts = [f"{NOTICE}\n{story(n)}\n\n{LONG}" for n in range(7)] + ["", "\n", LONG]
    kept, removed = cleaned(texts, LineRules(max_line_documents=3))
    for row, (before, after) in enumerate(zip(texts, kept, strict=True)):
        gone = [line.text for line in removed if line.document == row]
        assert sorted(line for line in before.split("\n") if line) == sorted(
            [*gone, *(line for line in after.split("\n") if line)]
        )


def test_counts_merge_the_same_however_they_arrive() -> None:
    keys = np.random.default_rng(0).integers(0, 20, 300).astype(np.uint64)
    whole, parts = LineCounts(), LineCounts()
    whole.add(keys, np.arange(0, 301, 3))
    for start in range(0, 300, 30):
        parts.add(keys[start : start + 30], np.arange(0, 31, 3))
        parts.settle()
    whole.settle()
    assert whole.keys.tolist() == parts.keys.tolist()
    assert whole.counts.tolist() == parts.counts.tolist()
