"""`inkstone tune preview`: rows as the model will see them, and every fault, before anything is trained."""

import json
from pathlib import Path

from tiny_run import inkstone

from inkstone.chat import Problem
from inkstone.tune import SFTSettings
from inkstone.tune.preview import as_the_model_sees

CHATS = [
    {"instruction": "你好", "output": "世界"},
    {"instruction": "水" * 900, "output": "too long"},
    {"instruction": "a"},
    {"messages": 3},
]
PAIRS = [{"prompt": "你好", "chosen": "世界", "rejected": "水"}]
VERDICTS = [{"prompt": "你好", "completion": "世界", "label": False}, {"prompt": "a", "completion": "b", "label": True}]


def recipe(folder: Path, base: Path, method: str, rows: list[dict[str, object]]) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = folder / "own.toml"
    path.write_text(
        f'name = "own"\nruns_dir = "{folder}/runs"\n[tune.talk]\ninputs = ["{folder}/rows.jsonl"]\n'
        f'base = "{base}"\nmethod = "{method}"\nsequence_length = 64\nbatch_tokens = 64\n'
    )
    return path


def figures(said: str) -> dict[str, str]:
    lines = [line.rsplit(None, 1) for line in said.splitlines()]
    return {line[0].strip(): line[1] for line in lines if len(line) == 2}


def test_rows_faults_and_lengths_are_shown_and_nothing_is_written(models: Path, tmp_path: Path) -> None:
    ended = inkstone("tune", "preview", recipe(tmp_path, models / "chat", "sft", CHATS))
    assert ended.code == 0, ended.err
    assert "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n世界<|im_end|>" in ended.out
    assert "rows.jsonl:3 output: is missing" in ended.out and "rows.jsonl:4 instruction: is missing" in ended.out
    told = figures(ended.out)
    assert (told["rows"], told["malformed rows"], told["rows that are too long"]) == ("2", "2", "1")
    assert int(told["learned tokens"]) < int(told["tokens"]) == int(told["tokens in a row: longest"])
    assert not (tmp_path / "runs").exists()


def test_sides_of_pairs_and_verdicts_are_named(models: Path, tmp_path: Path) -> None:
    said = inkstone("tune", "preview", recipe(tmp_path, models / "chat", "preference", PAIRS)).out
    assert said.index("row 1, chosen") < said.index("世界") < said.index("row 1, rejected") < said.index("水")
    said = inkstone("tune", "preview", recipe(tmp_path, models / "chat", "kto", VERDICTS), "--rows", 2).out
    assert said.index("row 1, bad") < said.index("row 2, good")


def test_what_cannot_be_shown_is_said(models: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, models / "chat", "grpo", PAIRS)
    assert "learns from its own answers" in inkstone("tune", "preview", path).said
    assert 'has no tuning stage "b"; it has: talk' in inkstone("tune", "preview", path, "--stage", "b").said


def test_of_many_rows_few_are_kept_and_all_are_counted(models: Path, tmp_path: Path) -> None:
    chats = [{"instruction": "你好", "output": "水" * (1 + number % 40)} for number in range(300)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*chats, *CHATS[2:]]))
    settings, faults = SFTSettings(inputs=["x"], template="auto", sequence_length=63, batch_tokens=63), list[Problem]()
    seen = as_the_model_sees(settings, [tmp_path / "rows.jsonl"], models / "chat", 3, faults.append)
    every = as_the_model_sees(settings, [tmp_path / "rows.jsonl"], models / "chat", 1000, str).rows
    lengths = sorted(len(row.ids) for row in every)
    assert seen.rows == every[:3] and [fault.row for fault in faults] == [301, 302]
    assert (seen.counts["rows"], seen.counts["malformed_rows"]) == (300, 2)
    assert seen.counts["tokens"] == sum(lengths)
    assert seen.counts["learned_tokens"] == sum(weight > 0 for row in every for weight in row.weights)
    middle, most = (lengths[int(share * (len(lengths) - 1))] for share in (0.5, 0.95))
    assert list(seen.lengths.values()) == [middle, most, lengths[-1]]
