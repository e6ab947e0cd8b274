"""Benchmark items in a corpus, copied, relaid or edited; needles; C-Eval's site; our model inside lm-eval."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_evaluate_runner import make_data, make_model, run
from test_evaluate_tasks import DATA, needs_data

from inkstone.errors import InputError
from inkstone.evaluate.contamination import find_in_corpus, item_texts
from inkstone.evaluate.protocols.readers import READERS
from inkstone.evaluate.tasks import BENCHMARKS, Item, load
from inkstone.evaluate.tasks.needle import DEPTHS, LENGTHS
from inkstone.progress import Field, Silent


def write(folder: Path, texts: list[str]) -> Path:
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return path


@needs_data
def test_planted_items_are_found_with_their_passage_and_nothing_else(tmp_path: Path) -> None:
    """Copied, in another layout, and with a word changed; ordinary text of the same words is no hit."""
    items = load("cmmlu", DATA).items
    long = [item for item in items if 40 < len(item.texts["question"]) < 90][:3]
    copied, relaid, edited = (item.texts["question"] for item in long)
    options = "；".join(long[1].choices)
    texts = ["开头。" * 20 + copied + "结尾。" * 20, f"题：{relaid}（{options}）", edited[:20] + "某" + edited[21:],
             "今天天气很好，我们去公园散步，看见许多人在放风筝。" * 5]  # fmt: skip
    found = find_in_corpus(items, [write(tmp_path, texts)], Silent(), overlap=0.5)
    assert {one.item for one in found} == {item.id for item in long}
    assert {one.document.rsplit(":", 1)[1] for one in found} == {"1", "2", "3"}
    first = next(one for one in found if one.item == long[0].id)
    assert (first.overlap, copied in first.passage, len(first.passage) < len(copied) + 60) == (1.0, True, True)
    assert next(one for one in found if one.item == long[2].id).overlap < 1.0


def test_rows_without_a_text_are_no_all_clear(tmp_path: Path) -> None:
    item = Item("x", "", {"question": "one two three four five six seven eight nine ten"})
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"question": item.texts["question"]}) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"1 records could not be read and were not searched"):
        find_in_corpus([item], [path], Silent())
    assert [one.item for one in find_in_corpus([item], [path], Silent(), field="question")] == ["x"]


@needs_data
@pytest.mark.parametrize("task", [name for name in BENCHMARKS if name not in ("ceval", "needle")])
def test_every_benchmark_has_texts_to_search_for(task: str) -> None:
    assert all(list(item_texts(item)) for item in load(task, DATA).items[:50])


def test_a_corpus_that_cannot_be_read_is_never_called_clean(tmp_path: Path) -> None:
    class Notes(Silent):
        def note(self, message: str, **fields: Field) -> None:
            notes.append(message)

    notes: list[str] = []
    question = "中国最早的纪传体通史是哪一部著作？它的作者是谁？一共有多少篇？"
    items = [Item("x", "", {"question": question})]
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"body": question}), encoding="utf-8")
    with pytest.raises(InputError, match=r"1 records could not be read .* fields: body"):
        find_in_corpus(items, [tmp_path], Notes())
    (tmp_path / "other.txt").write_text(question, encoding="utf-8")
    assert [one.item for one in find_in_corpus(items, [tmp_path], Notes())] == ["x"]
    assert notes[0].startswith("1 records could not be read")


def test_a_needle_lies_at_its_depth_and_is_read_strictly() -> None:
    items = load("needle", Path("nowhere")).items
    assert len(items) == len(LENGTHS) * len(DEPTHS)
    assert items == load("needle", Path("nowhere")).items
    for item in items:
        _, length, depth = item.id.split("/")
        text = item.texts["context"]
        assert 0.85 * int(length) < len(text) < 1.25 * int(length)
        assert text.index(item.answers[0]) / len(text) == pytest.approx(int(depth) / 100, abs=0.03)
        assert text.count(item.answers[0]) == 1
    needle = Item("x", "", {}, answers=("123456",))
    assert [READERS["contains"](text, needle).score for text in ("是123456。", "12345", "")] == [1, 0, 0]


def test_ceval_test_answers_are_written_as_its_site_takes_them(tmp_path: Path) -> None:
    make_model(tmp_path / "one")
    folder = make_data(tmp_path / "data") / "ceval"
    folder.mkdir()
    rows = [{"id": f"ceval/law/test/{n}", "subject": "law", "question": f"q{n}", **dict.fromkeys("ABCD", f"o{n}")}
            for n in range(3)]  # fmt: skip
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    scores = run(tmp_path, "one", tmp_path / "out", "ceval", split="test")
    assert "item_mean" not in scores["tasks"]["ceval@lm-eval"]
    written = json.loads((tmp_path / "out" / "ceval_submission.json").read_text(encoding="utf-8"))
    assert written.keys() == {"law"}
    assert written["law"].keys() == {"0", "1", "2"}
    assert set(written["law"].values()) <= set("ABCD")


@needs_data
def test_our_model_inside_lm_eval_scores_as_its_own_does(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is installed for comparisons only")
    task = f"task: t\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path}/rows.jsonl\n"
    task += "output_type: multiple_choice\ntest_split: test\ndoc_to_text: q\ndoc_to_choice: c\ndoc_to_target: a\n"
    (tmp_path / "t.yaml").write_text(task, encoding="utf-8")
    rows = [{"q": f"Number {n} is", "c": ["even", "odd and small", "a number"], "a": n % 2} for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = []
    for model in ("inkstone", "hf"):
        command = [sys.executable, "-m", "inkstone.evaluate.lm_eval_model", "run", "--model", model, "--tasks", "t"]
        command += ["--model_args", f"pretrained={DATA / 'oracle' / 'tiny_llama'},dtype=float32", "--device", "cpu"]
        command += ["--include_path", str(tmp_path), "--log_samples", "--output_path", str(tmp_path / model)]
        subprocess.run(command, check=True, capture_output=True)
        [path] = (tmp_path / model).rglob("samples*.jsonl")
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        values.append([float(one[0][0]) for row in sorted(rows, key=lambda row: row["doc_id"]) for one in row["resps"]])
    assert values[0] == pytest.approx(values[1], abs=1e-3)
