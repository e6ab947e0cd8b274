"""`inkstone plan` says what a recipe's training needs, and what is wrong, before anything runs."""

from pathlib import Path

import pytest
from tiny_run import inkstone

from inkstone.model import ModelSettings, save_model
from inkstone.train import new_model

RECIPE = Path(__file__).parents[2] / "recipes" / "own-text.toml"
LARGE = [
    f"--set={key}"
    for key in (
        "pretrain.optimizer=adamw",
        "model.hidden_size=4096",
        "model.num_layers=32",
        "model.num_heads=32",
        "model.max_positions=4096",
        "pretrain.sequence_length=4096",
        "pretrain.batch_tokens=65536",
        "pretrain.micro_batch_tokens=16384",
    )
]


def test_a_plan_names_parts_speed_time_and_what_would_fit() -> None:
    ended = inkstone("plan", RECIPE, "--gpu", "h100", "--count", "8", *LARGE)
    assert ended.code == 0, ended.err
    for word in ("activations", "in all, each process", "tokens per second", "hours", "disk of one checkpoint"):
        assert word in ended.out
    assert "It does not fit. The nearest setting that does:" in ended.out


def test_a_small_run_fits_this_machine() -> None:
    ended = inkstone("plan", RECIPE, "--gpu", "cpu")
    assert ended.code == 0, ended.err
    assert "does not fit" not in ended.out


def test_unknown_hardware_and_impossible_layouts_are_refused() -> None:
    assert "did you mean h100" in inkstone("plan", RECIPE, "--gpu", "h10").said
    ended = inkstone("plan", RECIPE, "--gpu", "h100", "--count", "3", "--set", "pretrain.shard=2")
    assert ended.code == 2
    assert "[pretrain] shard = 2 x tensor = 1 does not divide --count 3" in ended.said


@pytest.mark.parametrize(("recipe", "parameters"), [("7b", "7,000.6 M"), ("13b", "13,264.9 M")])
def test_the_recipes_for_clusters_have_the_published_shapes_and_fit_as_they_say(recipe: str, parameters: str) -> None:
    ended = inkstone("plan", RECIPE.with_name(f"{recipe}.toml"), "--gpu", "h100", "--count", "64")
    assert ended.code == 0, ended.err
    assert parameters in ended.out and "does not fit" not in ended.out


def test_the_recipe_that_goes_on_from_a_mixture_takes_its_shape_and_new_tokens(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shape = ModelSettings(hidden_size=32, num_layers=2, num_heads=2, num_experts=4, tie_embeddings=False)
    save_model(new_model(shape, 61, 1), base, bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    here = [f"--set=pretrain.base={base}", f"--set=tokenizer.base={base}", "--set=pretrain.sequence_length=64"]
    ended = inkstone("plan", RECIPE.with_name("8x7b.toml"), "--gpu", "h200", "--count", "64", *here)
    assert ended.code == 0, ended.err
    assert "in all, each process" in ended.out
