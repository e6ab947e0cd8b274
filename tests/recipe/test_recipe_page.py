"""docs/recipe.md documents exactly the settings that exist, and the recipes we ship are valid."""

import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from inkstone.recipe import Recipe, read_recipe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / "recipe_keys.py"))


def settings_tables(
    script: dict[str, Any], model: type[BaseModel] = Recipe, path: str = ""
) -> dict[str, type[BaseModel]]:
    """Every table with keys of its own, as a dotted path; the top level is "recipe"."""
    found = {path or "recipe": model} if script["_rows"](model) else {}
    for name, field in model.model_fields.items():
        inner = script["nested"](field.annotation)
        if inner:
            found |= settings_tables(script, inner, f"{path}.{name}".removeprefix("."))
    return found


def test_the_tables_of_the_page_are_those_of_the_settings(script: dict[str, Any]) -> None:
    assert script["render"](PAGE) == PAGE, "stale: run .venv/bin/python tools/recipe_keys.py"


def test_every_table_of_the_settings_is_on_the_page_once(script: dict[str, Any]) -> None:
    assert sorted(script["tables"](PAGE)) == sorted(settings_tables(script))


def test_every_key_has_a_meaning(script: dict[str, Any]) -> None:
    without = [
        f"{path}.{name}"
        for path, model in settings_tables(script).items()
        for name, field in model.model_fields.items()
        if not field.description and not script["nested"](field.annotation)
    ]
    assert without == []


def test_a_changed_default_a_new_key_and_a_removed_key_would_be_noticed(script: dict[str, Any]) -> None:
    for line in ("| `shots` | integer ≥ 0 | `5` |", "| `seed` | integer | `1` |", "| `runs_dir` |"):
        assert line in PAGE
        assert script["render"](PAGE.replace(line, "| `other` |")) == PAGE


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid_and_named_after_its_file(path: Path) -> None:
    assert read_recipe(path).name == path.stem


def test_the_recipes_for_own_data_show_every_section_but_the_primer_and_the_mixture() -> None:
    others = {"name", "runs_dir", "trackers", "primer", "tune", "quantize", "mixture"}
    sections = set(Recipe.model_fields) - others
    chat = tomllib.loads((ROOT / "recipes" / "own-chat.toml").read_text(encoding="utf-8"))
    text = tomllib.loads((ROOT / "recipes" / "own-text.toml").read_text(encoding="utf-8"))
    assert sections <= set(chat)
    assert sections - {"sft"} <= set(text)
    assert "sft" not in text, "the plain command must work without conversations"
    assert all(text[name] == chat[name] for name in ("model", "pretrain", "evaluate"))


def test_no_recipe_measures_a_model_beyond_the_lengths_it_saw() -> None:
    for name in ("own-text", "own-chat"):
        recipe = read_recipe(ROOT / "recipes" / f"{name}.toml")
        assert recipe.pretrain and recipe.model.max_positions == recipe.pretrain.sequence_length


def test_the_parameters_a_recipe_promises_are_those_of_its_model() -> None:
    for path in RECIPES:
        recipe = read_recipe(path)
        if "model" not in tomllib.loads(path.read_text(encoding="utf-8")):
            continue  # goes on from a model that exists
        assert recipe.tokenizer
        millions = recipe.model.decoder_config(recipe.tokenizer.vocab_size).num_parameters() / 1e6
        assert f"# {millions:.1f} M parameters" in path.read_text(encoding="utf-8")
