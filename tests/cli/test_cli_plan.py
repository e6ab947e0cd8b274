"""`inkstone plan` says what a recipe's training needs, and what is wrong, before anything runs."""

from pathlib import Path

from tiny_run import inkstone

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
    assert "[pretrain] shard = 2 does not divide --count 3" in ended.said
