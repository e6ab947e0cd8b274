"""Ctrl-C: one sentence, exit code 130, and the next call goes on where this one stopped."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

from tiny_run import check_clean, check_whole, end, inkstone, start, state, wait_until

from inkstone.model import ModelSettings
from inkstone.progress import Silent
from inkstone.train import PretrainSettings, pretrain

LONG = ("--set", "pretrain.max_steps=200", "--set", "pretrain.checkpoint_steps=1000", "--until", "pretrain")


def test_ctrl_c_while_training_saves_and_the_next_call_continues_at_that_step(begun: Callable[[str], Path]) -> None:
    recipe = begun("pretrain")
    run = recipe.parent / "runs" / "tiny"
    process = start("run", recipe, *LONG)
    assert process.stderr
    line = ""
    while '"unit": "steps"' not in line:
        line = process.stderr.readline()
        assert line, "ended before the first step"
    process.send_signal(signal.SIGINT)
    stopped = end(process)
    assert stopped.code == 130
    said = re.fullmatch(r"stopped after step (\d+) of 200; the same command continues there", stopped.said)
    assert said, stopped.err
    assert [path.name for path in run.glob(".scratch/pretrain-*/checkpoints/*")] == [f"step-{int(said[1]):08d}"]
    check_whole(run)

    ended = inkstone("run", recipe, *LONG)
    assert ended.code == 0, ended.err
    assert f"continuing after step {said[1]} of 200" in ended.notes
    check_clean(run)
    rows = [json.loads(line) for line in (run / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(5, 201, 5))


def test_ctrl_c_in_another_stage_keeps_what_was_finished(begun: Callable[[str], Path]) -> None:
    recipe = begun("evaluate")
    run = recipe.parent / "runs" / "tiny"
    before = state(run)
    # Long enough that the signal comes before the end: thousands of tokens to write.
    slow = ("--set", "evaluate.max_problems=120", "--set", "evaluate.max_new_tokens=120")
    process = start("run", recipe, "--set", "evaluate.quiz=primer:quiz", *slow)
    wait_until(process, (run / ".evaluate.draft").exists)
    process.send_signal(signal.SIGINT)
    stopped = end(process)
    assert stopped.code == 130
    assert stopped.said == "stopped; nothing half done is left, and the same command goes on from what is finished"
    assert state(run) == before
    assert not (run / ".evaluate.draft").exists()


def test_training_that_was_stopped_after_its_last_step_reports_the_same_figures(finished: Path, tmp_path: Path) -> None:
    """The last checkpoint is there, the model directory is not: nothing is trained again, nothing is lost."""
    settings = PretrainSettings(
        sequence_length=64, batch_tokens=256, max_steps=6, device="cpu", dtype="float32", compile="off", heldout_steps=3
    )
    shape = ModelSettings(hidden_size=32, num_layers=1, num_heads=2, max_positions=64)
    results = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        inputs = (finished / "tokens", finished / "tokenizer", tmp_path / name, tmp_path / "scratch", Silent())
        results.append(pretrain(settings, shape, *inputs))
    assert {**results[1], "tokens_per_second": 0} == {**results[0], "tokens_per_second": 0}
    for file in ("model.safetensors", "metrics.jsonl", "config.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
