"""`inkstone evaluate DIR --perplexity-by-length 512,1024`: the table, the JSON file and the chart."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from inkstone.cli.progress import show_progress
from inkstone.evaluate.by_length import evaluate_by_length, read_lengths
from inkstone.storage import atomic_directory


def show_perplexity_by_length(
    model: Path, output: Path, lengths: str, text: Path | None, tokens: Path | None, token_limit: int
) -> None:
    """Measure, write `output` and print the table."""
    wanted = read_lengths(lengths)
    with show_progress("evaluate") as progress, atomic_directory(output) as draft:
        rows = evaluate_by_length(model, draft, wanted, text, tokens, token_limit, progress)
    table = Table(box=box.SIMPLE_HEAD)
    for head in ("context length", "perplexity", "last quarter", "tokens", ""):
        table.add_column(head, justify="right")
    for row in rows:
        beyond = "beyond the training length" if row.beyond_training else ""
        table.add_row(str(row.length), f"{row.perplexity:.4g}", f"{row.late:.4g}", str(row.tokens), beyond)
    Console().print(table)
    Console().print(f"{output}", highlight=False)
