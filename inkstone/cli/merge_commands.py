"""`inkstone merge adapter` and `inkstone merge models`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from inkstone.cli.model_commands import DTYPES, Dtype
from inkstone.cli.options import refuse_existing

merge_app = typer.Typer(no_args_is_help=True, help="Merge an adapter into its base, or several models into one.")


@merge_app.command("adapter")
def adapter(
    base: Annotated[Path, typer.Argument(help="the model directory that the adapter was trained on")],
    adapter: Annotated[Path, typer.Argument(help="PEFT directory with a LoRA adapter")],
    output: Annotated[Path, typer.Option("--output", "-o", help="directory to write")],
    dtype: Dtype = None,
) -> None:
    """Add an adapter to its base's weights; logits of both are compared."""
    import torch

    from inkstone.storage import atomic_directory
    from inkstone.tune.merge import merge_adapter

    refuse_existing(output)
    with atomic_directory(output) as draft:
        told = merge_adapter(base, adapter, draft, getattr(torch, DTYPES[dtype]) if dtype else None)
    typer.echo(
        f"{output}: logits differ by {told['largest_difference']:.1e} at most and reach {told['largest_logit']:.1f}; "
        f"the same best token at {told['same_best']:.1%} of {told['positions']} positions"
    )


@merge_app.command("models")
def models(
    sources: Annotated[list[Path], typer.Argument(help="model directories of one shape and tokenizer")],
    output: Annotated[Path, typer.Option("--output", "-o", help="directory to write")],
    method: Annotated[
        Literal["linear", "slerp", "ties", "dare"], typer.Option(help="how weights are joined")
    ] = "linear",
    weights: Annotated[str | None, typer.Option(metavar="A,B", help="what each model counts; default: alike")] = None,
    base: Annotated[Path | None, typer.Option(help="ties and dare: the model that all of them come from")] = None,
    density: Annotated[float, typer.Option(min=0.01, max=1, help="ties and dare: share of each difference kept")] = 0.5,
    seed: Annotated[int, typer.Option(help="dare: of what is dropped")] = 1,
) -> None:
    """Join the weights of several models into one."""
    from inkstone.cli.progress import show_progress
    from inkstone.storage import atomic_directory
    from inkstone.tune.merge import Merge, merge_models, parse_weights

    refuse_existing(output)
    how = Merge(method, parse_weights(weights, len(sources)), density, seed)
    with show_progress("merge") as progress, atomic_directory(output) as draft:
        merge_models(sources, draft, how, base, progress)
    typer.echo(output)
