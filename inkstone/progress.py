"""How rooms tell the outside world what they are doing, without knowing whether anybody watches.

A room receives a `Progress` and calls `advance` (numbers that move), `note` (a sentence worth keeping) and `metrics` (a
row of figures); a long one asks `should_stop` now and then. The pipeline passes one that keeps events, the command line
one that draws bars or prints JSON lines; tests and library calls pass `Silent()`.
"""

from collections.abc import Mapping
from typing import Protocol

Field = str | int | float | bool | None


class Progress(Protocol):
    """What a room may say, and ask, while it works."""

    def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
        """`done` of `total` (None when unknown) `unit`s are finished; `fields` are figures to show beside the bar."""

    def note(self, message: str, **fields: Field) -> None:
        """A sentence for people; `fields` carry the same facts for programs."""

    def metrics(self, row: Mapping[str, Field]) -> None:
        """Figures of one step, as metrics.jsonl has them."""

    def should_stop(self) -> bool:
        """Whether somebody wants the work to stop at the next moment from which it can continue."""


class Silent:
    """Progress that nobody watches."""

    def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
        pass

    def note(self, message: str, **fields: Field) -> None:
        pass

    def metrics(self, row: Mapping[str, Field]) -> None:
        pass

    def should_stop(self) -> bool:
        return False
