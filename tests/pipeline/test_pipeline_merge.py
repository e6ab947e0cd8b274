"""Models joined as a stage of a recipe: the whole pipeline of Huozi 3.5, and what a merge refuses."""

import json
from pathlib import Path

import pytest
import torch
from tiny_run import inkstone, write_recipe

from inkstone.model import load_model

RECIPE = Path(__file__).parents[2] / "recipes" / "huozi-3.5.toml"
STAGES = ("sft", "tune.first", "tune.second", "tune.last")


def test_the_recipe_of_huozi_3_5_runs_from_a_larger_vocabulary_to_the_last_tuning(
    finished: Path, tmp_path: Path
) -> None:
    """The recipe as it is in the repository, on a tiny base with few steps."""
    few = ("max_steps=2", "batch_tokens=512", "compile=off", "dtype=float32")
    changes = [f"{stage}.{key}" for stage in ("pretrain", *STAGES) for key in few]
    base = finished / "pretrain"
    changes += ["primer.size_mb=0.3", "tokenizer.extend.add=20", f"tokenizer.base={base}", f"pretrain.base={base}"]
    here = [f"--set={change}" for change in (*changes, f"runs_dir={tmp_path}/runs")]
    ended = inkstone("run", RECIPE, "--until", "last", *here)
    assert ended.code == 0, ended.said
    run = tmp_path / "runs" / "huozi-3.5"
    parts = [load_model(run / name).state_dict() for name in ("sft", "first", "second")]
    for name, joined in load_model(run / "mean").state_dict().items():
        torch.testing.assert_close(joined, sum(part[name] for part in parts) / 3)  # type: ignore[arg-type]
    assert json.loads((run / "mean" / "stage.json").read_text())["result"] == {"models": 3, "merge": "linear"}
    assert "Nothing left to do" in inkstone("run", RECIPE, "--until", "last", *here).out
    changed = inkstone("run", RECIPE, "--until", "last", "--dry-run", *here, "--set", "tune.mean.merge.method=slerp")
    assert changed.out.count(" run ") == 2, "the mean and what starts from it"


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ('inputs = ["x"]\n[tune.m.merge]\nmodels = ["b"]', "a merge has no inputs"),
        ("", "go together"),
    ],
)
def test_a_merge_that_makes_no_sense_is_refused(section: str, sentence: str, tmp_path: Path) -> None:
    text = f'name = "m"\n[tune.m]\nmethod = "merge"\nbase = "a"\n{section}\n'
    ended = inkstone("run", write_recipe(tmp_path, text))
    assert ended.code == 2 and sentence in ended.said


def test_models_that_do_not_fit_together_are_refused(finished: Path, tmp_path: Path) -> None:
    text = (
        f'name = "m"\n[tune.m]\nmethod = "merge"\nbase = "{finished}/sft"\n'
        f'[tune.m.merge]\nmodels = ["{finished}/pretrain"]\nweights = [1.0]\n'
    )
    ended = inkstone("run", write_recipe(tmp_path, text))
    assert ended.code == 2 and "give 2 numbers of at least 0" in ended.said
