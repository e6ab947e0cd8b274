"""`inkstone run`: validate, plan, run what is missing or stale, then show what came out."""

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from inkstone.cli.progress import show_progress
from inkstone.corpus import Workers
from inkstone.errors import InputError
from inkstone.evaluate import rich_table
from inkstone.pipeline import Planned, build_stages, check_inputs, execute, locked, make_plan, tidy
from inkstone.recipe import read_recipe
from inkstone.report import render_report


def run_recipe(
    path: Path, overrides: list[str], *, dry_run: bool, until: str | None, workers: Workers | None = None
) -> None:
    """Run the recipe's stages up to `until` (default: all)."""
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    recipe = read_recipe(path, overrides)
    stages = build_stages(recipe, workers)
    names = [stage.name for stage in stages]
    if not names:
        raise InputError(f"{path} names no stage: add a section such as [corpus] or [pretrain]")
    if until is not None and until not in names:
        raise InputError(f'{path} has no stage "{until}"; it has: {", ".join(names)}')
    stages = stages[: names.index(until) + 1] if until else stages
    if dry_run:
        plan = make_plan(recipe.run_dir, stages)
        check_inputs(recipe, {planned.stage.name for planned in plan if planned.reason})
        _print_plan(console, recipe.run_dir, plan)
        return
    with locked(recipe.run_dir):
        tidy(recipe.run_dir, stages)
        plan = make_plan(recipe.run_dir, stages)
        waiting = [planned for planned in plan if planned.reason]
        check_inputs(recipe, {planned.stage.name for planned in waiting})
        for number, planned in enumerate(waiting, start=1):
            with show_progress(planned.stage.name) as progress:
                execute(recipe.run_dir, planned, progress)
            console.print(f"[green]done[/] {recipe.run_dir / planned.stage.name} ({number} of {len(waiting)})")
        page = recipe.run_dir / "report.html"
        if waiting or not page.is_file():
            render_report(recipe.run_dir)
    if waiting:
        _show_result(console, recipe.run_dir)
    else:
        console.print(f"Nothing left to do: {recipe.run_dir} has every stage of {path}, and all are fresh.")
    console.print(f"report: {page}")
    if (recipe.run_dir / "sft").is_dir():
        console.print(f"talk to it: inkstone chat {recipe.run_dir / 'sft'}")


def _print_plan(console: Console, run_dir: Path, plan: list[Planned]) -> None:
    table = Table("stage", "", "why", title=f"plan for {run_dir}", title_justify="left")
    for planned in plan:
        state = "[yellow]run[/]" if planned.reason else "[green]fresh[/]"
        table.add_row(planned.stage.name, state, escape(planned.reason or ""))
    console.print(table)


def _show_result(console: Console, run_dir: Path) -> None:
    """Continuations, conversations and scores, as far as the run has them."""
    folder = run_dir / "evaluate"
    if not (folder / "scores.json").is_file():
        return
    samples = json.loads((folder / "samples.json").read_text(encoding="utf-8"))["models"]
    for name, said in samples.items():
        if name != "untrained":
            _show_samples(console, name, said)
    console.print(rich_table(json.loads((folder / "scores.json").read_text(encoding="utf-8"))))


def _show_samples(console: Console, name: str, said: dict[str, object]) -> None:
    continuations, conversations = said.get("continue"), said.get("chat")
    if isinstance(continuations, list) and continuations:
        console.rule(f"{name} continues", align="left")
        for row in continuations:
            console.print(f"{escape(row['prompt'])}[bold green]{escape(row['text'])}[/]\n")
    if isinstance(conversations, dict):
        for lang, turns in conversations.items():
            console.rule(f"{name} talks ({lang})", align="left")
            for turn in turns:
                colour = "bold green" if turn["role"] == "assistant" else "cyan"
                console.print(f"[{colour}]{turn['role']}:[/] {escape(turn['content'])}")
