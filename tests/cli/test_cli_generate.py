"""`inkstone generate`: a file of prompts answered, whatever kills it; nothing starts while a row is at fault."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import Ended, inkstone

from inkstone.generate import SamplingSettings, generate
from inkstone.generate import batch as work
from inkstone.model import open_directory
from inkstone.serve.models import find_models

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "登鹳雀楼"},
    {"prompt": "Hamlet was written by"},
    {"id": 7, "prompt": "1+1"},
]


def ask(folder: Path, model: Path, rows: list[Any], *options: str) -> Ended:
    """The command on these rows; what is no row is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    arguments = ["--prompts", folder / "prompts.jsonl", "-o", folder / "out.jsonl", *options]
    return inkstone("generate", model, *arguments)


def answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]


def test_answers_are_the_engines_in_the_order_of_the_prompts(models: Path, tmp_path: Path) -> None:
    ended = ask(tmp_path, models / "base", ROWS, "--max-new-tokens", "12")
    assert ended.code == 0, ended.said
    opened = open_directory(models / "base")
    encode, start = opened.tokenizer.encode, opened.tokenizer.start_ids
    prompts = [[*start, *encode(row["prompt"])] for row in ROWS]
    expected = generate(opened.model, prompts, SamplingSettings(max_new_tokens=12), opened.stop_ids)
    found = answers(tmp_path)
    assert [row["id"] for row in found] == ["a", 2, 7]
    assert [row["text"] for row in found] == [opened.tokenizer.decode(ids, skip_control=True) for ids in expected]
    assert [row["tokens"] for row in found] == [len(ids) for ids in expected]
    assert not (tmp_path / "out.jsonl.part").exists()


