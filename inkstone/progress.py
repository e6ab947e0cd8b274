"""How rooms tell the outside world what they are doing, without knowing whether anybody watches.

A room receives a `Progress` and calls `advance` (numbers that move) and `note` (a sentence worth keeping). The command
line passes one that draws bars or prints JSON lines; tests and library calls pass `Silent()`.
"""

from typing import Protocol

Field = str | int | float | bool | None


class Progress(Protocol):
    """What a room may say while it works."""

    def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
        """`done` of `total` (None when unknown) `unit`s are finished; `fields` are figures to show beside the bar."""

    def note(self, message: str, **fields: Field) -> None:
        """A sentence for people; `fields` carry the same facts for programs."""


class Silent:
    """Progress that nobody watches."""

    def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
        pass

    def note(self, message: str, **fields: Field) -> None:
        pass
