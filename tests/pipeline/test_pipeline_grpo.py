"""GRPO as a stage of a recipe, on word problems of the primer."""

import json
from pathlib import Path

from tiny_run import RECIPE, inkstone, write_recipe

STAGE = """
[tune.reason]
inputs = ["QUESTIONS"]
base = "sft"
template = "auto"
method = "grpo"
adapter = "lora"
sequence_length = 256
batch_tokens = 256
max_steps = 2
epochs = 100
checkpoint_steps = 1
device = "cpu"
dtype = "float32"
compile = "off"
[tune.reason.grpo]
rewards = ["last_number", "ends"]
prompts = 2
group = 2
max_new_tokens = 12
"""


def test_grpo_follows_a_tuning_stage(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    rows = [{"question": f"小明有{n}个苹果，又买了3个，一共几个？", "answer": f"#### {n + 3}"} for n in range(12)]
    questions.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    text = RECIPE.partition("[evaluate]")[0] + STAGE.replace("QUESTIONS", str(questions))
    recipe = write_recipe(tmp_path, text)
    short = ["--set", "pretrain.max_steps=2", "--set", "sft.max_steps=2"]
    ended = inkstone("run", recipe, *short)
    assert ended.code == 0, ended.err
    stage = tmp_path / "runs" / "tiny" / "reason"
    assert len((stage / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()) == 8
    assert (stage / "adapter" / "adapter_config.json").is_file()
    assert "Nothing left to do" in inkstone("run", recipe, *short).out