def test_weights_left_in_their_file_answer_alike_and_a_gpu_that_is_not_there_is_one_sentence(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = []
    for number, options in enumerate(((), ("--offload",))):
        (folder := tmp_path / str(number)).mkdir()
        ended = ask(folder, models / "base", ROWS, "--max-new-tokens", "12", "--dtype", "fp16", *options)
        assert ended.code == 0, ended.said
        texts.append(answers(folder))
        assert ("the weights of 1 of 1 layers" in caplog.text) == bool(number)
    assert texts[0] == texts[1]
    if not torch.cuda.is_available():
        for verb in ("chat", "serve"):
            ended = inkstone(verb, models / "chat", "--gpu-memory-gib", "8")
            assert ended.code == 2 and "there is no GPU here" in ended.said and "--offload" in ended.said


def test_a_killed_call_goes_on_and_ends_with_the_same_file(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--n", "3", "--temperature", "6", "--seed", "4", "--max-new-tokens", "9", "--rows", "2")
    (tmp_path / "whole").mkdir()
    assert ask(tmp_path / "whole", models / "base", ROWS, *options).code == 0
    texts = [row["text"] for row in answers(tmp_path / "whole")]
    assert len(texts) == 9 and len(set(texts[:3])) == 3, "the samples of one prompt are drawn apart"

    append, count = work.append_line, iter(range(100))

    def killed(path: Path, line: str) -> None:
        append(path, line)
        if next(count) == 4:
            with path.open("a") as stream:
                stream.write("[0, 2, {")  # a line that was being written
            raise KeyboardInterrupt

    monkeypatch.setattr(work, "append_line", killed)
    assert ask(tmp_path, models / "base", ROWS, *options).code == 130
    assert not (tmp_path / "out.jsonl").exists()
    monkeypatch.setattr(work, "append_line", append)
    other = ask(tmp_path, models / "base", ROWS, *options, "--top-k", "3")
    assert other.code == 2 and "was begun with other prompts, model or options" in other.said
    ended = ask(tmp_path, models / "base", ROWS, *options)
    assert ended.code == 0 and "4 answers are there already; 5 are left" in ended.err
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole" / "out.jsonl").read_bytes()


def test_a_conversation_is_written_as_in_chat_and_ends_at_a_stop_string(models: Path, tmp_path: Path) -> None:
    talk = [{"messages": [{"role": "user", "content": "你好"}]}]
    assert ask(tmp_path, models / "chat", talk, "--max-new-tokens", "20").code == 0
    whole = answers(tmp_path)[0]["text"]
    assert whole == whole.lstrip() and len(whole) > 4
    (tmp_path / "out.jsonl").unlink()
    assert ask(tmp_path, models / "chat", talk, "--max-new-tokens", "20", "--stop", whole[3:5]).code == 0
    assert answers(tmp_path)[0]["text"] == whole[: whole.find(whole[3:5])] and answers(tmp_path)[0]["finish"] == "stop"


def test_answers_satisfy_a_schema(models: Path, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3}')
    ended = ask(tmp_path, models / "base", ROWS, "--schema", str(schema), "--n", "2", "--temperature", "1")
    assert ended.code == 0, ended.said
    for row in answers(tmp_path):
        value = json.loads(row["text"])
        assert 1 <= len(value) <= 3 and set(value) <= {"a", "b"}


def test_every_row_at_fault_is_named_and_nothing_is_computed(models: Path, tmp_path: Path) -> None:
    rows = [
        ROWS[0], {"text": "x"}, {"prompt": 3}, {"messages": [{"role": "user", "content": "hi"}]}, "{", {"id": 1},
        {"prompt": "long " * 200}, {"prompt": "\ud800"},
    ]  # fmt: skip
    ended = ask(tmp_path, models / "base", rows)
    assert ended.code == 2
    for words in (
        ":2 text: is not read", ":3 prompt: is not a text", ":4 messages: this model has no chat template", ":5 ",
        ":6 prompt: a row has either prompt", ":7 has ", ":8 prompt: is not a text",
    ):  # fmt: skip
        assert f"prompts.jsonl{words}" in ended.said, words
    assert ":1 " not in ended.said and not list(tmp_path.glob("out*"))
    assert "holds no prompts" in ask(tmp_path, models / "base", []).said


def test_a_model_becomes_one_gguf_file_that_answers_alike(models: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("fastapi")
    row = {"id": "a", "lang": "zh", "question": "1+1?", "solution": "2", "answer": "2"}
    problems = tmp_path / "problems"
    problems.mkdir()
    for name in ("dev", "test"):
        (problems / f"{name}.jsonl").write_text(json.dumps({**row, "id": name}) + "\n")
    assert "a .gguf file needs --type, one of f32" in inkstone("convert", models / "chat", tmp_path / "m.gguf").said
    ended = inkstone("convert", models / "chat", tmp_path / "m.gguf", "--type", "f16", "--dtype", "bf16")
    assert ended.code == 2 and "--dtype and --family are for a directory" in ended.said
    assert "a directory has --dtype" in inkstone("convert", models / "chat", tmp_path / "m", "--type", "f16").said
    ended = inkstone("convert", models / "chat", tmp_path / "m.gguf", "--type", "f32")
    assert ended.code == 0, ended.said
    talk = [{"messages": [{"role": "user", "content": "你好"}]}]
    said = []
    for model in (models / "chat", tmp_path / "m.gguf"):
        assert ask(tmp_path, model, talk, "--max-new-tokens", "8", "--dtype", "fp32").code == 0
        said.append(answers(tmp_path)[0]["text"])
        (tmp_path / "out.jsonl").unlink()
    assert said[0] == said[1]
    assert "vocabulary" in inkstone("inspect", tmp_path / "m.gguf").out
    assert find_models([tmp_path]) == {"m.gguf": (tmp_path / "m.gguf").resolve()}
    measured = inkstone(
        "evaluate", tmp_path / "m.gguf", "-o", tmp_path / "scores", "--problems", problems, "--shots", "0"
    )
    assert measured.code == 0, measured.said
