"""The verbs. Each one reads its arguments, calls a room or the pipeline, and shows the result."""

from pathlib import Path
from typing import Annotated

import typer

from inkstone import __version__
from inkstone.cli import generate_command, mixture_commands, model_commands, quantize_commands
from inkstone.cli.curate_commands import curate_app
from inkstone.cli.ending import Ending
from inkstone.cli.evaluate_commands import evaluate_app
from inkstone.cli.merge_commands import merge_app
from inkstone.cli.options import (
    Draft,
    DryRun,
    GpuGib,
    Lookup,
    Mapped,
    Overrides,
    Quantize,
    RecipePath,
    Where,
    refuse_existing,
)
from inkstone.cli.template_commands import template_app
from inkstone.cli.tokenizer_commands import tokenizer_app
from inkstone.cli.tune_commands import tune_app

app = typer.Typer(
    cls=Ending,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Typer's panels cut long option names at 80 columns and swallow words in brackets.
    rich_markup_mode=None,
)
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(curate_app, name="curate")
app.add_typer(mixture_commands.app, name="mixture")
app.command()(model_commands.convert)
app.command()(model_commands.inspect)
app.command()(quantize_commands.quantize)
app.command()(generate_command.generate)
app.add_typer(template_app, name="template")
app.add_typer(tune_app, name="tune")
app.add_typer(merge_app, name="merge")
app.add_typer(evaluate_app, name="evaluate")


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"inkstone {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="say the version")
    ] = False,
) -> None:
    """Inkstone (砚): from raw Chinese and English text to an evaluated chat model."""


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="stop after this stage")] = None,
) -> None:
    """Run a recipe: every stage that is missing or stale, then the result. A killed run continues."""
    from inkstone.cli.run import run_recipe

    run_recipe(recipe, overrides or [], dry_run=dry_run, until=until)


@app.command()
def pretrain(recipe: RecipePath, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Run a recipe up to its pretrained base model."""
    run(recipe, overrides, dry_run, until="pretrain")


@app.command()
def launch(
    recipe: RecipePath,
    nproc: Annotated[int, typer.Option(min=1, help="processes on each host: one per GPU")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="hosts; more than one needs --slurm")] = 1,
    restarts: Annotated[int, typer.Option(min=0, help="times that failed processes are started again")] = 3,
    slurm: Annotated[Path | None, typer.Option(metavar="FILE", help="write a Slurm job script instead")] = None,
    submit: Annotated[bool, typer.Option("--submit", help="with --slurm: hand it to sbatch")] = False,
    overrides: Overrides = None,
) -> None:
    """Run a recipe in several processes (torchrun), or write the Slurm job for many hosts."""
    from inkstone.cli.launch import launch_recipe, write_slurm

    if slurm:
        write_slurm(recipe, overrides or [], nproc, nodes, restarts, slurm, submit)
        return
    if nodes > 1 or submit:
        raise typer.BadParameter("several hosts and --submit go with --slurm FILE")
    launch_recipe(recipe, overrides or [], nproc, restarts)


@app.command()
def plan(
    recipe: RecipePath,
    gpu: Annotated[str, typer.Option(metavar="NAME", help="h100, a800, 4090, ...; cpu is this machine")],
    count: Annotated[int, typer.Option(help="how many of them")] = 1,
    overrides: Overrides = None,
) -> None:
    """What a recipe's training needs on a machine: memory by part, speed, hours, disk; nothing is run."""
    from inkstone.cli.plan import show_plan

    show_plan(recipe, overrides or [], gpu, count)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="e.g. runs/primer")]) -> None:
    """Write a run's report.html again from what its stages left."""
    from inkstone.report import render_report

    typer.echo(render_report(run_dir))


@app.command()
def primer(
    output: Annotated[Path, typer.Option("--output", "-o", help="directory to write")],
    size_mb: Annotated[float, typer.Option(min=0.3, max=20, help="size of the raw corpus in MB")] = 8.0,
    seed: Annotated[int, typer.Option(min=0, help="of every random draw")] = 1,
) -> None:
    """Write the embedded primer: a dirty raw corpus, chats, preference pairs, a quiz and word problems."""
    from inkstone.cli.progress import show_progress
    from inkstone.primer import PrimerSettings, render_primer
    from inkstone.storage import atomic_directory

    refuse_existing(output)
    with show_progress("primer") as progress, atomic_directory(output) as draft:
        render_primer(PrimerSettings(size_mb=size_mb, seed=seed), draft, progress)
    typer.echo(output)


