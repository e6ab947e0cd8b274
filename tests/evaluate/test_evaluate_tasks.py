"""Benchmarks from their files: prompts equal the recorded ones to the byte, layouts agree, damage is one sentence."""

import gzip
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inkstone.errors import InputError
from inkstone.evaluate.protocols import PROTOCOLS, find
from inkstone.evaluate.report.figures import figures
from inkstone.evaluate.run.explain import explain, visible_spaces
from inkstone.evaluate.run.local import LocalModel
from inkstone.evaluate.run.runner import ask_all
from inkstone.evaluate.tasks import BENCHMARKS, Item, load

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "eval"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no benchmark data at {DATA}")


def golden(prefix: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / "oracle" / "lm_eval_golden.jsonl.gz", "rt", encoding="utf-8") as stream:
        return [row for row in map(json.loads, stream) if row["task"].startswith(prefix)]


def recorded_items(task: str) -> tuple[list[Item], list[dict[str, Any]]]:
    """The items that lm-eval was run on, with what it recorded."""
    wanted = {(row["task"].removeprefix(f"{task}_"), row["doc_id"]): row for row in golden(f"{task}_")}
    counts: dict[str, int] = {}
    items, rows = [], []
    for item in load(task, DATA).items:
        number = counts[item.subject] = counts.get(item.subject, -1) + 1
        if (item.subject, number) in wanted:
            items.append(item)
            rows.append(wanted[item.subject, number])
    return items, rows


@needs_data
@pytest.mark.parametrize(("task", "count"), [("cmmlu", 110), ("mmlu", 114)])
def test_lm_eval_prompts_equal_the_recorded_ones_to_the_byte(task: str, count: int) -> None:
    items, rows = recorded_items(task)
    assert len(items) == len(rows) == count
    asks = ask_all(find(f"{task}@lm-eval"), load(task, DATA), items)
    assert [ask.prompt() for ask in asks] == [row["context"] for row in rows]
    assert [list(ask.endings) for ask in asks] == [row["continuations"] for row in rows]
    assert [list(item.gold) for item in items] == [[row["target"]] for row in rows]


@needs_data
@pytest.mark.parametrize("task", ["cmmlu", "mmlu"])
def test_lm_eval_log_probabilities_equal_the_recorded_ones(task: str) -> None:
    items, rows = recorded_items(task)
    items, rows = items[::4], rows[::4]
    protocol = find(f"{task}@lm-eval")
    asks = ask_all(protocol, load(task, DATA), items)
    answers = dict(LocalModel(DATA / "oracle" / "tiny_llama").answer(protocol, asks, range(len(asks))))
    for index, row in enumerate(rows):
        assert answers[index].values == pytest.approx(row["loglikelihoods"], abs=1e-4)
        assert list(answers[index].greedy) == row["is_greedy"]


