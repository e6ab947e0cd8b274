"""`inkstone evaluate DIR --perplexity-by-length 512,1024`: the table, the JSON file and the chart."""

from pathlib import Path

import typer

from inkstone.cli.progress import show_progress
from inkstone.cli.table import show_table
from inkstone.evaluate.by_length import evaluate_by_length, read_lengths
from inkstone.storage import atomic_directory


def show_perplexity_by_length(
    model: Path, output: Path, lengths: str, text: Path | None, tokens: Path | None, token_limit: int
) -> None:
    """Measure, write `output` and print the table."""
    wanted = read_lengths(lengths)
    with show_progress("evaluate") as progress, atomic_directory(output) as draft:
        rows = evaluate_by_length(model, draft, wanted, text, tokens, token_limit, progress)
    beyond = {True: "beyond the training length", False: ""}
    cells = [
        [str(row.length), f"{row.perplexity:.4g}", f"{row.late:.4g}", f"{row.bits_per_byte:.3f}", str(row.tokens),
         beyond[row.beyond_training]]
        for row in rows
    ]  # fmt: skip
    show_table(["context length", "perplexity", "last quarter", "bits per byte", "tokens", ""], cells, left=0)
    typer.echo(output)
