"""What a person or a program sees while a stage works: a live bar on a terminal, JSON lines anywhere else."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from inkstone.cli.visible import visible
from inkstone.pipeline.events import Event
from inkstone.progress import Field, Progress, Silent

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def show_progress(title: str) -> Iterator[Progress]:
    """Progress of one stage: `with show_progress("corpus") as progress: ...`."""
    if not sys.stderr.isatty():
        yield _Lines(title)
        return
    bars = Bars(
        TextColumn("[bold]{task.description:<10}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=Console(stderr=True, emoji=False),
    )
    with bars:
        yield _Live(bars, title)


@contextmanager
def terminal(console: Console) -> Iterator[Callable[[Event], None]]:
    """An observer of a run's events that draws each stage's bar and says what is done."""
    with ExitStack() as open_stage:
        shown: list[Progress] = []

        def observe(event: Event) -> None:
            kind = event["kind"]
            if kind == "start":
                shown[:] = [open_stage.enter_context(show_progress(event["stage"]))]
                shown[0].note(f"{event['stage']}: {event['reason']}")
            elif kind == "progress":
                shown[0].advance(event["done"], event["total"], event["unit"], **event["fields"])
            elif kind == "note":
                shown[0].note(event["note"], **event["fields"])
            elif kind in ("done", "failed"):
                open_stage.close()
            if kind == "done":
                number, of = event["number"], event["of"]
                console.print(f"[green]done[/] {escape(event['directory'])} ({number} of {of})")

        yield observe


class _Live(Silent):
    """A rich bar; notes scroll above it."""

    def __init__(self, bars: Bars, title: str) -> None:
        self.bars, self.task = bars, bars.add_task(title, total=None, unit="", figures="")

    def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
        figures = "  ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in fields.items())
        whole = [round(value) if value is not None and value > 100 else value for value in (done, total)]
        completed, end = (None if value is None else round(value, 1) for value in whole)
        self.bars.update(self.task, completed=completed, total=end, unit=unit, figures=escape(figures))

    def note(self, message: str, **fields: Field) -> None:
        self.bars.console.print(f"[dim]{escape(visible(message))}[/]", highlight=False)


class _Lines(Silent):
    """One JSON object per line on standard error, numbers at most every few seconds."""

    def __init__(self, title: str) -> None:
        self.title, self.last = title, 0.0

    def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
        if done == total or time.monotonic() - self.last > _SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            self._print({"stage": self.title, "done": done, "total": total, "unit": unit, **fields})

    def note(self, message: str, **fields: Field) -> None:
        self._print({"stage": self.title, "note": message, **fields})

    def _print(self, event: dict[str, Field]) -> None:
        print(json.dumps(event, ensure_ascii=False), file=sys.stderr, flush=True)


def _short(value: Field) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
