"""`inkstone evaluate`: a model on a quiz of one's own or on the field's benchmarks, and the verbs around the results.

`inkstone evaluate MODEL ...` is short for `inkstone evaluate run MODEL ...`.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from inkstone.cli.help import DefaultVerb
from inkstone.cli.options import GpuGib, Mapped, Quantize, refuse_existing


class _Evaluate(DefaultVerb):
    argument = "MODEL"


evaluate_app = typer.Typer(
    cls=_Evaluate,
    no_args_is_help=True,
    help="Score a model (inkstone evaluate MODEL ...), compare runs, see the exact prompts.",
)
Data = Annotated[Path, typer.Option(help="folder with one folder per benchmark, or hub: downloaded once")]


@evaluate_app.command("run")
def evaluate_run(
    model: Annotated[str, typer.Argument(help="model directory, or the URL of an OpenAI endpoint", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the scores and one row per question")],
    tasks: Annotated[
        str | None, typer.Option(metavar="TASK,...", help="benchmarks, e.g. cmmlu,mmlu@official,ceval@lm-eval/5")
    ] = None,
    data: Data = Path("data"),
    limit: Annotated[int | None, typer.Option(min=1, help="questions per task, spread evenly; default: all")] = None,
    split: Annotated[str, typer.Option(help="val or test, where a benchmark has both")] = "",
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="where models write; another protocol then")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="texts per question, e.g. 20 for pass@10")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="of the samples; default: the protocol's")] = None,
    allow_unsandboxed: Annotated[
        bool, typer.Option("--allow-unsandboxed", help="run programs that models write with limits alone")
    ] = False,
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="a PEFT adapter on the model, for --tasks")
    ] = None,
    judge: Annotated[str, typer.Option(metavar="URL", help="OpenAI endpoint that rates answers, e.g. MT-Bench's")] = "",
    model_name: Annotated[str, typer.Option(help="the model at the endpoint; default: the first it lists")] = "",
    judge_name: Annotated[str, typer.Option(help="the model that judges; default: the first it lists")] = "",
    as_base: Annotated[bool, typer.Option("--as-base", help="ask a chat model in plain text too")] = False,
    published: Annotated[bool, typer.Option("--published", help="the report shows what others published")] = False,
    quiz: Annotated[Path | None, typer.Option(help="directory with dev.jsonl and test.jsonl of questions")] = None,
    problems: Annotated[Path | None, typer.Option(help="directory with dev.jsonl and test.jsonl of problems")] = None,
    tokens: Annotated[Path | None, typer.Option(help="token shards for bits per byte on the held-out split")] = None,
    shots: Annotated[int | None, typer.Option(min=0, help="worked examples before each question")] = None,
    perplexity_by_length: Annotated[
        str | None, typer.Option(metavar="LENGTHS", help="perplexity at these context lengths, e.g. 512,1024,2048")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="text for --perplexity-by-length: .txt or .jsonl")] = None,
    text_tokens: Annotated[int, typer.Option(min=4, help="tokens of the text that are used")] = 32768,
    bf16: Annotated[bool, typer.Option("--bf16", help="weights and arithmetic in bfloat16; default: float32")] = False,
    quantize: Quantize = None,
    offload: Mapped = False,
    gpu_memory_gib: GpuGib = None,
) -> None:
    """Score a model on benchmarks, on a quiz and problems of your own, on held-out text, or by context length."""
    if tasks:
        if quiz or problems or tokens or perplexity_by_length:
            raise typer.BadParameter("--tasks is measured alone: leave out --quiz, --problems, --tokens")
        from inkstone.cli.evaluate_tasks import show_benchmarks
        from inkstone.evaluate.run.benchmarks import wanted_protocols
        from inkstone.model.files.offload import Offload

        written = {"max_new_tokens": max_new_tokens, "samples": samples, "temperature": temperature}
        show_benchmarks(
            model, wanted_protocols(tasks.split(","), shots, **written), data, output, as_base, bf16, adapter,
            quantize, Offload(offload, gpu_memory_gib), judge=judge, names=(model_name, judge_name), limit=limit,
            split=split, published=published, allow_unsandboxed=allow_unsandboxed,
        )  # fmt: skip
        return
    only = {
        "--adapter": adapter, "--judge": judge, "--limit": limit, "--split": split, "--samples": samples,
        "--max-new-tokens": max_new_tokens, "--temperature": temperature, "--as-base": as_base,
        "--published": published, "--allow-unsandboxed": allow_unsandboxed,
    }  # fmt: skip
    for name, given in only.items():
        if given not in (None, "", False):
            raise typer.BadParameter(f"{name} is for benchmarks: give --tasks, or leave it out")
    if perplexity_by_length:
        from inkstone.cli.by_length import show_perplexity_by_length

        if quiz or problems or bf16 or quantize or offload or gpu_memory_gib:
            raise typer.BadParameter("--perplexity-by-length is measured alone, in float32: leave out --quiz, "
                                     "--problems, --bf16, --quantize, --offload and --gpu-memory-gib")  # fmt: skip
        refuse_existing(output)
        show_perplexity_by_length(Path(model), output, perplexity_by_length, text, tokens, text_tokens)
        return
    from inkstone.cli.progress import show_progress
    from inkstone.cli.table import show_table
    from inkstone.errors import InputError
    from inkstone.evaluate import EvaluateSettings, evaluate_directory, score_rows
    from inkstone.storage import atomic_directory

    if not (quiz or problems or tokens):
        raise InputError("nothing to evaluate: give --tasks, --quiz, --problems, --tokens or --perplexity-by-length")
    refuse_existing(output)
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if bf16 else "float32"
    settings = EvaluateSettings(
        shots=5 if shots is None else shots, dtype=dtype, quantize=quantize, offload=offload,
        gpu_memory_gib=gpu_memory_gib,
    )  # fmt: skip
    with show_progress("evaluate") as progress, atomic_directory(output) as draft:
        scores = evaluate_directory(Path(model), draft, settings, quiz, problems, tokens, progress=progress)
    head, *rows = score_rows(scores)
    show_table(head, rows)


@evaluate_app.command("compare")
def evaluate_compare(
    one: Annotated[Path, typer.Argument(metavar="RUN_A", help="the -o of an evaluation", show_default=False)],
    other: Annotated[Path, typer.Argument(metavar="RUN_B", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="also where the protocols differ")] = False,
    judge: Annotated[str, typer.Option(metavar="URL", help="an OpenAI endpoint that reads MT-Bench pairs")] = "",
    judge_name: Annotated[str, typer.Option(help="the model that judges; default: the first it lists")] = "",
    data: Data = Path("data"),
) -> None:
    """Which of two models is better, question by question, and could it be chance?"""
    from inkstone.cli.table import show_table
    from inkstone.evaluate.report.compare import compare

    rows = [
        [row.task, str(row.items), f"{100 * row.a:.2f}", f"{100 * row.b:.2f}", f"{100 * row.difference:+.2f}",
         f"{100 * row.low:+.2f} to {100 * row.high:+.2f}", str(row.only_a), str(row.only_b), f"{row.p:.2g}"]
        for row in compare(one, other, force)
    ]  # fmt: skip
    show_table(["task", "questions", "A", "B", "B - A", "95 %", "only A right", "only B right", "p"], rows)
    if judge:
        from inkstone.cli.evaluate_tasks import show_pairs

        show_pairs(one, other, judge, judge_name, data)


@evaluate_app.command("explain")
def evaluate_explain(
    task: Annotated[str, typer.Argument(metavar="TASK@PROTOCOL", help="e.g. cmmlu@official", show_default=False)],
    data: Data = Path("data"),
    item: Annotated[int, typer.Option(min=0, help="number of the question")] = 0,
) -> None:
    """The exact prompt of one question, with every space and line end visible."""
    from inkstone.evaluate.protocols import find
    from inkstone.evaluate.run.explain import explain

    typer.echo(explain(find(task), data, item))


@evaluate_app.command("leaderboard")
def evaluate_leaderboard(
    folder: Annotated[Path, typer.Argument(help="folder that several runs lie in", show_default=False)],
) -> None:
    """One page over all runs of a folder."""
    from inkstone.evaluate.report.page import write_leaderboard

    typer.echo(write_leaderboard(folder)[-1])


@evaluate_app.command("contamination")
def evaluate_contamination(
    corpus: Annotated[list[Path], typer.Argument(help="files and folders of the training text", show_default=False)],
    tasks: Annotated[str, typer.Option(metavar="TASK,...", help="benchmarks, e.g. cmmlu,gsm8k")],
    data: Data = Path("data"),
    output: Annotated[Path | None, typer.Option("--output", "-o", help="a .jsonl of all that was found")] = None,
    overlap: Annotated[float, typer.Option(min=0.05, max=1, help="share of an item's runs of eight tokens")] = 0.5,
    text_field: Annotated[str, typer.Option(help="the field of a row that holds its text")] = "text",
) -> None:
    """Which items of benchmarks a corpus holds, with the passages."""
    from inkstone.cli.evaluate_tasks import show_contamination

    show_contamination(corpus, tasks.split(","), data, output, overlap, text_field)
