"""A run's last model in fewer bits, calibrated on the run's tokens, evaluated beside it, resumed after a kill."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import inkstone, write_recipe

from inkstone.model import load_model
from inkstone.model.packed.pack import packed_maps

SECTION = """
[quantize]
method = "gptq"
group_size = 32
samples = 16
length = 64
"""


def test_the_last_model_is_quantised_and_evaluated_beside_the_others(
    begun: Callable[[str], Path], finished: Path
) -> None:
    recipe = begun("sft")
    recipe.write_text(recipe.read_text() + SECTION, encoding="utf-8")
    short = ["--set", "sft.max_steps=4", "--set", "pretrain.max_steps=4"]
    ended = inkstone("run", recipe, *short)
    assert ended.code == 0, ended.err
    run = recipe.parent / "runs" / "tiny"
    result = json.loads((run / "quantize" / "stage.json").read_text())["result"]
    assert result["base"] == "sft" and result["size_mb"] < result["base_size_mb"]
    assert packed_maps(load_model(run / "quantize")) == 7
    scores = json.loads((run / "evaluate" / "scores.json").read_text())["models"]
    assert list(scores) == ["untrained", "pretrain", "sft", "quantize"]
    assert "Nothing left to do" in inkstone("run", recipe, *short).out
    said = inkstone("run", recipe, *short, "--dry-run", "--set", "quantize.bits=8").out
    assert said.count(" run ") == 2 and "quantize" in said


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("[quantize]\nbits = 3\n", "bits 3 is not written"),
        ('[quantize]\nbase = "nowhere"\n', "nowhere"),
        ('[quantize]\nmethod = "rtn"\n', "[quantize] has no model"),
    ],
)
def test_what_cannot_be_quantised_is_said(section: str, sentence: str, tmp_path: Path) -> None:
    ended = inkstone("run", write_recipe(tmp_path, f'name = "q"\n{section}'))
    assert ended.code == 2 and sentence in ended.said


def test_a_run_without_tokens_has_nothing_to_calibrate_on(finished: Path, tmp_path: Path) -> None:
    text = f'name = "q"\n[quantize]\nbase = "{finished}/sft"\ngroup_size = 32\n'
    ended = inkstone("run", write_recipe(tmp_path, text))
    assert ended.code == 2 and "is calibrated on the run's tokens" in ended.said
