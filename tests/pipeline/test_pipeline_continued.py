"""Continued pretraining: a recipe that goes on from a model directory, with its vocabulary or a larger one."""

import json
from pathlib import Path

import torch
from tiny_run import RECIPE, inkstone, write_recipe

from inkstone.model import load_model
from inkstone.tokenizer import Tokenizer

HEAD, _, REST = RECIPE.partition("[tokenizer]")
PRETRAIN = "[pretrain]" + REST.partition("[pretrain]")[2].partition("[sft]")[0]


def continued(base: Path, tokenizer: str, training: str = "") -> str:
    """The tiny run's corpus and training, from a base; without [model], tuning and evaluation."""
    return HEAD + f'[tokenizer]\nbase = "{base}"\n{tokenizer}\n' + PRETRAIN + training


def test_training_goes_on_from_the_weights_of_a_base(finished: Path, tmp_path: Path) -> None:
    """With a rate of nearly nothing the result is the base itself: its weights were taken, and its tokenizer."""
    base = finished / "pretrain"
    recipe = write_recipe(tmp_path, continued(base, "", f'base = "{base}"\n'))
    ended = inkstone("run", recipe, "--set", "pretrain.max_steps=1", "--set", "pretrain.learning_rate=1e-12")
    assert ended.code == 0, ended.err
    made = tmp_path / "runs" / "tiny" / "pretrain"
    assert Tokenizer.load(made).fingerprint == Tokenizer.load(base).fingerprint
    old, new = load_model(base).state_dict(), load_model(made).state_dict()
    assert all(torch.allclose(old[name], new[name], atol=1e-6) for name in old)
    (base / "model.safetensors").touch()
    again = inkstone("run", recipe, "--set", "pretrain.max_steps=1", "--set", "pretrain.learning_rate=1e-12")
    assert "Nothing left to do" in again.out


def test_an_extended_vocabulary_gets_rows_and_old_ids_stay(finished: Path, tmp_path: Path) -> None:
    base = finished / "pretrain"
    extend = "[tokenizer.extend]\nadd = 40\nmin_frequency = 3\n"
    recipe = write_recipe(tmp_path, continued(base, extend, f'base = "{base}"\n'))
    ended = inkstone("run", recipe, "--set", "pretrain.max_steps=2")
    assert ended.code == 0, ended.err
    run = tmp_path / "runs" / "tiny"
    old, new = Tokenizer.load(base), Tokenizer.load(run / "pretrain")
    added = json.loads((run / "tokenizer" / "stage.json").read_text(encoding="utf-8"))["result"]["added"]
    assert 0 < added == new.vocab_size - old.vocab_size
    assert new.vocabulary().items() > old.vocabulary().items()
    assert load_model(run / "pretrain").config.vocab_size == new.vocab_size


def test_a_base_with_another_tokenizer_is_refused_in_words(finished: Path, tmp_path: Path) -> None:
    text = RECIPE.partition("[sft]")[0].replace("[model]", "[unused]")
    text = text.partition("[unused]")[0] + PRETRAIN + f'base = "{finished / "pretrain"}"\n'
    ended = inkstone("run", write_recipe(tmp_path, text), "--set", "tokenizer.vocab_size=1400")
    assert ended.code == 2
    assert "has another tokenizer than the run: set [tokenizer] base" in ended.said


def test_a_shape_beside_a_base_and_an_extension_of_nothing_are_both_named(tmp_path: Path) -> None:
    text = RECIPE.replace("vocab_size = 1500", "[tokenizer.extend]\nadd = 4").replace(
        "[pretrain]", '[pretrain]\nbase = "x"'
    )
    ended = inkstone("run", write_recipe(tmp_path, text), "--dry-run")
    assert ended.code == 2
    assert "[model] has no part in a run whose [pretrain] has a base" in ended.said
    assert "extend needs base" in ended.said