@app.command()
def chat(
    model: Annotated[Path, typer.Argument(help="chat model directory, e.g. runs/primer/sft", show_default=False)],
    adapter: Annotated[Path | None, typer.Option(metavar="DIR", help="PEFT directory with an adapter for it")] = None,
    system: Annotated[str | None, typer.Option(help="system prompt")] = None,
    template: Annotated[
        str | None, typer.Option(metavar="NAME", help="how conversations are written, where the directory does not say")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 is greedy; default: generation_config.json")
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=0.01, max=1)] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="0 keeps all tokens")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(min=0.01, help="1 is none")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="longest reply in tokens")] = None,
    seed: Annotated[int, typer.Option(help="of the draws when temperature is above 0")] = 0,
    show_prompt: Annotated[bool, typer.Option("--show-prompt", help="print what the model is given")] = False,
    dtype: model_commands.Dtype = None,
    device: Where = "cpu",
    quantize: Quantize = None,
    lookup: Lookup = 0,
    draft: Draft = None,
    offload: Mapped = False,
    gpu_memory_gib: GpuGib = None,
) -> None:
    """Talk to a chat model: streaming, multi-turn, Chinese or English."""
    from inkstone.cli.chat import converse
    from inkstone.model.files.offload import Offload

    asked = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "repetition_penalty": repetition_penalty,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    stays = Offload(offload, gpu_memory_gib)
    opened = model_commands.open_to_write(
        model,
        dtype,
        draft,
        device=device,
        template=template,
        chat=True,
        adapter=adapter,
        quantize=quantize,
        offload=stays,
    )
    converse(opened, model, system, asked, show_prompt, lookup)


@app.command()
def serve(
    models: Annotated[list[Path], typer.Argument(help="model directories, .gguf files, or folders such as runs/")],
    host: Annotated[
        str, typer.Option(help="address to listen on; another than this machine's needs a key")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="repeatable; a LoRA adapter of a served model, as a model of this name"),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="INKSTONE_API_KEY", help="repeatable; with any, all routes but /health need one"),
    ] = None,
    key_requests: Annotated[int | None, typer.Option(min=1, help="requests at once for each key")] = None,
    key_rate: Annotated[int | None, typer.Option(min=1, help="requests in a minute for each key")] = None,
    rows: Annotated[int, typer.Option(min=1, help="requests decoded together, by each model")] = 32,
    waiting: Annotated[int, typer.Option(min=0, help="requests that may wait; more get 429")] = 256,
    cache_gib: Annotated[float, typer.Option(min=0.01, help="keys and values of each model")] = 1.0,
    memory_gib: Annotated[
        float | None, typer.Option(min=0.01, help="weights of all open models; idle ones close")
    ] = None,
    drain_s: Annotated[int, typer.Option(min=0, help="on SIGTERM: seconds for requests that run")] = 30,
    database: Annotated[
        str | None,
        typer.Option(envvar="INKSTONE_DATABASE", help="file or DSN of conversations; without it in your home"),
    ] = None,
    console: Annotated[bool, typer.Option("--console/--no-console", help="pages to chat in a browser")] = True,
    tasks: Annotated[Path | None, typer.Option(help="folder of tasks and data; default: beside the database")] = None,
    tasks_at_once: Annotated[int, typer.Option(min=1, help="tasks that train at the same time")] = 1,
    dtype: model_commands.Dtype = None,
    device: Where = "cpu",
    quantize: Quantize = None,
    lookup: Lookup = 0,
    draft: Draft = None,
    offload: Mapped = False,
    gpu_memory_gib: GpuGib = None,
) -> None:
    """Serve models through an OpenAI-compatible API, and pages to chat with them in a browser."""
    from inkstone.cli.serve import serve_models
    from inkstone.model.files.offload import Offload
    from inkstone.serve.models import ServeSettings

    kind = model_commands.DTYPES.get(dtype or "")
    stays = Offload(offload, gpu_memory_gib, cache_gib)
    stays.check()
    settings = ServeSettings(rows, waiting, cache_gib, memory_gib, kind, device, quantize, lookup, draft, stays)
    limits, work = (key_requests, key_rate), (tasks, tasks_at_once)
    serve_models(models, settings, host, port, api_key or [], limits, drain_s, database, console, work, adapter or [])
