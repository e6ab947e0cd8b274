"""`inkstone curate RECIPE` and the verbs under it, such as `inkstone curate audit DIR`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from inkstone.cli.audit import audit


class DefaultRun(TyperGroup):
    """A group whose first word may be a recipe: `curate x.toml` means `curate run x.toml`."""

    default = "run"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


curate_app = typer.Typer(
    cls=DefaultRun,
    no_args_is_help=True,
    help="Clean raw text: `inkstone curate RECIPE` runs a recipe up to its curated corpus.",
)
curate_app.command("audit")(audit)


@curate_app.command("run")
def run(
    recipe: Annotated[Path, typer.Argument(help="TOML recipe, e.g. recipes/primer.toml", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="override a recipe key, e.g. --set corpus.dedup.near=false"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would run and why, and stop")] = False,
) -> None:
    """Run a recipe up to its curated corpus; the verb's name may be left out."""
    from inkstone.cli.run import run_recipe

    run_recipe(recipe, overrides or [], dry_run=dry_run, until="corpus")
