"""What the verbs that run a recipe have in common on the command line."""

from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(help="TOML recipe, e.g. recipes/primer.toml", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override a recipe key, e.g. --set pretrain.epochs=2; repeatable"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print what would run and why, and stop")]
