"""`inkstone run`: validate, then plan or run, then show what came out."""

import os
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from inkstone.cli.progress import terminal
from inkstone.cli.table import Cell, show_table
from inkstone.cli.visible import visible
from inkstone.errors import InputError
from inkstone.evaluate import EVALUATE, score_rows
from inkstone.pipeline import Planned, check_inputs, checkpoint_of, chosen_stages, make_plan, run
from inkstone.recipe import Recipe, read_recipe
from inkstone.storage import Digests, read_json_object, reading
from inkstone.tune import SFT


def run_recipe(path: Path, overrides: list[str], *, dry_run: bool, until: str | None) -> None:
    """Run the recipe's stages up to `until` (default: all)."""
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    recipe = read_recipe(path, overrides)
    if dry_run:
        _print_plan(recipe, until)
        return
    with terminal(console) as observer:
        done = run(recipe, until, observer)
    if os.environ.get("RANK", "0") != "0":
        return
    if done:
        _show_result(console, recipe.run_dir)
    else:
        console.print(f"Nothing left to do: {recipe.run_dir} has every stage of {path}, and all are fresh.")
    console.print(f"report: {recipe.run_dir / 'report.html'}")
    chats = [name for name in recipe.tunings() if (recipe.run_dir / name).is_dir()]
    if chats:
        console.print(f"talk to it: inkstone chat {recipe.run_dir / chats[-1]}")
        console.print(f"serve it:   inkstone serve {recipe.run_dir / chats[-1]}")


def last_tuning(path: Path, overrides: list[str]) -> str:
    """The stage that `inkstone tune` runs up to."""
    return next(reversed(read_recipe(path, overrides).tunings()), SFT.name)


def _print_plan(recipe: Recipe, until: str | None) -> None:
    """What would run and why, and what is wrong with the data of stages that would. Writes nothing."""
    stages = chosen_stages(recipe, until)
    plan = make_plan(recipe.run_dir, stages, Digests(recipe.run_dir / ".digests.json"))
    faults = check_inputs(recipe, {planned.stage.name for planned in plan if planned.reason})
    cells: list[list[Cell]] = []
    for planned in plan:
        state = ("run", "yellow") if planned.reason else ("damaged", "red") if planned.damage else ("fresh", "green")
        fault = "; its data has faults, listed below" if planned.stage.name in faults else ""
        cells.append([planned.stage.name, Text(*state), _why(recipe, planned) + fault])
    show_table(["stage", "", "why"], cells, f"plan for {recipe.run_dir}", left=3)
    problems = [problem for found in faults.values() for problem in found]
    if problems:
        raise InputError(problems)


def _why(recipe: Recipe, planned: Planned) -> str:
    checkpoint = checkpoint_of(recipe.run_dir, planned) if planned.reason else ""
    return (planned.reason or planned.damage) + (f"; continues from {checkpoint}" if checkpoint else "")


def _show_result(console: Console, run_dir: Path) -> None:
    """Continuations, conversations and scores, as far as the run has them."""
    folder = run_dir / EVALUATE.name
    if not (folder / "scores.json").is_file():
        return
    with reading(folder, "an evaluation", "run the evaluate stage again"):
        for name, said in read_json_object(folder / "samples.json")["models"].items():
            if name != "untrained":
                _show_samples(console, name, said)
        head, *rows = score_rows(read_json_object(folder / "scores.json"))
    show_table(head, rows)


def _show_samples(console: Console, name: str, said: dict[str, object]) -> None:
    continuations, conversations = said.get("continue"), said.get("chat")
    if isinstance(continuations, list) and continuations:
        console.rule(f"{name} continues", align="left")
        for row in continuations:
            console.print(f"{escape(visible(row['prompt']))}[bold green]{escape(visible(row['text']))}[/]\n")
    if isinstance(conversations, dict):
        for lang, turns in conversations.items():
            console.rule(f"{name} talks ({lang})", align="left")
            for turn in turns:
                colour = "bold green" if turn["role"] == "assistant" else "cyan"
                console.print(f"[{colour}]{turn['role']}:[/] {escape(visible(turn['content']))}")