@needs_data
@pytest.mark.parametrize("task", ["cmmlu", "mmlu"])
def test_the_official_csv_layout_gives_the_same_items_as_json_lines(task: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(DATA / task / f"{task}_csv_layout.zip") as archive:
        archive.extractall(tmp_path / task)
    from_csv, from_json = load(task, tmp_path), load(task, DATA)
    strip = [(item.subject, item.texts["question"], item.choices, item.gold) for item in from_csv.items]
    assert strip == [(item.subject, item.texts["question"], item.choices, item.gold) for item in from_json.items]
    assert from_csv.examples.keys() == from_json.examples.keys()


@needs_data
def test_the_word_none_and_numbers_stay_what_the_files_say() -> None:
    """Readers that guess types turn ten MMLU options into nan and 1.0 into 1."""
    mmlu = [choice for item in load("mmlu", DATA).items for choice in item.choices]
    assert mmlu.count("None") == 10
    cmmlu = [choice for item in load("cmmlu", DATA).items for choice in item.choices]
    assert any(choice.endswith(".0") for choice in cmmlu)
    assert any(choice != choice.strip() for choice in cmmlu)


@needs_data
def test_the_ceval_layout_is_read_and_its_test_answers_are_hidden(tmp_path: Path) -> None:
    with zipfile.ZipFile(DATA / "ceval" / "ceval_layout_sample.zip") as archive:
        archive.extractall(tmp_path / "ceval")
    val, test = load("ceval", tmp_path, "val"), load("ceval", tmp_path, "test")
    assert all(len(item.gold) == 1 for item in val.items)
    assert {len(val.examples_of(item.subject)) for item in val.items} == {5}
    assert len({item.subject for item in test.items}) == 15


def test_every_subject_table_is_as_published() -> None:
    hard = [name for name, (_, categories) in BENCHMARKS["ceval"].subjects.items() if "Hard" in categories]
    assert (len(BENCHMARKS["ceval"].subjects), len(hard)) == (52, 8)
    assert len(BENCHMARKS["cmmlu"].subjects) == 67
    assert len(BENCHMARKS["mmlu"].subjects) == 57


@needs_data
def test_a_published_run_aggregates_to_its_published_means() -> None:
    """Chinese-Alpaca-Plus-7B on C-Eval val: 36.70 over items, 36.33 over subjects, Hard 27.13 over subjects."""
    path = DATA / "ceval" / "reference_val_scores_chinese_alpaca_plus_7b.json"
    published = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        {"id": f"{subject}{number}", "subject": subject, "gold": [0], "parsed": True, "cut": 0, "dropped": 0,
         "seconds": 0.0, "score": float(number < round(facts["correct"]))}
        for subject, facts in published.items() if subject in BENCHMARKS["ceval"].subjects
        for number in range(int(facts["num"]))
    ]  # fmt: skip
    found = figures(rows, BENCHMARKS["ceval"].subjects)
    assert len(rows) == 1346
    assert round(100 * found["item_mean"], 2) == 36.70
    assert round(100 * found["subject_mean"], 2) == 36.33
    assert round(100 * found["categories"]["Hard"]["subject_mean"], 2) == 27.13
    assert found["low"] < found["item_mean"] < found["high"]


def write_cmmlu(root: Path, rows: list[dict[str, Any]]) -> Path:
    folder = root / "cmmlu"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root


