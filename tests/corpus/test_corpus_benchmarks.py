"""Decontamination: a quoted item is found in any layout and named; ordinary text about the same things stays."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest

from inkstone.corpus.judge.benchmarks import Benchmarks, find_contamination, load_benchmarks
from inkstone.corpus.judge.kernel import flatten, tokenize
from inkstone.errors import InputError

ITEMS = [
    {"id": "zh/1", "Question": "近代民族企业家张謇在谈到办厂经历时感慨千磨百折，其主要原因是", "A": "难以招募工人",
     "B": "与外国资本竞争处于不利地位", "C": "工人要求增加薪酬", "D": "经营管理存在弊端", "Answer": "B"},
    {"id": "en/1", "question": "Sam sells bread and has a target of selling 120 crates in a week. By how many crates "
     "was he off from his target?", "answer": "55", "passage": "A long passage about markets and bread " * 20},
    {"id": "en/2", "question": "Who wrote Hamlet?", "choices": ["Shakespeare", "Marlowe", "Jonson", "Kyd"]},
]  # fmt: skip


@pytest.fixture
def index(tmp_path: Path) -> Benchmarks:
    path = tmp_path / "items.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(item) + "\n" for item in ITEMS).encode()))
    found = load_benchmarks([str(path)])
    assert found is not None
    return found


def overlap(index: Benchmarks, text: str) -> tuple[float, str]:
    share, item = find_contamination(tokenize(flatten(pa.array(["前文无关。", text]))), index)
    assert share[0] == 0
    return float(share[1]), index.names[int(item[1])] if item[1] >= 0 else ""


def test_a_quoted_item_is_found_in_any_layout_and_script(index: Benchmarks) -> None:
    item = ITEMS[0]
    options = [item[label] for label in "ABCD"]
    for text in (
        f"【题库】{item['Question']}\nA. {options[0]}\nB. {options[1]}\nC. {options[2]}\nD. {options[3]}\n答案：B",
        f"{item['Question']} (A){options[0]} (B){options[1]} (C){options[2]} (D){options[3]}",
        f"有人问：{item['Question']}？",
        "近代民族企業家張謇在談到辦廠經歷時感慨千磨百折，其主要原因是什麼",
    ):
        assert overlap(index, text) == (1.0, "zh/1")
    assert overlap(index, "Homework\n\nQ: " + str(ITEMS[1]["question"]) + "\nA: 55") == (1.0, "en/1")


def test_part_of_an_item_counts_in_proportion(index: Benchmarks) -> None:
    words = str(ITEMS[1]["question"]).split()
    share, name = overlap(index, "We read: " + " ".join(words[: len(words) // 2 + 4]))
    assert 0.3 < share < 0.7 and name == "en/1"


def test_passages_and_text_about_the_same_things_are_no_contamination(index: Benchmarks) -> None:
    assert overlap(index, str(ITEMS[1]["passage"]))[0] == 0
    assert overlap(index, "张謇是近代民族企业家，办厂经历千磨百折。")[0] == 0
    assert overlap(index, "Who wrote Hamlet? Shakespeare, of course.")[0] == 0


def test_items_too_short_to_search_for_are_counted(index: Benchmarks) -> None:
    assert index.too_short == 1


def test_broken_benchmark_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question": "a"}\n{"question": \n')
    with pytest.raises(InputError, match=r"bad\.jsonl:2"):
        load_benchmarks([str(tmp_path / "bad.jsonl")])
