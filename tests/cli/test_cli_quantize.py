"""`inkstone quantize --compare`: what rounding cost is measured, shown and kept."""

import json
from pathlib import Path

import pytest
from tiny_run import inkstone

TEXT = "你好，世界！Hello, world. 明月照我还。\n" * 40


def test_both_models_are_measured_on_each_text(models: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEXT, encoding="utf-8")
    made = tmp_path / "rounded"
    ended = inkstone("quantize", models / "chat", "-o", made, "--method", "rtn", "--group-size", "-1",
                     "--compare", tmp_path / "t.txt")  # fmt: skip
    assert ended.code == 0, ended.err
    told = json.loads((made / "quality.json").read_text(encoding="utf-8"))
    (row,) = told["texts"]
    before, after = row["perplexity"]
    assert before > 1 and after > 1 and after != before
    assert row["divergence"] > 0 and 0.3 < row["same_best"] <= 1 and row["tokens"] > 50
    assert told["size_mb"][1] < told["size_mb"][0] and min(told["tokens_per_second"]) > 0
    assert "t.txt: perplexity" in ended.out


def test_a_model_that_is_compared_with_itself_loses_nothing(models: Path, tmp_path: Path) -> None:
    from inkstone.evaluate.quality import compare_quality

    (tmp_path / "t.txt").write_text(TEXT, encoding="utf-8")
    (row,) = compare_quality(models / "chat", models / "chat", [tmp_path / "t.txt"])
    assert row.perplexity[0] == row.perplexity[1] and row.same_best == 1.0
    assert row.divergence == pytest.approx(0, abs=1e-9)


def test_a_text_that_cannot_be_read_is_said(models: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    ended = inkstone("quantize", models / "chat", "-o", tmp_path / "r", "--method", "rtn", "--group-size", "-1",
                     "--compare", tmp_path / "bad.txt")  # fmt: skip
    assert ended.code == 2 and "bad.txt is not readable UTF-8 text" in ended.said
