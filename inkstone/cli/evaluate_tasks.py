"""`inkstone evaluate MODEL --tasks ...`: runs the benchmarks and shows their table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from inkstone.cli.progress import show_progress
from inkstone.cli.table import show_table
from inkstone.evaluate.protocols import Protocol


def show_benchmarks(
    model: str,
    protocols: Sequence[Protocol],
    data: Path,
    output: Path,
    as_base: bool,
    bf16: bool,
    judge: str,
    names: tuple[str, str],
    **options: Any,
) -> None:
    """Answer, write and print; `options` are those of `run_benchmarks`."""
    import torch

    from inkstone.evaluate.run.benchmarks import run_benchmarks
    from inkstone.evaluate.run.endpoint import Endpoint
    from inkstone.evaluate.run.local import LocalModel

    dtype = torch.bfloat16 if bf16 else torch.float32
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with show_progress("evaluate") as progress, torch.inference_mode():
        remote = model.startswith(("http://", "https://"))
        opened = Endpoint(model, names[0]) if remote else LocalModel(Path(model), dtype, device, as_base)
        rater = Endpoint(judge, names[1]) if judge else None
        scores = run_benchmarks(opened, protocols, data, output, progress, judge=rater, **options)
    show_table(["task", "questions", "item mean", "95 %", "subject mean", "unparsed", "truncated", "protocol"], [
        score_row(name, found) for name, found in scores["tasks"].items()
    ])  # fmt: skip
    typer.echo(output / "report.html")


def score_row(name: str, found: dict[str, Any]) -> list[str]:
    """One line of the table."""
    scored = "item_mean" in found
    means = [f"{100 * found['item_mean']:.2f}", f"{100 * found['low']:.1f} - {100 * found['high']:.1f}",
             f"{100 * found['subject_mean']:.2f}"] if scored else ["–", "–", "–"]  # fmt: skip
    return [
        name,
        str(found["questions"]),
        *means,
        str(found["unparsed"]),
        str(found["truncated"]),
        found["fingerprint"],
    ]
