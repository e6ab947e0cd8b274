"""Counting, means, number extraction, bits per byte, and the table."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inkstone.chat.numbers import last_number, same_number
from inkstone.errors import InputError
from inkstone.evaluate.items import read_problems, read_quiz
from inkstone.evaluate.perplexity import Document, _figures, bits_per_byte, windows
from inkstone.evaluate.problems import answer_part
from inkstone.evaluate.quiz import per_byte
from inkstone.evaluate.table import score_rows
from inkstone.evaluate.tally import evenly, likeliest, summary, tally
from inkstone.tokenizer import HeldoutDocument

ROW = {"id": "a", "subject": "诗词", "lang": "zh", "question": "谁？", "choices": ["甲", "乙", "丙", "丁"], "answer": 0}


@given(st.lists(st.booleans(), min_size=2, max_size=60))
def test_standard_error_is_the_sample_deviation_over_the_root_of_n(outcomes: list[bool]) -> None:
    result = tally(outcomes)
    deviation = math.sqrt(sum((one - result["accuracy"]) ** 2 for one in outcomes) / (len(outcomes) - 1))
    assert result["stderr"] == pytest.approx(deviation / math.sqrt(len(outcomes)))
    assert result["correct"] == sum(outcomes) and result["n"] == len(outcomes)


def test_both_means_are_reported_over_questions_and_over_subjects() -> None:
    result = summary([True, True, True, False], {"subject": ["zh/a", "zh/a", "zh/a", "en/b"]})
    assert result["accuracy"] == 0.75
    assert result["subject_mean"] == 0.5


def test_ties_go_to_the_first_choice() -> None:
    assert likeliest([-2.0, -1.0, -1.0, -3.0]) == 1
    assert likeliest([-1.0, -1.0]) == 0
    assert likeliest([-math.inf, -math.inf]) == 0


def test_per_byte_score_divides_by_utf8_length(tmp_path: Path) -> None:
    directory = quiz_directory(tmp_path, [ROW | {"lang": "en", "choices": ["Rome", "北京", "Oslo  ", "Bern"]}])
    item = read_quiz(directory).test[0]
    assert per_byte([-4.0, -5.4, -4.4, -8.0], item) == pytest.approx([-1.0, -0.9, -1.1, -2.0])


@given(count=st.integers(0, 200), limit=st.integers(1, 50))
def test_an_even_choice_is_ordered_without_repeats_and_as_large_as_allowed(count: int, limit: int) -> None:
    chosen = evenly(count, limit)
    assert len(chosen) == min(count, limit)
    assert sorted(set(chosen)) == chosen and all(0 <= index < count for index in chosen)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("共有 1,000 个", "1000"),
        ("It costs $5.", "5"),
        ("答案是 -3。", "-3"),
        ("10-3", "3"),
        ("(2)-1", "1"),
        ("３５元", "35"),
        ("#### 1,234", "1234"),
        ("x = \N{MINUS SIGN}2.50", "-2.50"),
        ("1,2", "2"),
        ("2024年3月，共7.5千克", "7.5"),
        ("没有数字", None),
        ("", None),
    ],
)
def test_the_last_number_of_an_answer(text: str, number: str | None) -> None:
    assert last_number(text) == number


def test_numbers_are_compared_by_value_and_no_number_is_never_right() -> None:
    assert same_number("7.00", "7") and not same_number("7", "70")
    assert not same_number(None, None)


def test_what_a_base_model_writes_after_its_answer_does_not_count() -> None:
    assert last_number(answer_part("所以是 12。\n\n问：下一题有 99 个？", chat=False)) == "12"
    assert last_number(answer_part("第一步 3\n\n第二步 12", chat=True)) == "12"


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(2, 9))
def test_windows_predict_every_token_once_within_the_positions(ids: list[int], positions: int) -> None:
    pairs = windows(ids, 0, positions)
    assert [one for _, continuation in pairs for one in continuation] == ids
    assert all(context == [0] and len(context) + len(rest) <= positions for context, rest in pairs)


def test_a_uniform_model_over_bytes_needs_eight_bits_per_byte() -> None:
    assert bits_per_byte([-math.log(256)] * 30, 30) == pytest.approx(8.0)


def quiz_directory(tmp_path: Path, rows: list[dict[str, object]]) -> Path:
    (tmp_path / "dev.jsonl").write_text("", encoding="utf-8")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "test.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_all_problems_of_a_quiz_are_reported_at_once_with_file_row_and_field(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"id": "b", "answer": 4}, ROW | {"id": "c", "choices": ["甲", "乙", " ", 4]}, ROW]
    with pytest.raises(InputError) as error:
        read_quiz(quiz_directory(tmp_path, rows))
    text = str(error.value)
    assert "test.jsonl:2: answer" in text
    assert "test.jsonl:3: choices.2" in text and "test.jsonl:3: choices.3" in text
    assert "test.jsonl:4: id" in text and "test.jsonl:1" in text


def test_the_option_none_and_numeric_options_stay_texts(tmp_path: Path) -> None:
    directory = quiz_directory(tmp_path, [ROW | {"choices": ["None", "1.0", "01", "1e3"]}])
    assert read_quiz(directory).test[0].choices == ("None", "1.0", "01", "1e3")


def test_a_missing_question_directory_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dev\.jsonl"):
        read_problems(tmp_path / "nowhere")


SCORES = {
    "models": {
        "random": {"quiz": {"letter": {"accuracy": 0.25, "stderr": 0.02, "by_lang": {"zh": {"accuracy": 0.2}}}}},
        "sft": {
            "quiz": {"letter": {"accuracy": 0.5, "stderr": None, "by_phrasing": {"seen": {"accuracy": 1.0}}}},
            "heldout": {
                "bits_per_byte": 1.23456,
                "stderr": 0.0123,
                "documents": 61,
                "by_lang": {"zh": {"bits_per_byte": 2.0}},
            },
        },
    }
}


def test_the_table_has_a_column_per_model_and_a_dash_where_a_score_is_missing() -> None:
    rows = {row[0]: row[1:] for row in score_rows(SCORES)}
    assert rows["score"] == ["random", "sft"]
    assert rows["quiz, by letter"] == ["25.0 % ± 2.0", "50.0 %"]
    assert rows["  seen wording"] == ["–", "100.0 %"]
    assert rows["held-out bits per byte (61 documents)"] == ["–", "1.235 ± 0.012"]
    assert rows["  zh"] == ["–", "2.000"]
    assert not any("problems" in name for name in rows)


def test_the_error_of_bits_per_byte_is_how_far_the_rate_moves_when_documents_are_drawn_anew() -> None:
    generator = np.random.default_rng(3)
    sizes = generator.integers(50, 2000, 80)
    bits = sizes * generator.normal(1.5, 0.3, 80)
    rows = [(Document(HeldoutDocument(str(n), "", "zh", int(size), 1), [1]), -float(one) * math.log(2))
            for n, (size, one) in enumerate(zip(sizes, bits, strict=True))]  # fmt: skip
    drawn = generator.integers(0, 80, (4000, 80))
    moved = np.std(bits[drawn].sum(1) / sizes[drawn].sum(1))
    assert _figures(rows)["stderr"] == pytest.approx(moved, rel=0.08)
    assert _figures(rows[:1])["stderr"] is None
