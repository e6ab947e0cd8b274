"""`inkstone evaluate MODEL --tasks ...`: runs the benchmarks and shows their table."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from inkstone.cli.progress import show_progress
from inkstone.cli.table import show_table
from inkstone.cli.visible import visible
from inkstone.errors import InputError
from inkstone.evaluate.protocols import Protocol
from inkstone.model.files.offload import Offload
from inkstone.model.packed.pack import Kind


def show_benchmarks(
    model: str,
    protocols: Sequence[Protocol],
    data: Path,
    output: Path,
    as_base: bool,
    bf16: bool,
    adapter: Path | None,
    quantize: Kind | None,
    offload: Offload,
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
    device = "cuda" if torch.cuda.is_available() and not offload.mapped else "cpu"
    with show_progress("evaluate") as progress, torch.inference_mode():
        remote = model.startswith(("http://", "https://"))
        if remote and (adapter or quantize or offload != Offload()):
            raise InputError(
                "--adapter, --quantize, --offload and --gpu-memory-gib are for a model directory: an endpoint has its "
                "weights already"
            )
        opened = (
            Endpoint(model, names[0])
            if remote
            else LocalModel(Path(model), dtype, device, as_base, adapter=adapter, quantize=quantize, offload=offload)
        )
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


def show_contamination(
    corpus: Sequence[Path], tasks: Sequence[str], data: Path, output: Path | None, overlap: float, field: str
) -> None:
    """Search, write `output` and show how many items of each benchmark were found, and the strongest."""
    from inkstone.evaluate.contamination import find_in_corpus
    from inkstone.evaluate.run.benchmarks import load_all, wanted_protocols
    from inkstone.storage import atomic_file, write_json_lines

    loaded = load_all(wanted_protocols(tasks), data, "")
    owner = {item.id: task for task, questions in loaded.items() for item in questions.items}
    items = [item for questions in loaded.values() for item in questions.items]
    with show_progress("contamination") as progress:
        found = find_in_corpus(items, corpus, progress, overlap, field)
    if output:
        with atomic_file(output) as draft:
            write_json_lines(draft, map(asdict, found))
    hit = {one.item for one in found}
    counts = {task: sum(owner[name] == task for name in hit) for task in loaded}
    rows = [(task, len(questions.items), counts[task]) for task, questions in loaded.items()]
    cells = [[task, str(all_), str(some), f"{100 * some / all_:.2f} %"] for task, all_, some in rows]
    show_table(["benchmark", "items", "found", "share"], cells)
    for one in found[:10]:
        typer.echo(f"\n{one.item} in {one.document} ({100 * one.overlap:.0f} %)\n{visible(one.passage)}")


def show_pairs(one: Path, other: Path, judge: str, judge_name: str, data: Path) -> None:
    """Answers to MT-Bench of two runs, pair by pair; judgements are kept in the second run's folder."""
    from inkstone.evaluate.kept import Kept
    from inkstone.evaluate.run.endpoint import Endpoint
    from inkstone.evaluate.run.pairwise import judge_pairs
    from inkstone.evaluate.tasks import load

    rater = Endpoint(judge, judge_name)
    owner = f"{one.resolve()} {rater.fingerprint}"
    rows = []
    for path in sorted(one.glob("mt-bench*.jsonl")):
        if path.name.count(".") == 1 and (other / path.name).is_file():
            items = load(path.name.partition("@")[0], data).items
            found = judge_pairs(rater, items, path, other / path.name, Kept(other / f"{path.stem}.pairs.jsonl", owner))
            rows.append([path.stem, *(str(found[name]) for name in ("a", "b", "tie", "unparsed"))])
    show_table(["pairs", "A better", "B better", "tie", "unparsed"], rows)
