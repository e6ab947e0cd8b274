"""SIGKILL at any moment of any stage: the second call does the rest and only the rest, and the result is the same."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import STAGES, check_clean, check_whole, end, inkstone, result, start, state, wait_until, write_recipe

Begun = Callable[[str], Path]
TRAINED = ("pretrain", "sft")
# Starting a process is most of a test's time: a stage that streams, one that trains and the last one are always tested.
QUICK = ("corpus", "pretrain", "evaluate")


def kill_in(stage: str, recipe: Path, pause_s: float) -> None:
    """Run the recipe and kill it `pause_s` after `stage` began, in training after its first checkpoint."""
    run = recipe.parent / "runs" / "tiny"
    process = start("run", recipe)
    begun = f".scratch/{stage}-*/checkpoints/step-*/state.json" if stage in TRAINED else f".{stage}.draft"
    wait_until(process, lambda: any(run.glob(begun)))
    try:
        process.wait(pause_s)
    except subprocess.TimeoutExpired:
        process.kill()
    end(process)


def check_call_after_kills(recipe: Path, finished: Path) -> list[str]:
    """The next call finishes the run without doing anything twice; returns what it noted."""
    run = recipe.parent / "runs" / "tiny"
    check_whole(run)
    before = state(run)
    ended = inkstone("run", recipe)
    assert ended.code == 0, ended.err
    after = state(run)
    assert {name: after[name] for name in before} == before, "a finished stage was done again"
    check_whole(run)
    check_clean(run)
    assert result(run) == result(finished)
    return ended.notes


def seconds_of(stage: str, finished: Path) -> float:
    return float(json.loads((finished / stage / "stage.json").read_text(encoding="utf-8"))["seconds"])


@pytest.mark.parametrize("stage", [pytest.param(s, marks=[] if s in QUICK else [pytest.mark.slow]) for s in STAGES])
def test_a_run_killed_in_a_stage_ends_like_one_that_was_not(stage: str, begun: Begun, finished: Path) -> None:
    recipe = begun(stage)
    pause_s = random.Random(f"kill {stage}").uniform(0, seconds_of(stage, finished) / 2)
    kill_in(stage, recipe, pause_s)
    assert set(state(recipe.parent / "runs" / "tiny")) >= set(STAGES[: STAGES.index(stage)])
    notes = check_call_after_kills(recipe, finished)
    if stage in TRAINED and any(note.startswith(f"{stage}: ") for note in notes):
        assert any(note.startswith("continuing after step ") for note in notes)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(tmp_path: Path, finished: Path) -> None:
    recipe = write_recipe(tmp_path)
    run = tmp_path / "runs" / "tiny"
    chance = random.Random("again and again")
    for _ in range(12):
        process = start("run", recipe)
        assert process.stderr
        process.stderr.readline()  # its libraries are loaded and a stage has begun, or nothing is left to do
        try:
            process.wait(chance.uniform(0, 1.5))
        except subprocess.TimeoutExpired:
            process.kill()
        end(process)
        check_whole(run)
    check_call_after_kills(recipe, finished)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(20))
def test_fifty_kills_at_any_moment_of_any_stage_lose_nothing(chunk: int, tmp_path: Path, finished: Path) -> None:
    """A thousand in all; `kill_often.py` checks every stage after each of them and the result of every finished run."""
    script = Path(__file__).with_name("kill_often.py")
    command = [sys.executable, str(script), str(100 + chunk), "50", str(tmp_path), str(finished)]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert json.loads(ended.stdout)["kills"] == 50
