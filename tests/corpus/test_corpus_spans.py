"""Lines and sentences that many documents share go, whatever else stays to the last character."""

import random

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from inkstone.corpus.judge.kernel import flatten, tokenize
from inkstone.corpus.repeats.spans import LINE, MENU, RULES, Removed, decide, find_spans, limits, remove, without_spans
from inkstone.corpus.settings import LineRules, SentenceRules

NOTICE = "本站所载文章版权归原作者所有，转载请注明出处。"
LONG = "The opinions printed on these pages are those of their authors alone and nobody else."
OFF = SentenceRules(max_documents=0)


def cleaned(
    texts: list[str], rules: LineRules, sentences: SentenceRules = OFF
) -> tuple[list[str], list[tuple[int, Removed]]]:
    parts, first = [], 0
    for size in (len(texts) // 2, len(texts) - len(texts) // 2):  # batches do not matter
        flat = flatten(pa.array(texts[first : first + size], pa.string()))
        parts.append(find_spans(flat, tokenize(flat), rules, sentences).rows(flat, first))
        first += size
    rows = np.concatenate(parts)
    random.Random(1).shuffle(order := list(range(len(rows))))  # nor does the order of counting
    rows = rows[order]
    drops = decide(rows, np.ones(len(rows), bool), limits(rules, sentences))
    done = remove(pa.array(texts, pa.string()), drops, drops["rank"], rules, sentences)
    return [text for text, _ in done], [(row, part) for row, (_, parts) in enumerate(done) for part in parts]


def story(number: int) -> str:
    return f"第{number}天\n作者甲\n今天是旅行的第{number}天，我们又走了{number * 3}里路。\n晚上住在山下。"


def test_a_long_line_in_more_documents_than_allowed_goes_from_all_of_them() -> None:
    texts = [f"{story(n)}\n{LONG}\nEnd {n}." for n in range(6)]
    kept, removed = cleaned(texts, LineRules(max_line_documents=5))
    assert kept == [f"{story(n)}\nEnd {n}." for n in range(6)]
    assert [(row, line.text, line.kind, line.documents) for row, line in removed] == [
        (n, LONG + "\n", LINE, 6) for n in range(6)
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
    assert {line.kind for _, line in removed} == {MENU}
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


def test_a_repeated_sentence_stays_in_its_first_documents() -> None:
    said = "他在那一天的日记里写道：人生如逆旅，我亦是行人。"
    texts = [f"第{n}章。{said}然后第{n}次出发去了山里的村子。" for n in range(6)]
    kept, removed = cleaned(texts, LineRules(), SentenceRules(max_documents=4))
    assert kept[:4] == texts[:4]
    assert kept[4:] == [text.replace(said, "") for text in texts[4:]]
    assert [(row, part.text, RULES[part.kind], part.documents) for row, part in removed] == [
        (n, said, "repeated_sentence", 6) for n in (4, 5)
    ]


def test_sentences_end_at_marks_stops_and_lines() -> None:
    flat = flatten(pa.array(["One two three. Version 1.5 stays whole! 他说：“好。”走了？\nend"], pa.string()))
    spans = find_spans(
        flat, tokenize(flat), LineRules(max_line_documents=0, max_menu_documents=0), SentenceRules(min_tokens=1)
    )
    text = flat.points.tobytes().decode("utf-32-le")
    assert [text[a:b] for a, b in zip(spans.starts, spans.ends, strict=True)] == [
        "One two three.", " Version 1.5 stays whole!", " 他说：“好。", "”走了？", "end"
    ]  # fmt: skip


def test_what_was_taken_out_goes_back_in_to_the_character() -> None:
    texts = [f"{NOTICE}\n{story(n)}\n\n{LONG}\nSkip to content" for n in range(7)] + ["", "\n", LONG]
    kept, removed = cleaned(texts, LineRules(max_line_documents=3))
    assert kept[:7] == [story(n) for n in range(7)]
    for row, (before, after) in enumerate(zip(texts, kept, strict=True)):
        for position, text in [(part.position, part.text) for owner, part in removed if owner == row]:
            after = after[:position] + text + after[position:]
        assert after == before


@given(st.text("a\n ", max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40))))
def test_any_spans_go_back_in(text: str, places: list[tuple[int, int]]) -> None:
    spans = [(min(pair), min(max(pair), len(text)), 0, 1) for pair in places if min(pair) < min(max(pair), len(text))]
    kept, removed = without_spans(text, spans)
    for part in removed:
        kept = kept[: part.position] + part.text + kept[part.position :]
    assert kept == text
