"""`inkstone quantize`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from inkstone.cli.options import refuse_existing


def quantize(
    source: Annotated[Path, typer.Argument(help="model directory of any family")],
    output: Annotated[Path, typer.Option("--output", "-o", help="directory to write")],
    method: Annotated[Literal["gptq", "rtn"], typer.Option(help="rtn rounds to nearest and needs no text")] = "gptq",
    bits: Annotated[int, typer.Option(help="4 or 8")] = 4,
    group_size: Annotated[int, typer.Option(help="columns that share a scale; -1: whole rows")] = 128,
    layout: Annotated[
        Literal["gptq", "awq", "compressed-tensors"], typer.Option(help="how the weights are written down")
    ] = "compressed-tensors",
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="UTF-8 text like what the model will read; gptq needs it")
    ] = None,
    samples: Annotated[int, typer.Option(min=8, help="rows of calibration text")] = 128,
    length: Annotated[int, typer.Option(min=16, help="tokens in each")] = 512,
    act_order: Annotated[bool, typer.Option("--act-order", help="round first the columns that matter most")] = False,
) -> None:
    """Quantise a model to 4 or 8 bits, in a layout that vLLM and transformers open. A killed call goes on."""
    from inkstone.cli.progress import show_progress
    from inkstone.quantize import Quantization, quantize_model

    refuse_existing(output)
    how = Quantization(method, bits, group_size, layout, act_order, samples=samples, length=length)
    with show_progress("quantize") as progress:
        quantize_model(source, output, how, calibration, progress)
    typer.echo(output)
