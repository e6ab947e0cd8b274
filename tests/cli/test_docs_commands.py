"""The commands and recipes that README and docs show are ones that this version understands."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from inkstone.cli.commands import app
from inkstone.recipe import PRIMER_PARTS, Recipe, read_recipe

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CONNECTORS = {"|", "||", "&", "&&", ";", ">", ">>", "2>"}


def blocks(page: str, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(page) if language in languages]


def commands(page: str) -> list[list[str]]:
    """Every command of the page's shell blocks, as words; in console blocks commands follow a "$"."""
    lines = [line for block in blocks(page, "bash", "sh", "shell") for line in joined(block)]
    lines += [line[2:] for block in blocks(page, "console") for line in joined(block) if line.startswith("$ ")]
    return [command for line in lines for command in split(line)]


def joined(block: str) -> list[str]:
    """Lines of a block, continued lines as one."""
    return block.replace("\\\n", " ").splitlines()


def split(line: str) -> list[list[str]]:
    """The commands of a line, without redirections, comments and leading assignments."""
    found: list[list[str]] = [[]]
    for word in shlex.split(line, comments=True):
        if word in CONNECTORS:
            found.append([])
        elif found[-1] or not re.fullmatch(r"\w+=.*", word):
            found[-1].append(word)
    return [command for command in found if command]


def parse(words: list[str]) -> dict[str, Any]:
    """What the command line makes of the words after `inkstone`, without doing it. Raises on what it does not know."""
    command: Any = typer.main.get_group(app)
    path = ["inkstone"]
    while words and words[0] in getattr(command, "commands", {}):
        path.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    if default := getattr(command, "default", None):  # `curate RECIPE` is `curate run RECIPE`
        command = command.commands[default]
    assert not hasattr(command, "commands"), f"{' '.join(path)} has no command {' '.join(words)}"
    with command.make_context(" ".join(path), list(words)) as context:
        return dict(context.params)


def check(command: list[str]) -> None:
    """A command of a page; programs other than ours and make are not our business."""
    program, *words = command
    if Path(program).name == "inkstone" and "--help" not in words:
        values = parse(words)
        recipe = values.get("recipe")
        if recipe is not None and (recipe.parts[0] == "recipes" or (ROOT / recipe).exists()):
            read_recipe(ROOT / recipe, values["overrides"])
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in words if "=" not in word} <= set(targets)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_on_a_page_is_one_we_understand(path: Path) -> None:
    wrong = []
    for command in commands(path.read_text(encoding="utf-8")):
        try:
            check(command)
        except (Exception, SystemExit) as error:
            wrong.append(f"{' '.join(command)}: {error!r}")
    assert wrong == []


def test_the_recipe_page_shows_commands() -> None:
    assert len(commands((ROOT / "docs" / "recipe.md").read_text(encoding="utf-8"))) >= 5


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_recipe_on_a_page_has_only_settings_that_exist(path: Path) -> None:
    for block in blocks(path.read_text(encoding="utf-8"), "toml"):
        values = tomllib.loads(block)
        Recipe.model_validate({"name": "x", **values})
        assert set(re.findall(r'"primer:([^"]*)"', block)) <= set(PRIMER_PARTS)


@pytest.mark.parametrize(
    "line",
    [
        "inkstone walk recipes/primer.toml",
        "inkstone run recipes/primer.toml --fast",
        "inkstone run",
        "inkstone run recipes/none.toml",
        "inkstone run recipes/primer.toml --set pretrain.epoch=2 | tee log",
        "OMP_NUM_THREADS=1 .venv/bin/inkstone tokenizer train --vocab 5",
        "cd there && inkstone chat",
        "make coffee",
    ],
)
def test_a_command_that_is_wrong_would_be_noticed(line: str) -> None:
    found = commands(f"text\n```console\n$ {line}\noutput\n```\n")
    assert found == commands(f"```bash\n{line}  # comment\n```\n") == split(line)
    with pytest.raises((Exception, SystemExit)):
        for command in found:
            check(command)


def test_commands_are_read_with_continuations_comments_and_assignments() -> None:
    page = '```console\n$ A=1 inkstone run r.toml \\\n  --set name=x  # why\ndone\n$ inkstone chat "a b" > log\n```\n'
    assert commands(page) == [["inkstone", "run", "r.toml", "--set", "name=x"], ["inkstone", "chat", "a b"], ["log"]]
