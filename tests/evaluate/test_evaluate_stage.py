"""The whole stage with tiny real models: what it writes, that it repeats itself, and that its inputs are checked."""

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from inkstone.chat import CHATML, Message, save_template
from inkstone.errors import InkstoneError, InputError
from inkstone.evaluate import EvaluateSettings, Given, evaluate_directory, evaluate_models, score_rows
from inkstone.evaluate.report.differences import compare_answers, differing, in_words, read_answers
from inkstone.evaluate.table import PROBLEMS, SCORINGS
from inkstone.generate import SamplingSettings, build_prompt, generate, stream_reply
from inkstone.model import Decoder, DecoderConfig, load_model, open_directory, save_model
from inkstone.progress import Silent
from inkstone.tokenizer import Tokenizer, TokenizerSettings, TokensSettings, encode_corpus, open_shards, train_tokenizer

SETTINGS = EvaluateSettings(max_new_tokens=12, sample_tokens=8, max_problems=3, shots=2, device="cpu")
CITIES = [("法国", "巴黎", "France", "Paris"), ("日本", "东京", "Japan", "Tokyo"), ("挪威", "奥斯陆", "Norway", "Oslo")]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tokenizer/, tokens/, base/, chat/, quiz/, problems/ and prompts.json."""
    root = tmp_path_factory.mktemp("evaluate")
    for split, count in (("train", 60), ("heldout", 6)):
        (root / "corpus" / split).mkdir(parents=True)
        rows = [{"id": f"{split}-{n}", "text": text(n), "source": "made", "lang": "zh"} for n in range(count)]
        schema = pa.schema([(name, pa.string()) for name in ("id", "text", "source", "lang")])
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), root / "corpus" / split / "part-00000.parquet")
    for name in ("tokenizer", "tokens", "quiz", "problems"):
        (root / name).mkdir()
    train_tokenizer(TokenizerSettings(vocab_size=400), root / "corpus", root / "tokenizer", Silent())
    encode_corpus(TokensSettings(), root / "corpus", root / "tokenizer", root / "tokens", Silent())
    tokenizer = Tokenizer.load(root / "tokenizer")
    for seed, name in enumerate(("base", "chat")):
        make_model(root / name, tokenizer, seed)
    save_template(CHATML, root / "chat")
    for split, numbers in (("dev", range(4)), ("test", range(4, 11))):
        write_rows(
            root / "quiz" / f"{split}.jsonl", [quiz_row(split, n, lang) for n in numbers for lang in ("zh", "en")]
        )
        write_rows(root / "problems" / f"{split}.jsonl", [problem_row(split, n) for n in numbers])
    prompts = {"continue": ["法国->巴黎\n日本->"], "chat": {"zh": ["你好", "法国呢？"], "en": ["Hi"]}}
    (root / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    return root


def text(number: int) -> str:
    zh, zh_city, en, en_city = CITIES[number % 3]
    return (
        f"问：{zh}的首都是哪里？\n答：{zh_city}\n\nQuestion: What is the capital of {en}?\nAnswer: {en_city}\n{number}"
    )


def make_model(directory: Path, tokenizer: Tokenizer, seed: int, max_positions: int = 256) -> None:
    torch.manual_seed(seed)
    config = DecoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        max_positions=max_positions,
    )
    ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    save_model(Decoder(config), directory, **ids, stop_ids=[tokenizer.eos_id])
    tokenizer.save(directory)


def quiz_row(split: str, number: int, lang: str) -> dict[str, Any]:
    zh, zh_city, en, en_city = CITIES[number % 3]
    cities = [row[1 if lang == "zh" else 3] for row in CITIES] + (["罗马"] if lang == "zh" else ["Rome"])
    random.Random(number).shuffle(cities)
    return {
        "id": f"{lang}-{split}-{number}",
        "subject": "首都" if lang == "zh" else "capitals",
        "lang": lang,
        "question": f"{zh}的首都是哪里？({number})" if lang == "zh" else f"What is the capital of {en}? ({number})",
        "choices": cities,
        "answer": cities.index(zh_city if lang == "zh" else en_city),
        "phrasing": "seen" if number % 2 else "unseen",
    }


def problem_row(split: str, number: int) -> dict[str, Any]:
    total = str(number + 3)
    question, solution = f"{number}加3是多少？", f"{number}+3={total}。答案是 {total}。"
    return {"id": f"{split}-{number}", "lang": "zh", "question": question, "solution": solution, "answer": total}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def evaluate(work: Path, output: Path, settings: EvaluateSettings = SETTINGS) -> Any:
    output.mkdir()
    models = {"base": work / "base", "chat": work / "chat"}
    return evaluate_models(settings, models, given(work), output)


def given(work: Path) -> Given:
    return Given(*(work / name for name in ("quiz", "problems", "tokens", "prompts.json")))


@pytest.fixture(scope="module")
def scores(work: Path) -> Any:
    return evaluate(work, work / "first")


def test_every_model_gets_every_score_with_its_number_of_questions(scores: Any) -> None:
    for name, kind in (("base", "base"), ("chat", "chat")):
        model = scores["models"][name]
        assert model["kind"] == kind
        for scoring in ("letter", "text", "text_norm"):
            quiz = model["quiz"][scoring]
            assert quiz["n"] == 14 and quiz["by_lang"]["zh"]["n"] == 7
            assert quiz["by_phrasing"]["seen"]["n"] + quiz["by_phrasing"]["unseen"]["n"] == 14
            assert set(quiz["by_subject"]) == {"zh/首都", "en/capitals"}
        assert model["problems"]["n"] == 3
        assert model["problems"]["prompt"] == ("chat" if kind == "chat" else "examples")
        assert model["heldout"]["documents"] == 6
    assert len(score_rows(scores)[0]) == 3


def test_the_files_repeat_the_scores_question_by_question(work: Path, scores: Any) -> None:
    on_disk = json.loads((work / "first" / "scores.json").read_text(encoding="utf-8"))
    assert on_disk == json.loads(json.dumps(scores))
    rows = [json.loads(line) for line in (work / "first" / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 28
    for name in ("base", "chat"):
        for scoring in ("letter", "text", "text_norm"):
            own = [row for row in rows if row["model"] == name]
            assert sum(row[scoring]["correct"] for row in own) == scores["models"][name]["quiz"][scoring]["correct"]
            assert all(row[scoring]["correct"] == (row[scoring]["prediction"] == row["answer"]) for row in own)


def test_two_models_answers_differ_where_only_one_is_right(work: Path, scores: Any) -> None:
    one, other = (read_answers(work / "first", name) for name in ("base", "chat"))
    table, refused = compare_answers(one, other)
    assert [row.task for row in table] == [*SCORINGS.values(), PROBLEMS] and not refused
    for scoring, row in zip(SCORINGS, table, strict=False):
        right = [scores["models"][name]["quiz"][scoring]["correct"] for name in ("base", "chat")]
        assert (row.items, row.only_b - row.only_a) == (14, right[1] - right[0])
        pairs = differing(one[row.task], other[row.task])
        assert len(pairs) == row.only_a + row.only_b
        for pair in pairs:
            told = in_words(pair, {})
            assert "?" in told["question"] or "？" in told["question"]
            assert told["right"] == told[told["better"]] != told["a" if told["better"] == "b" else "b"]


def test_the_same_model_gives_the_same_answers_again(work: Path, scores: Any) -> None:
    evaluate(work, work / "second")
    for name in ("questions.jsonl", "problems.jsonl", "samples.json"):
        assert (work / "first" / name).read_bytes() == (work / "second" / name).read_bytes()


def test_bits_per_byte_equals_a_plain_forward_over_every_document(work: Path, scores: Any) -> None:
    model = load_model(work / "base")
    shards = open_shards(work / "tokens", "heldout")
    nats, size = 0.0, 0
    for index in range(len(shards)):
        ids = torch.tensor([shards.document(index).tolist()])
        with torch.no_grad():
            logprobs = model(ids[:, :-1])[0].log_softmax(-1)
        nats -= float(logprobs.gather(1, ids[0, 1:, None]).sum())
        size += len(text(index).encode())
    assert scores["models"]["base"]["heldout"]["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-4)


def test_samples_hold_every_prompt_and_every_turn(work: Path, scores: Any) -> None:
    samples = json.loads((work / "first" / "samples.json").read_text(encoding="utf-8"))["models"]
    assert [row["prompt"] for row in samples["base"]["continue"]] == ["法国->巴黎\n日本->"]
    assert "\n" not in samples["base"]["continue"][0]["text"]
    assert [turn["role"] for turn in samples["chat"]["chat"]["zh"]] == ["user", "assistant"] * 2


def test_one_directory_alone_gets_the_same_scores(work: Path, scores: Any) -> None:
    (work / "alone").mkdir()
    alone: Any = evaluate_directory(work / "base", work / "alone", SETTINGS, quiz_dir=work / "quiz")
    timeless = {"seconds", "questions_per_second"}
    for scoring, quiz in alone["models"]["base"]["quiz"].items():
        expected = scores["models"]["base"]["quiz"][scoring]
        assert {key: quiz[key] for key in quiz.keys() - timeless} == {
            key: expected[key] for key in quiz.keys() - timeless
        }
    assert "problems" not in alone["models"]["base"] and "heldout" not in alone["models"]["base"]


def test_short_models_drop_examples_and_report_it(work: Path) -> None:
    make_model(work / "short", Tokenizer.load(work / "tokenizer"), 3, max_positions=64)
    (work / "shorter").mkdir()
    scores: Any = evaluate_directory(work / "short", work / "shorter", SETTINGS, work / "quiz", work / "problems")
    assert scores["models"]["short"]["quiz"]["letter"]["dropped_examples"] > 0
    assert scores["models"]["short"]["problems"]["n"] == 3


def test_wrong_inputs_are_all_named_before_any_model_runs(work: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "other", Tokenizer.load(work / "tokenizer"), 4)
    config = json.loads((tmp_path / "other" / "tokenizer.json").read_text(encoding="utf-8"))
    config["model"]["merges"].pop()
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(config), encoding="utf-8")
    models = {"other": tmp_path / "other", "nothing": tmp_path / "nothing"}
    with pytest.raises(InputError) as error:
        evaluate_models(SETTINGS, models, Given(tmp_path / "noquiz", tokens=work / "tokens"), tmp_path)
    assert "another tokenizer" in str(error.value)
    assert "nothing is no model directory" in str(error.value)
    assert "noquiz" in str(error.value)
    assert not (tmp_path / "scores.json").exists()


def test_a_model_of_nan_is_refused_and_not_scored(work: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(work / "tokenizer")
    model = load_model(work / "base")
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    save_model(model, tmp_path / "broken", **ids, stop_ids=[tokenizer.eos_id])
    tokenizer.save(tmp_path / "broken")
    with pytest.raises(InkstoneError, match="NaN"):
        evaluate_directory(tmp_path / "broken", tmp_path, SETTINGS, quiz_dir=work / "quiz")


class Killed(BaseException):
    """What a kill looks like to code that is not asked."""


def answered(scratch: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (scratch / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        dropped = ("seconds", "questions_per_second")
        return {key: timeless(one) for key, one in value.items() if key not in dropped}
    return value


@pytest.mark.parametrize("steps", [1, 5, 9, 14, 30])
def test_a_killed_evaluation_asks_only_the_rest_and_ends_with_equal_files(
    work: Path, scores: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The process dies in a forward of the model; a half-written line is what a kill may leave."""
    hidden = Decoder.hidden
    forwards = 0

    def dying(*arguments: Any) -> torch.Tensor:
        nonlocal forwards
        forwards += 1
        if forwards > steps:
            raise Killed
        return hidden(*arguments)

    def again(output: str) -> Any:
        (tmp_path / output).mkdir()
        models = {"base": work / "base", "chat": work / "chat"}
        return evaluate_models(SETTINGS, models, given(work), tmp_path / output, scratch=tmp_path)

    monkeypatch.setattr(Decoder, "hidden", dying)
    with pytest.raises(Killed):
        again("killed")
    monkeypatch.setattr(Decoder, "hidden", hidden)
    path = tmp_path / "answers.jsonl"
    before = answered(tmp_path) if path.is_file() else []
    with path.open("a", encoding="utf-8") as stream:
        stream.write('["base", "letter", "zh-te')
    assert timeless(again("ended")) == timeless(scores)
    for name in ("questions.jsonl", "problems.jsonl", "samples.json"):
        assert (work / "first" / name).read_bytes() == (tmp_path / "ended" / name).read_bytes()
    assert answered(tmp_path)[: len(before)] == before
    count = len(answered(tmp_path))
    monkeypatch.setattr(Decoder, "hidden", dying)  # it has no forward left: nothing may be asked
    assert timeless(again("third")) == timeless(scores) and len(answered(tmp_path)) == count


def test_an_evaluation_stops_where_a_chat_stops(work: Path, tmp_path: Path) -> None:
    """generation_config.json names one more end of a text."""
    shutil.copytree(work / "chat", tmp_path / "chat")
    opened = open_directory(tmp_path / "chat", chat=True)
    problem = problem_row("test", 4)["question"]
    sampling = SamplingSettings(max_new_tokens=12)
    free = list(stream_reply(opened, [Message("user", problem)], sampling))
    prompt = build_prompt(opened, [Message("user", problem)], sampling)
    [ids] = generate(opened.model, [prompt], sampling, opened.stop_ids)
    settings = {"eos_token_id": [opened.tokenizer.eos_id, ids[2]]}
    (tmp_path / "chat" / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    stopped = open_directory(tmp_path / "chat", chat=True)
    said = list(stream_reply(stopped, [Message("user", problem)], sampling))
    assert len(said) < len(free)
    evaluate_directory(tmp_path / "chat", tmp_path, SETTINGS, problems_dir=work / "problems")
    rows = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text(encoding="utf-8").splitlines()]
    [output] = [row["output"] for row in rows if row["question"] == problem]
    assert output.strip() == "".join(said).strip()
