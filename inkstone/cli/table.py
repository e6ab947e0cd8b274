"""A table on a terminal or in a pipe that loses nothing of what it says.

Rich cuts cells that do not fit ("tok..."), and its 80 columns in a pipe cut files too. Here a pipe gets the full width;
on a terminal the widest column folds between words, and where that is not enough each row is a block of lines.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from inkstone.cli.visible import visible

Cell = str | Text  # a Text has its style; a str is shown as it is, without markup


def show_table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], title: str = "", left: int = 1) -> None:
    """Print on standard output. Columns after the first `left` ones are numbers, set to the right."""
    console = Console(highlight=False, emoji=False, soft_wrap=True)
    cells = [[cell if isinstance(cell, Text) else Text(visible(cell)) for cell in row] for row in [heads, *rows]]
    if title:
        console.print(Text(title, style="italic"))
    measured = [
        [cell.__rich_measure__(console, console.options) for cell in column] for column in zip(*cells, strict=True)
    ]
    widths = [max(cell.maximum for cell in column) for column in measured]
    between = 3 * (len(heads) - 1)
    widest = widths.index(max(widths))
    if console.is_terminal:
        widths[widest] -= max(0, sum(widths) + between - console.width)
        if widths[widest] < max(cell.minimum for cell in measured[widest]):
            _show_blocks(console, cells)
            return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, (head, width) in enumerate(zip(cells[0], widths, strict=True)):
        table.add_column(head, justify="left" if place < left else "right", width=width)
    for row in cells[1:]:
        table.add_row(*row)
    console.width = sum(widths) + between
    console.print(table, soft_wrap=False)


def _show_blocks(console: Console, cells: list[list[Text]]) -> None:
    heads, *rows = cells
    for row in rows:
        for head, cell in zip(heads, row, strict=True):
            if cell:
                console.print(Text.assemble((f"{head}: " if head else "", "bold"), cell))
        console.print()
