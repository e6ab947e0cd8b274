"""What verbs have in common on the command line: a recipe's options, and an output that must not exist yet."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from inkstone.errors import InputError

RecipePath = Annotated[Path, typer.Argument(help="TOML recipe, e.g. recipes/primer.toml", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override a recipe key, e.g. --set pretrain.epochs=2; repeatable"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print what would run and why, and stop")]


def refuse_existing(output: Path) -> None:
    """An output directory is written as a whole, so one that exists would be lost with all that is in it."""
    if output.exists():
        raise InputError(f"{output} already exists and would be replaced: give a new directory, or remove it first")


class DefaultVerb(TyperGroup):
    """A group of verbs one of which is meant where none is named."""

    default = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        verb = next((arg for arg in args if not arg.startswith("-")), None)
        if verb is not None and verb not in self.commands:
            args = [self.default, *args]
        return super().parse_args(ctx, args)
