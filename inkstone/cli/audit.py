"""`inkstone curate audit`: read what curation removed and why."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from inkstone.cli.visible import visible

_SHOWN_CHARACTERS = 600


def audit(
    directory: Annotated[Path, typer.Argument(help="run or corpus directory, e.g. runs/own-text", show_default=False)],
    reason: Annotated[
        str | None, typer.Option(help="rule that removed, e.g. near_duplicate; without it: counts per rule")
    ] = None,
    source: Annotated[str | None, typer.Option(help="only from this source")] = None,
    lang: Annotated[str | None, typer.Option(help="only in this language: zh, en, mixed or other")] = None,
    limit: Annotated[int, typer.Option(min=1, help="examples to show")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines with whole texts instead")] = False,
) -> None:
    """Read what was removed and why: counts per rule, or with --reason the texts themselves."""
    from inkstone.corpus.run.review import read_removals, tally

    if reason is None:
        rows = [row for row in tally(directory) if source in (None, row.source) and lang in (None, row.lang)]
        if as_json:
            for row in rows:
                typer.echo(json.dumps(asdict(row), ensure_ascii=False))
        else:
            _show_counts([(row.rule, row.level, row.count, row.characters) for row in rows])
        return
    for number, removal in enumerate(read_removals(directory, reason, source, lang, limit), start=1):
        if as_json:
            typer.echo(json.dumps(asdict(removal), ensure_ascii=False))
            continue
        limits = "" if removal.threshold is None else f" (limit {removal.threshold:.4g})"
        measured = "" if removal.value is None else f" · measured {removal.value:.4g}{limits}"
        lang = removal.lang or "language unknown"
        typer.echo(visible(f"{number}. {removal.id} · {lang} · {removal.level}{measured}"))
        if removal.detail:
            typer.echo(visible(f"   {removal.detail}"))
        text = removal.text
        more = f" … ({len(text):,} characters)" if len(text) > _SHOWN_CHARACTERS else ""
        typer.echo("".join(f"   | {visible(line)}\n" for line in (text[:_SHOWN_CHARACTERS] + more).splitlines()))


def _show_counts(rows: list[tuple[str, str, int, int]]) -> None:
    from inkstone.cli.table import show_table

    sums: dict[tuple[str, str], list[int]] = {}
    for rule, level, count, characters in rows:
        entry = sums.setdefault((rule, level), [0, 0])
        entry[0] += count
        entry[1] += characters
    cells = [[*names, *(f"{number:,}" for number in entry)] for names, entry in sums.items()]
    show_table(["reason", "level", "removed", "characters"], cells, left=2)
