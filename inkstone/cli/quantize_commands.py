"""`inkstone quantize`: a model in fewer bits, and what that cost."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from inkstone.cli.options import refuse_existing


def quantize(
    source: Annotated[Path, typer.Argument(help="model directory of any family")],
    output: Annotated[Path, typer.Option("--output", "-o", help="directory to write")],
    method: Annotated[
        Literal["gptq", "awq", "rtn", "nf4"], typer.Option(help="rtn (round to nearest) and nf4 need no text")
    ] = "gptq",
    bits: Annotated[int, typer.Option(help="4 or 8")] = 4,
    group_size: Annotated[
        int | None, typer.Option(help="columns that share a scale; -1: whole rows; default 128", show_default=False)
    ] = None,
    layout: Annotated[
        Literal["gptq", "awq", "compressed-tensors", "bitsandbytes"] | None,
        typer.Option(help="how the weights are written down; default compressed-tensors", show_default=False),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="UTF-8 text like what the model will read; gptq and awq need it")
    ] = None,
    samples: Annotated[int, typer.Option(min=8, help="rows of calibration text")] = 128,
    length: Annotated[int, typer.Option(min=16, help="tokens in each")] = 512,
    act_order: Annotated[bool, typer.Option("--act-order", help="round first the columns that matter most")] = False,
    compare: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="UTF-8 text to measure both models on; repeatable")
    ] = None,
) -> None:
    """Quantise a model to 4 or 8 bits, in a layout that vLLM and transformers open. A killed call goes on.

    With --compare both models are measured: perplexity, divergence, size, speed; also kept in quality.json.
    """
    from inkstone.cli.progress import show_progress
    from inkstone.quantize import Quantization, quantize_model

    refuse_existing(output)
    group = group_size or (64 if method == "nf4" else 128)
    where = layout or ("bitsandbytes" if method == "nf4" else "compressed-tensors")
    how = Quantization(method, bits, group, where, act_order, samples=samples, length=length)
    with show_progress("quantize") as progress:
        quantize_model(source, output, how, calibration, progress)
    if compare:
        _compare(source, output, compare)
    typer.echo(output)


def _compare(source: Path, made: Path, texts: Sequence[Path]) -> None:
    from inkstone.cli.table import Cell, show_table
    from inkstone.evaluate.quality import compare_quality, decoding_speed
    from inkstone.storage import atomic_file, write_json

    rows = compare_quality(source, made, texts)
    sizes = [sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6 for folder in (source, made)]
    speeds = [decoding_speed(folder) for folder in (source, made)]
    table: list[list[Cell]] = [
        ["size, MB", *(f"{size:,.1f}" for size in sizes), f"{sizes[1] / sizes[0]:.2f} x"],
        ["tokens per second, one answer", *(f"{speed:,.1f}" for speed in speeds), f"{speeds[1] / speeds[0]:.2f} x"],
    ]
    for row in rows:
        before, after = row.perplexity
        table.append([f"{row.text}: perplexity", f"{before:,.3f}", f"{after:,.3f}", f"{after / before - 1:+.2%}"])
        table.append([f"{row.text}: divergence, nats", "", f"{row.divergence:.4f}", f"same best {row.same_best:.1%}"])
    show_table(["", "original", "quantised", ""], table)
    told = {"size_mb": sizes, "tokens_per_second": speeds, "texts": [asdict(row) for row in rows]}
    with atomic_file(made / "quality.json") as draft:
        write_json(draft, told)
