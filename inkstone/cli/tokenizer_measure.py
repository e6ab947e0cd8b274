"""inkstone tokenizer measure: one table per text, a chart of tokens per character, or JSON for programs."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from inkstone.cli.table import show_table
from inkstone.errors import InputError
from inkstone.storage import atomic_file
from inkstone.tokenizer.study.compare import Measured, Text, compare, read_text

_COLUMNS: tuple[tuple[str, Callable[[dict[str, float]], str]], ...] = (
    ("tokens/char", lambda figures: f"{figures['tokens_per_character']:.3f}"),
    ("chars/token", lambda figures: f"{figures['characters_per_token']:.2f}"),
    ("bytes/token", lambda figures: f"{figures['bytes_per_token']:.2f}"),
    ("tokens/word", lambda figures: f"{figures['fertility']:.2f}"),
    ("coverage", lambda figures: f"{figures['coverage']:.2%}"),
    ("in bytes", lambda figures: f"{figures['byte_fallback_share']:.2%}"),
    ("not exact", lambda figures: f"{figures['round_trip_failures']:.0f}"),
    ("ALP", lambda figures: f"{figures['alp']:.1f}"),
    ("MB/s", lambda figures: f"{figures['mb_per_second']:.1f}"),
)


def measure_tokenizers(
    tokenizers: Sequence[Path], texts: Sequence[Path], characters: int | None, chart: Path | None, as_json: bool
) -> None:
    """Measure every tokenizer on every text and show the result."""
    if chart is not None and chart.suffix != ".svg":
        raise InputError(f"{chart} is no .svg file: charts are drawn as SVG")
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    read = [text for path in texts for text in read_text(path, characters)]
    for text in read:
        if text.broken:
            console.print(f"{text.label}: {text.broken} records could not be read and are left out", style="yellow")
    with console.status("") as status:
        rows = compare(tokenizers, read, status.update)
    if as_json:
        print(json.dumps([vars(row) for row in rows], ensure_ascii=False, indent=1))
    else:
        for text in read:
            _show(text, [row for row in rows if (row.text, row.lang) == (text.name, text.lang)])
    if chart is not None:
        with atomic_file(chart) as draft:
            draft.write_text(draw(read, rows), encoding="utf-8")
        console.print(f"chart: {chart}")


def draw(texts: Sequence[Text], rows: Sequence[Measured]) -> str:
    """Tokens per character as bars, an SVG document that opens by itself."""
    from inkstone.report.charts import Bars, bar_chart

    names = list(dict.fromkeys(row.tokenizer for row in rows))
    groups = [
        Bars(name, [row.figures["tokens_per_character"] for row in rows if row.tokenizer == name]) for name in names
    ]
    labels = [text.label for text in texts]
    svg = bar_chart("measure", "Tokens per character (fewer is better)", labels, groups, digits=3)
    return svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" style="background: white"', 1) + "\n"


def _show(text: Text, rows: Sequence[Measured]) -> None:
    size = rows[0].figures
    title = f"{text.label}: {size['documents']:,.0f} documents, {size['characters']:,.0f} characters"
    cells = [[row.tokenizer, f"{row.vocab_size:,}", *(shown(row.figures) for _, shown in _COLUMNS)] for row in rows]
    show_table(["tokenizer", "vocabulary", *(name for name, _ in _COLUMNS)], cells, title)
