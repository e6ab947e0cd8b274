"""Tuning stages one after the other in a recipe: conversations with an adapter, then preference pairs on top."""

import json
from pathlib import Path

from tiny_run import RECIPE, inkstone, write_recipe

from inkstone.model import load_model

STAGES = """
[tune.prefer]
inputs = ["primer:preferences"]
base = "sft"
method = "preference"
template = "auto"
adapter = "lora"
sequence_length = 256
batch_tokens = 512
max_steps = 3
checkpoint_steps = 2
device = "cpu"
dtype = "float32"
compile = "off"
[tune.prefer.preference]
loss = "sigmoid"
beta = 0.2
[tune.prefer.lora]
rank = 4
"""


def test_a_preference_stage_follows_a_tuning_stage(tmp_path: Path) -> None:
    text = RECIPE.partition("[evaluate]")[0].replace("[sft]\n", '[sft]\nadapter = "lora"\n') + STAGES
    recipe = write_recipe(tmp_path, text)
    short = ["--set", "pretrain.max_steps=4", "--set", "sft.max_steps=4"]
    ended = inkstone("run", recipe, *short)
    assert ended.code == 0, ended.err
    run = tmp_path / "runs" / "tiny"
    result = json.loads((run / "prefer" / "stage.json").read_text(encoding="utf-8"))["result"]
    assert result["pairs"] > 10 and 0 <= result["heldout_accuracy"] <= 1
    for stage in ("sft", "prefer"):
        assert (run / stage / "adapter" / "adapter_config.json").is_file()
        load_model(run / stage)
    assert "Nothing left to do" in inkstone("run", recipe, *short).out
    changed = inkstone("run", recipe, *short, "--dry-run", "--set", "tune.prefer.preference.beta=0.3")
    assert "prefer" in changed.out and changed.out.count(" run ") == 1
    merged = inkstone("merge", "adapter", run / "sft", run / "prefer" / "adapter", "-o", tmp_path / "merged")
    assert merged.code == 0, merged.err
    assert "the same best token at 100.0%" in merged.out
    said = inkstone("merge", "models", run / "sft", run / "prefer", "-o", tmp_path / "mean", "--weights", "0.5,0.5")
    assert said.code == 0, said.err
