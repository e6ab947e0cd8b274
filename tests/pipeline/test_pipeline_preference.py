"""Tuning stages one after the other in a recipe: conversations with an adapter, then preference pairs on top."""

import json
import shutil
from collections.abc import Callable
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


def test_pairs_and_test_rows_of_ones_own_files(begun: Callable[[str], Path], finished: Path, tmp_path: Path) -> None:
    """They are read as pairs before anything starts, and tested on before and after."""
    begun("pretrain")
    pairs = (finished / "primer" / "preferences.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(pairs[:-5]), encoding="utf-8")
    (tmp_path / "test.jsonl").write_text("".join(pairs[-5:]), encoding="utf-8")
    chats = (finished / "primer" / "chats.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "chats.jsonl").write_text("".join(chats[:20]), encoding="utf-8")
    shutil.copytree(finished / "sft", tmp_path / "base")
    own = f"""
name = "own"
[tune.talk]
inputs = ["{tmp_path}/chats.jsonl"]
heldout = ["{tmp_path}/chats.jsonl"]
base = "{tmp_path}/base"
template = "auto"
sequence_length = 128
batch_tokens = 256
epochs = 4
device = "cpu"
compile = "off"
""" + STAGES.replace('"primer:preferences"', f'"{tmp_path}/train.jsonl"').replace(
        'base = "sft"', f'base = "talk"\nheldout = ["{tmp_path}/test.jsonl"]'
    )
    recipe = write_recipe(tmp_path, own)
    ended = inkstone("run", recipe)
    assert ended.code == 0, ended.err
    talk, pair = (
        json.loads((tmp_path / "runs" / "own" / stage / "stage.json").read_text(encoding="utf-8"))["result"]
        for stage in ("talk", "prefer")
    )
    assert talk["heldout_loss"] < talk["heldout_loss_before"] and talk["conversations"] == 20
    assert pair["pairs"] == len(pairs) - 5 and 0 <= pair["heldout_accuracy_before"] <= 1
    (tmp_path / "test.jsonl").write_text('{"messages": []}\n', encoding="utf-8")
    assert "test.jsonl" in inkstone("run", recipe).said
    refused = inkstone("run", recipe, "--dry-run", "--set", "tune.prefer.method=grpo")
    assert refused.code == 2 and "heldout has no part" in refused.err
    for method, bad in (("reward", "c.jsonl"), ("ppo", "test.jsonl")):
        told = ["--dry-run", f"--set=tune.prefer.method={method}", "--set=tune.prefer.heldout=[]"]
        told += ['--set=tune.prefer.ppo.rewards=["ends"]', "--set=tune.talk.heldout=[]"]
        assert inkstone("run", recipe, *told).code == 0, f"pairs are what {method} reads"
        (tmp_path / "c.jsonl").write_text('{"question": ""}\n', encoding="utf-8")
        wrong = inkstone("run", recipe, *told, f'--set=tune.prefer.inputs=["{tmp_path}/{bad}"]')
        assert wrong.code == 2 and bad in wrong.said
