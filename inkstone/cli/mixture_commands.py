"""`inkstone mixture fit`: run a recipe up to its mixture, then print the weights and the evidence for them."""

import json
from typing import Any

import typer

from inkstone.cli.help import Group
from inkstone.cli.options import DryRun, Overrides, RecipePath

app = typer.Typer(cls=Group, no_args_is_help=True, help="Choose what share of the training tokens each domain gives.")


@app.callback()
def _group() -> None:
    """A group of one verb: without this Typer would drop the verb's name."""


@app.command()
def fit(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Fit the mixture's weights: proxy runs, the law, the optimum. A killed fit continues with the next proxy."""
    from inkstone.cli.run import run_recipe
    from inkstone.recipe import read_recipe

    run_recipe(recipe, overrides or [], dry_run=dry_run, until="mixture")
    if not dry_run:
        folder = read_recipe(recipe, overrides or []).run_dir / "mixture"
        show(json.loads((folder / "mixture.json").read_text(encoding="utf-8")))
        typer.echo(f"weights: {folder / 'mixture.json'}")


def show(facts: dict[str, Any]) -> None:
    """The weights of every mix, the comparison, the check of the law and the transfer table."""
    from inkstone.cli.table import show_table
    from inkstone.mixture import comparison

    mixes, domains = facts["mixes"], facts["domains"]
    compared = facts.get("compared", {})
    rows = []
    for name, domain in domains.items():
        cells = [_cell(mix[name], compared.get(kind, {}).get("losses", {}).get(name)) for kind, mix in mixes.items()]
        rows.append([name, f"{domain['tokens']:,}", *cells, f"{domain['cap']:.3f}"])
    show_table(["domain", "tokens", *mixes, "cap"], rows, "weights (held-out loss, nats per token)")
    for line in comparison(facts):
        typer.echo(line)
    if "law" not in facts:
        return
    names = list(domains)
    title = "transfer: what a token of the column's domain is worth for the row's domain"
    worth = {name: facts["law"][name]["transfer"] for name in names}
    rows = [
        [f"{place} {name}", *(f"{worth[name][other]:.2f}" for other in names)]
        for place, name in enumerate(names, start=1)
    ]
    show_table(["", *(str(place) for place in range(1, len(names) + 1))], rows, title)


def _cell(weight: float, loss: float | None) -> str:
    return f"{weight:.3f}" if loss is None else f"{weight:.3f} ({loss:.3f})"