GOOD = {"id": "a", "subject": "anatomy", "Question": "q?", "A": "1", "B": "2", "C": "3", "D": "4", "Answer": "B"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (GOOD | {"Answer": "E"}, "none of the options ABCD"),
        (GOOD | {"subject": "alchemy"}, "no subject 'alchemy'"),
        (GOOD | {"A": 1.0}, "must be texts"),
        ({"id": "a"}, "lacks subject, Question"),
    ],
)
def test_a_row_that_is_wrong_is_named_with_its_place(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load("cmmlu", write_cmmlu(tmp_path, [GOOD, row]))
    assert "test.jsonl:2" in str(caught.value)


def test_files_that_are_missing_or_of_another_shape_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder cmmlu"):
        load("cmmlu", tmp_path)
    (tmp_path / "cmmlu" / "test").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no test questions"):
        load("cmmlu", tmp_path)
    table = tmp_path / "cmmlu" / "test" / "anatomy.csv"
    table.write_text("id,text,label\n1,a,0\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"anatomy.csv has the columns id, text, label and lacks Question, A"):
        load("cmmlu", tmp_path)
    table.write_text(',Question,A,B,C,D,Answer\n0,"q,1,2,3,4,A\n', encoding="utf-8")
    with pytest.raises(InputError, match="quotation mark"):
        load("cmmlu", tmp_path)


@pytest.mark.parametrize("text", ["cmmluu", "cmmlu@harness", "cmmlu@lm-eval/x", "cmmlu@lm-eval/-1"])
def test_an_unknown_task_or_protocol_is_named_with_those_there_are(text: str) -> None:
    with pytest.raises(InputError, match=r"there are|it has|number of worked examples"):
        find(text)


def test_no_two_protocols_of_a_task_have_one_fingerprint() -> None:
    seen = [protocol.fingerprint for known in PROTOCOLS.values() for protocol in known.values()]
    assert len(set(seen)) == len(seen)
    assert find("cmmlu@lm-eval/0").fingerprint != find("cmmlu@lm-eval").fingerprint


def protocol_prompt(task: str, tmp_path: Path, subject: str = "anatomy") -> str:
    names = ("Question", "Answer") if task.startswith("cmmlu") else ("question", "answer")
    rows = [{"id": n, "subject": subject, names[0]: f"q{n} ", **dict(zip("ABCD", "wxyz", strict=True)), names[1]: "C"}
            for n in ("d0", "d1", "t")]  # fmt: skip
    folder = tmp_path / task.partition("@")[0]
    folder.mkdir()
    split = "val" if task.startswith("ceval") else "test"
    for name, some in (("dev", rows[:2]), (split, rows[2:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    loaded = load(folder.name, tmp_path)
    [ask] = ask_all(find(f"{task}/2"), loaded, loaded.items)
    return ask.prompt()


OPTIONS = "A. w\nB. x\nC. y\nD. z\n"
GOLDEN = {
    "cmmlu@official": "以下是关于解剖学的单项选择题，请直接给出正确答案的选项。\n\n"
    f"题目：q{{}} \n{OPTIONS}答案是：C\n\n题目：q{{}} \n{OPTIONS}答案是：C\n\n题目：qt \n{OPTIONS}答案是：",
    "mmlu@official": "The following are multiple choice questions (with answers) about  anatomy.\n\n"
    f"q{{}} \n{OPTIONS}Answer: C\n\nq{{}} \n{OPTIONS}Answer: C\n\nqt \n{OPTIONS}Answer:",
    "ceval@official": "以下是中国关于法学考试的单项选择题，请选出其中的正确答案。\n\n"
    f"q{{}} \n{OPTIONS}答案：C\n\nq{{}} \n{OPTIONS}答案：C\n\nqt \n{OPTIONS}答案：",
    "ceval@baichuan": "以下是中国关于法学考试的单项选择题，请选出其中的正确答案。\n\n"
    f"q{{}} \n{OPTIONS}答案：C\nq{{}} \n{OPTIONS}答案：C\nqt \n{OPTIONS}答案：",
    "ceval@opencompass-ppl": "以下是关于法学的单项选择题，请直接给出正确答案的选项。\n"
    f"q{{}} \n{OPTIONS}答案: C\nq{{}} \n{OPTIONS}答案: C\nqt \n{OPTIONS}答案: ",
}


@pytest.mark.parametrize("task", GOLDEN)
def test_prompts_of_the_other_protocols_are_those_written_by_hand(task: str, tmp_path: Path) -> None:
    subject = "law" if task.startswith("ceval") else "anatomy"
    prompt = protocol_prompt(task, tmp_path, subject)
    orders = [GOLDEN[task].format(*order) for order in (("d0", "d1"), ("d1", "d0"))]
    assert prompt in (orders if task == "ceval@baichuan" else orders[:1])


def test_opencompass_repeats_its_header_in_every_round(tmp_path: Path) -> None:
    header = "以下是中国关于法学考试的单项选择题，请选出其中的正确答案。\n"
    turn = header + f"q{{}} \n{OPTIONS}答案: "
    lines = "\n".join([turn.format("d0"), "C", turn.format("d1"), "C", turn.format("t")])
    assert protocol_prompt("ceval@opencompass", tmp_path, "law") == lines


@needs_data
def test_explain_shows_every_space_and_line_end() -> None:
    assert visible_spaces("a b\n\tc\u3000") == "a·b⏎\n→\tc□"
    shown = explain(find("mmlu@official"), DATA)
    assert "about··abstract·algebra.⏎\n⏎\n" in shown
    assert find("mmlu@official").fingerprint in shown
    assert "ending 0: ·A" in shown


@needs_data
def test_the_seeded_shuffle_is_the_same_at_every_call_and_differs_between_questions() -> None:
    loaded = load("mmlu", DATA)
    protocol = replace(find("mmlu@baichuan"), examples="shuffled")
    some = [item for item in loaded.items if item.subject == "anatomy"][:20]
    first = [ask.examples for ask in ask_all(protocol, loaded, some)]
    assert first == [ask.examples for ask in ask_all(protocol, loaded, some)]
    assert first[3:5] == [ask.examples for ask in ask_all(protocol, loaded, some[3:5])]
    assert len(set(first)) > 10
    assert {tuple(sorted(one)) for one in first} == {tuple(sorted(first[0]))}
