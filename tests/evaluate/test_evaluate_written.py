"""Benchmarks of words, exams and free answers: what is read from a text, and what every file's oddities become."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from test_evaluate_tasks import DATA, golden, needs_data

from inkstone.errors import InputError
from inkstone.evaluate.protocols import PROTOCOLS, find
from inkstone.evaluate.protocols.readers import READERS, plain_formula
from inkstone.evaluate.report.figures import figures
from inkstone.evaluate.run.explain import explain
from inkstone.evaluate.run.local import LocalModel
from inkstone.evaluate.run.model import Said
from inkstone.evaluate.run.runner import ask_all, verdict
from inkstone.evaluate.tasks import Item, load


@needs_data
def test_hellaswag_prompts_scores_and_both_accuracies_equal_the_recorded_ones() -> None:
    rows, protocol, loaded = golden("hellaswag"), find("hellaswag"), load("hellaswag", DATA)
    items = [loaded.items[row["doc_id"]] for row in rows]
    asks = ask_all(protocol, loaded, items)
    assert len(rows) == 120
    assert [ask.prompt() for ask in asks] == [row["context"] for row in rows]
    assert [list(ask.endings) for ask in asks] == [row["continuations"] for row in rows]
    asks, items, rows = asks[:40], items[:40], rows[:40]
    answers = dict(LocalModel(DATA / "oracle" / "tiny_llama").answer(protocol, asks, range(len(asks))))
    for index, row in enumerate(rows):
        assert answers[index].values == pytest.approx(row["loglikelihoods"], abs=1e-4)
        found = verdict(protocol, items[index], answers[index])
        assert (found["score"], found["also"]["by_sum"]) == (row["acc_norm"], row["acc"])


@needs_data
def test_gsm8k_draws_the_examples_that_lm_eval_drew_and_reads_as_its_filters() -> None:
    rows, protocol, loaded = golden("gsm8k"), find("gsm8k@lm-eval"), load("gsm8k", DATA)
    strict = [row for row in rows if row["filter"] == "strict-match"]
    flexible = [row for row in rows if row["filter"] != "strict-match"]
    asks = ask_all(protocol, loaded, loaded.items[:8])
    assert [ask.prompt() for ask in asks] == [row["context"] for row in strict]
    for index, (one, other) in enumerate(zip(strict, flexible, strict=True)):
        found = verdict(protocol, loaded.items[index], Said(texts=(one["response"],)))
        assert (found["score"], found["also"]["flexible"]) == (one["exact_match"], other["exact_match"])
        assert (found["prediction"] or "[invalid]") == one["filtered"]


@needs_data
def test_opencompass_shows_its_four_examples_to_the_byte() -> None:
    """Rows of train.jsonl by number; hashes of gsm8k_gen_1d7fe4's own texts."""
    loaded = load("gsm8k", DATA)
    [ask] = ask_all(find("gsm8k@opencompass"), loaded, loaded.items[:1])
    rounds = [text for _, text in ask.rounds(ask.examples)]
    assert len(rounds) == 9
    assert rounds[-1] == f"Question: {loaded.items[0].texts['question']}\nLet's think step by step\nAnswer:"
    assert (
        hashlib.sha256("".join(rounds[:8]).encode()).hexdigest()
        == "c9f02c9af410bff9d874c47a7f0ec60498cbc39ffe7085ede7c20b9ba27f0a04"
    )


def test_a_part_of_a_benchmark_is_asked_with_the_same_drawn_examples() -> None:
    from inkstone.evaluate.tasks import Loaded

    pool = [Item(f"t{n}", "gsm8k", {"question": f"q{n}", "answer": f"#### {n}"}) for n in range(50)]
    test = [Item(f"x{n}", "gsm8k", {"question": f"x{n}", "answer": "1"}, answers=("1",)) for n in range(9)]
    loaded = Loaded(test, {"": pool})
    whole = ask_all(find("gsm8k"), loaded, test)
    assert ask_all(find("gsm8k"), loaded, [test[7]]) == [whole[7]]


NUMBERS = Item("n", "gsm8k", {}, answers=("so it is\n#### 1,000",))


