"""Figures reach TensorBoard and other trackers while a run goes; a plan is compared with what is measured."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import inkstone

from inkstone.pipeline.trackers import _wanted
from inkstone.recipe import read_recipe

Begun = Callable[[str], Path]
TRAIN = ("--set", "pretrain.max_steps=30", "--until", "pretrain")
BOARD = ("--set", 'trackers=["tensorboard"]')


def drawn(folder: Path) -> dict[int, float]:
    board = EventAccumulator(str(folder))
    board.Reload()
    return {one.step: one.value for one in board.Scalars("loss")}


def test_tensorboard_has_every_logged_row_also_after_a_run_was_continued(begun: Begun) -> None:
    recipe = begun("pretrain")
    ended = inkstone("run", recipe, *TRAIN, *BOARD)
    assert ended.code == 0, ended.err
    run_dir = recipe.parent / "runs" / "tiny"
    rows = [json.loads(line) for line in (run_dir / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert drawn(run_dir / "tensorboard" / "pretrain") == pytest.approx(losses) and len(losses) == 6


def test_a_plan_is_compared_with_twenty_real_steps_once(begun: Begun) -> None:
    notes = "\n".join(inkstone("run", begun("pretrain"), *TRAIN).notes)
    found = re.findall(r"plan against measured after 20 steps: ([\d,]+) tokens per second \(planned ([\d,]+) to", notes)
    assert len(found) == 1 and all(int(figure.replace(",", "")) > 0 for figure in found[0])


def test_a_run_goes_on_where_the_system_says_nothing_of_memory_and_where_there_is_no_plan(
    begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = begun("pretrain")
    monkeypatch.setattr("inkstone.pipeline.forecast._resident", lambda restart=False: None)
    notes = "\n".join(inkstone("run", recipe, *TRAIN).notes)
    assert "tokens per second (planned" in notes and "GiB (planned" not in notes
    monkeypatch.setattr("inkstone.pipeline.forecast.this_device", lambda wanted: None)
    ended = inkstone("run", recipe, *TRAIN, "--set", "pretrain.seed=2")
    assert ended.code == 0 and "plan against measured" not in "\n".join(ended.notes)


def test_weights_and_biases_is_told_settings_and_rows(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    def begin(**facts: Any) -> object:
        told.append(facts)
        return SimpleNamespace(log=told.append, finish=lambda: told.append({"finished": True}))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=begin, __spec__=object()))
    assert inkstone("run", begun("pretrain"), *TRAIN, "--set", 'trackers=["wandb"]').code == 0
    assert told[0]["config"]["pretrain"]["max_steps"] == 30 and told[-1] == {"finished": True}
    assert [row["pretrain/step"] for row in told[1:-1] if "pretrain/loss" in row] == [5, 10, 15, 20, 25, 30]


def test_a_tracker_that_fails_is_named_and_the_run_goes_on(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("inkstone.pipeline.trackers.TensorBoard.draw", refuse)
    ended = inkstone("run", begun("pretrain"), *TRAIN, *BOARD)
    failures = [note for note in ended.notes if "tracker tensorboard failed and is left out: ConnectionError" in note]
    assert ended.code == 0 and len(failures) == 1


def test_a_tracker_that_is_not_installed_is_refused_before_anything_starts(
    begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = begun("pretrain")
    monkeypatch.setattr("inkstone.pipeline.trackers.find_spec", lambda name: None)
    ended = inkstone("run", recipe, *TRAIN, "--set", 'trackers=["wandb"]')
    assert ended.code == 2 and "wandb is not installed: pip install wandb" in ended.err
    assert not (recipe.parent / "runs" / "tiny" / "pretrain").exists()


def test_tensorboard_draws_where_it_is_installed_unless_a_recipe_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('name = "r"\n[primer]\n', encoding="utf-8")
    assert _wanted(read_recipe(path)) == ["tensorboard"]
    assert _wanted(read_recipe(path, ["trackers=[]"])) == []
