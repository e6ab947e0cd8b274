"""What verbs have in common on the command line: a recipe's options, and an output that must not exist yet."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from inkstone.errors import InputError

RecipePath = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="TOML recipe, e.g. recipes/primer.toml", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override a recipe key, e.g. --set pretrain.epochs=2; repeatable"),
]
Quantize = Annotated[
    Literal["int8", "int4", "nf4"] | None, typer.Option(help="pack the weights by rounding as they are read")
]
Lookup = Annotated[
    int,
    typer.Option(min=0, max=16, help="tokens guessed at a time from what the text has said; answers stay equal"),
]
Draft = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="smaller model of the same vocabulary that guesses; answers stay equal"),
]
Where = Annotated[str, typer.Option("--device", help="cpu or cuda")]
Mapped = Annotated[
    bool,
    typer.Option("--offload", help="copy nothing: weights stay in their mapped file and are read as used"),
]
GpuGib = Annotated[
    float | None,
    typer.Option(min=0.01, metavar="GIB", help="run on the GPU in so much of its memory; what does not fit is brought"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print what would run and why, and stop")]


def refuse_existing(output: Path) -> None:
    """An output directory is written as a whole, so one that exists would be lost with all that is in it."""
    if output.exists():
        raise InputError(f"{output} already exists and would be replaced: give a new directory, or remove it first")