@pytest.mark.parametrize(
    ("reader", "text", "prediction", "score"),
    [
        ("harness_number", "#### 1,000", "1,000", 1.0),
        ("harness_number", "#### 1000.", "1000.", 1.0),
        ("harness_number", "the answer is 1,000", None, 0.0),
        ("opencompass_number", "the answer is $1,000.", "1000", 1.0),
        ("opencompass_number", "the answer is -1000 .\n\nQuestion: 5", "1000", 1.0),  # its fault: no sign
        ("opencompass_number", "that is 5\n1000", "51000", 0.0),  # its fault: lines are not words
        ("last_number", "the answer is $1,000.", "1000", 1.0),
        ("last_number", "that is -1000", "-1000", 0.0),
        ("last_number", "no idea", None, 0.0),
    ],
)
def test_numbers_are_read_as_each_protocol_reads_them(
    reader: str, text: str, prediction: str | None, score: float
) -> None:
    found = READERS[reader](text, NUMBERS)
    assert (found.prediction, found.score) == (prediction, score)


def test_the_flexible_filter_reads_what_the_strict_one_does_not() -> None:
    assert READERS["harness_number"]("it costs $1,000", NUMBERS).also["flexible"] == 1.0
    five = Item("n", "gsm8k", {}, answers=("#### 5",))
    assert READERS["harness_number"]("it costs $5.", five).also["flexible"] == 1.0
    minus = Item("n", "gsm8k", {}, answers=("#### -3",))
    assert READERS["harness_number"]("#### -3", minus).score == 1.0


def exam(kind: str, *answers: str) -> Item:
    return Item("g", "2010", {"kind": kind}, answers=answers)


@pytest.mark.parametrize(
    ("item", "text", "score"),
    [
        (exam("single_choice", "B"), "【解析】A 不对 <eoe>【答案】: B <eoa>", 1.0),
        (exam("single_choice", "B"), "选 B，不是 C", 0.0),  # the last letter counts
        (exam("multi_choice", "ABD"), "【解析】…【答案】 ABD <eoa>", 1.0),
        (exam("multi_choice", "ABD"), "【解析】…【答案】 A B <eoa>", 0.5),
        (exam("multi_choice", "ABD"), "【解析】…【答案】 ABC <eoa>", 0.0),
        (exam("multi_question_choice", "A", "C", "D"), "【答案】A【答案】B【答案】D", 2 / 3),
        (exam("multi_question_choice", "A", "C"), "A then C then B", 1.0),
        (exam("five_out_of_seven", *"GABCD"), "答案 G A B C F", 0.8),
        (exam("five_out_of_seven", *"GABCD"), "G A B", 0.0),
        (exam("single_choice", "B"), "不知道", 0.0),
    ],
)
def test_gaokao_extractors_and_half_points_in_physics(item: Item, text: str, score: float) -> None:
    found = READERS["gaokao"](text, item)
    assert found.score == pytest.approx(score)
    assert (found.prediction is None) == (text in ("不知道", "G A B"))


@needs_data
def test_gaokao_points_sum_to_the_published_totals_and_weight_the_mean() -> None:
    items = load("gaokao", DATA).items
    totals: dict[str, float] = {}
    for item in items:
        totals[item.subject] = totals.get(item.subject, 0) + item.weight
    published = [1090, 1070, 1148, 900, 1280, 384, 744, 105, 261, 900, 260, 380, 940, 240]
    assert sorted(totals.values()) == sorted(published)
    rows = [{"id": item.id, "subject": item.subject, "gold": list(item.answers), "parsed": True, "cut": 0, "dropped": 0,
             "seconds": 0.0, "score": float("Physics" in item.subject)} for item in items]  # fmt: skip
    found = figures(rows, {}, {item.id: item.weight for item in items})
    assert found["item_mean"] == pytest.approx(384 / sum(published))
    assert found["subject_mean"] == pytest.approx(1 / 14)


def test_sets_of_letters_must_be_equal_where_several_are_right() -> None:
    several = Item("a", "jec", {"several": "yes"}, ("1", "2", "3", "4"), (0, 2))
    assert [READERS["letter_set"](text, several).score for text in ("A和C", "CA", "A", "ABC")] == [1, 1, 0, 0]
    one = Item("a", "sat", {"several": ""}, ("1", "2"), (1,))
    assert [READERS["letter_set"](text, one).score for text in ("B, not A", "A B", "?")] == [1, 0, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"$\dfrac{1}{2}$", r"\frac12"), ("x = 0.5", ".5"), (r"\boxed{3,4}", "3, 4"), ("1/2", r"\frac{1}{2}"),
        (r"\sqrt3", r"\sqrt{3}"), (r"90^\circ", "90"), (r"\left(3,4\right]", "(3,4]"),
    ],
)  # fmt: skip
def test_formulas_that_only_look_different_are_the_same(one: str, other: str) -> None:
    assert plain_formula(one) == plain_formula(other)


