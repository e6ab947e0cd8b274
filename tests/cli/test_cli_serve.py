"""`inkstone serve` refuses what it cannot serve, and to be reached from elsewhere without a key."""

from pathlib import Path

from tiny_run import inkstone


def test_another_address_needs_a_key(tmp_path: Path) -> None:
    ended = inkstone("serve", tmp_path, "--host", "0.0.0.0")
    assert ended.code == 2
    assert "can be reached from other machines: give an --api-key" in ended.said


def test_a_short_key_and_folders_without_models_are_named(tmp_path: Path) -> None:
    assert "fewer than 8 characters" in inkstone("serve", tmp_path, "--api-key", "short").said
    ended = inkstone("serve", tmp_path, tmp_path / "nosuch")
    assert ended.code == 2
    assert "is no model directory and holds none" in ended.said and "nosuch does not exist" in ended.said


def test_an_adapter_that_cannot_be_is_named_before_anything_is_served(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    ended = inkstone("serve", model, "--adapter", "law", "--adapter", "med=/no/such")
    assert ended.code == 2
    assert "--adapter law: write NAME=DIR" in ended.said and "/no/such does not exist" in ended.said
