"""`inkstone tune RECIPE` and `inkstone tune preview RECIPE`: training, and its rows as the model will see them."""

from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from inkstone.cli.help import DefaultVerb
from inkstone.cli.options import DryRun, Overrides, RecipePath

tune_app = typer.Typer(
    cls=DefaultVerb,
    no_args_is_help=True,
    help="Run a recipe up to its tuned model (inkstone tune RECIPE), or look at its rows first.",
)


@tune_app.command("run")
def tune(recipe: RecipePath, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Run a recipe up to its tuned chat model."""
    from inkstone.cli.run import last_tuning, run_recipe

    overrides = overrides or []
    run_recipe(recipe, overrides, dry_run=dry_run, until=last_tuning(recipe, overrides))


@tune_app.command("preview")
def preview(
    recipe: RecipePath,
    overrides: Overrides = None,
    stage: Annotated[str | None, typer.Option(metavar="NAME", help="tuning stage; default: the recipe's first")] = None,
    rows: Annotated[int, typer.Option(min=0, max=1000, help="rows to show")] = 2,
) -> None:
    """Rows as the model will see them: what is learned is green, control tokens too; lengths, cuts and every fault.

    Nothing is trained or written. The base must be there, or the run's tokenizer.
    """
    from rich.console import Console

    from inkstone.cli.table import Cell, show_table
    from inkstone.cli.visible import visible
    from inkstone.errors import InputError
    from inkstone.pipeline.stages import resolve
    from inkstone.recipe import read_recipe
    from inkstone.tokenizer import Tokenizer
    from inkstone.tune.preview import as_the_model_sees

    console = Console(highlight=False, soft_wrap=True, emoji=False)
    read = read_recipe(recipe, overrides or [])
    stages = read.tunings()
    name = stage or next(iter(stages), "")
    if name not in stages:
        raise InputError(f'{recipe} has no tuning stage "{name}"; it has: {", ".join(stages) or "none"}')
    settings = stages[name]
    folder = next(
        (path for path in (read.run_dir / settings.base, Path(settings.base)) if (path / "tokenizer.json").is_file()),
        read.run_dir / "tokenizer",
    )
    files = [path for path in resolve(settings.inputs, read.run_dir) if isinstance(path, Path)]

    def show(fault: object) -> None:
        console.print(visible(str(fault)), markup=False, style="red")

    seen = as_the_model_sees(settings, files, folder, rows, show)
    tokenizer = Tokenizer.load(folder)
    for number, side, ids, weights in seen.rows:
        console.rule(f"row {number}{side and f', {side}'}", align="left")
        for learned, group in groupby(zip(ids, weights, strict=True), key=lambda pair: pair[1] > 0):
            text = tokenizer.decode([token for token, _ in group], skip_control=False)
            console.print(visible(text), end="", markup=False, style="bold green" if learned else "")
        console.print()
    table: list[list[Cell]] = [[key.replace("_", " "), f"{value:,}"] for key, value in seen.counts.items()]
    table += [["tokens in a row: " + part, f"{length:,}"] for part, length in seen.lengths.items()]
    show_table([f"{name}: {settings.method}", ""], table, left=1)