def test_cmrc_scores_by_the_longest_common_run() -> None:
    item = Item("c", "cmrc", {}, answers=("光荣和ω-force", "光荣"))
    exact = READERS["span"]("光荣和 ω-force。\n问题", item)
    assert (exact.score, exact.also["exact"]) == (1.0, 1.0)
    part = READERS["span"]("是光荣公司", item)
    assert part.score == pytest.approx(2 * 2 / (5 + 2))
    assert READERS["span"]("  ", item).prediction is None


@needs_data
@pytest.mark.parametrize("task", [name for name in PROTOCOLS if name not in ("ceval", "cmmlu", "mmlu")])
def test_every_benchmark_of_the_shared_data_is_read_and_asked(task: str) -> None:
    counts = {"hellaswag": 5021, "arc_easy": 2376, "arc_challenge": 1172, "piqa": 1838, "openbookqa": 500,
              "boolq": 3270, "winogrande": 1267, "lambada": 5153, "agieval": 7151, "agieval-cloze": 1118,
              "gsm8k": 1119, "gaokao": 1781, "cmrc": 3219, "humaneval": 164, "mt-bench": 80, "mt-bench-zh": 80,
              "safety": 664, "needle": 35, "gaokao-subjective": 1030}  # fmt: skip
    loaded = load(task, DATA)
    assert len(loaded.items) == counts[task]
    assert len({item.id for item in loaded.items}) == counts[task]
    for protocol in PROTOCOLS[task].values():
        for ask in ask_all(protocol, loaded, loaded.items[::500]):
            assert not protocol.question or ask.prompt() or ask.contexts
            assert bool(ask.endings) == (protocol.score not in ("write", "judge"))
        assert protocol.fingerprint in explain(protocol, DATA)


@needs_data
def test_agieval_prompts_and_labels_are_as_published() -> None:
    items = {item.id: item for item in load("agieval", DATA).items}
    assert items["agieval/gaokao-biology/0"].texts["query"].endswith("\n答案：从A到D, 我们应选择")
    assert "\nA: Among A through E, the answer is" in items["agieval/aqua-rat/0"].texts["query"]
    assert items["agieval/gaokao-english/0"].texts["query"].endswith("A: Among A through D, the answer is")
    several = [item for item in items.values() if len(item.gold) > 1]
    assert {item.subject for item in several} == {"gaokao-mathqa", "gaokao-physics", "jec-qa-ca", "jec-qa-kd"}


OFFICIAL: dict[str, dict[str, Any]] = {
    "arc_easy": {"question": {"stem": "Why?", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]},
                 "answerKey": "B"},
    "arc_challenge": {"question": "Why?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
    "openbookqa": {"question_stem": "Why", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": " B"},
    "piqa": {"goal": "Why?", "sol1": "x", "sol2": "y", "label": 1},
    "boolq": {"passage": "P", "question": "why", "answer": True},
    "winogrande": {"sentence": "A saw _ there.", "option1": "x", "option2": "y", "answer": "2"},
}  # fmt: skip


@pytest.mark.parametrize("task", OFFICIAL)
def test_rows_as_their_authors_publish_them_are_read_too(task: str, tmp_path: Path) -> None:
    (tmp_path / task).mkdir()
    with gzip.open(tmp_path / task / f"{task}.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.write(json.dumps(OFFICIAL[task]) + "\n")
    [item] = load(task, tmp_path).items
    assert item.gold == (1,)
    assert len(item.choices) == 2
    (tmp_path / task / f"{task}.jsonl.gz").unlink()
    (tmp_path / task / f"{task}.jsonl").write_text('{"text": "other"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=rf"{task}.jsonl:1 is no row of {task}"):
        load(task, tmp_path)


@needs_data
def test_lambada_counts_a_word_that_is_the_likeliest_text_and_its_loss() -> None:
    item = load("lambada", DATA).items[0]
    right = verdict(find("lambada"), item, Said((-2.5,), (True,)))
    assert (right["score"], right["gold"], right["also"]) == (1.0, list(item.answers), {"nats": 2.5})
    wrong = verdict(find("lambada"), item, Said((-1.5,), (False,))) | {"seconds": 0.0}
    found = figures([wrong, right | {"seconds": 0.0}], {})
    assert (found["scored"], found["item_mean"], found["also"]["nats"]) == (2, 0.5, 2.0)
