"""`inkstone curate`: a recipe's corpus, here or on a cluster, and the verbs around it.

`inkstone curate RECIPE` is short for `inkstone curate run RECIPE`: whatever follows and is no verb is a recipe.
"""

from pathlib import Path
from typing import Annotated

import typer

from inkstone.cli.audit import audit
from inkstone.cli.help import DefaultVerb, Group
from inkstone.cli.options import DryRun, Overrides, RecipePath, refuse_existing

curate_app = typer.Typer(
    cls=DefaultVerb,
    no_args_is_help=True,
    help="Curate raw text (inkstone curate RECIPE), and look at what was removed.",
)


curate_app.command("audit")(audit)


@curate_app.command("run")
def curate_run(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="processes on this machine; default: one per core where it pays")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help='Ray cluster to run on ("local" starts one here); same result')
    ] = None,
) -> None:
    """Run a recipe up to its curated corpus."""
    from inkstone.cli.run import run_recipe
    from inkstone.errors import InputError

    if workers and ray:
        raise InputError("--workers and --ray exclude each other: on a cluster, Ray decides how many tasks run at once")
    where = [f"corpus.workers={workers}"] if workers else [f"corpus.ray={ray}"] if ray else []
    run_recipe(recipe, (overrides or []) + where, dry_run=dry_run, until="corpus")


quality_app = typer.Typer(cls=Group, no_args_is_help=True, help="Train a quality model on good and bad examples.")
curate_app.add_typer(quality_app, name="quality")
Examples = Annotated[list[str], typer.Option(help="files, folders, globs or URLs of text; repeatable")]


@quality_app.command("train")
def quality_train(
    good: Examples,
    bad: Examples,
    output: Annotated[Path, typer.Option("--output", "-o", help="model directory to write")],
    text_field: Annotated[list[str] | None, typer.Option(help="field of a row with its text; default: text")] = None,
    sample_mb: Annotated[float, typer.Option(min=0.01, help="text per side to train on, MB")] = 20.0,
    seed: Annotated[int, typer.Option(min=0, help="of the order of the examples")] = 1,
) -> None:
    """Learn to tell good from bad documents; [corpus.quality] model = "DIR" then scores a corpus with it."""
    from inkstone.corpus.judge.quality import save_quality, train
    from inkstone.corpus.judge.resources import read_examples
    from inkstone.storage import atomic_directory

    refuse_existing(output)
    fields = text_field or ["text"]
    model = train(read_examples(good, fields, sample_mb), read_examples(bad, fields, sample_mb), seed)
    with atomic_directory(output) as draft:
        save_quality(model, draft)
    figures = model.figures
    typer.echo(
        f"{figures['good_documents']} good and {figures['bad_documents']} bad documents; on the "
        f"{figures['heldout_documents']} kept apart: accuracy {figures['accuracy']}, area under the curve "
        f"{figures['area_under_curve']}"
    )
    for row in figures["reliability"]:  # type: ignore[attr-defined]
        typer.echo(f"  said {row['said']:.2f}  true {row['true']:.2f}  ({row['documents']} documents)")
    typer.echo(output)
