"""A benchmark as data: where its files lie, its items, and the protocols that are known for it.

Subjects are a field of the item, never files or classes; every text is a string as the file has it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LETTERS = "ABCDEFG"


@dataclass(frozen=True)
class Item:
    """One question. `texts` are what a protocol's templates name; `gold` are the right choices, none where hidden."""

    id: str
    subject: str
    texts: Mapping[str, str]
    choices: tuple[str, ...] = ()
    gold: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()
    """Reference answers of a question that is answered in words."""
    contexts: tuple[str, ...] = ()
    """Where the beginnings differ and the ending is the same (WinoGrande): one per choice."""
    weight: float = 1.0
    """Points, where questions do not count alike."""


@dataclass(frozen=True)
class Loaded:
    """What is scored, and the worked examples of each subject ("" where they serve all)."""

    items: list[Item]
    examples: Mapping[str, list[Item]] = field(default_factory=dict)

    def examples_of(self, subject: str) -> list[Item]:
        return self.examples.get(subject) or self.examples.get("", [])


@dataclass(frozen=True)
class Benchmark:
    """`read(folder, split)` reads the official layout or our JSON lines; `categories` of a subject, as published."""

    read: Callable[[Path, str], Loaded]
    splits: tuple[str, ...] = ("test",)
    subjects: Mapping[str, tuple[str, list[str]]] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    """Names its folder may have below --data; default: the benchmark's own."""
    made: bool = False
    """It needs no files."""


def option_texts(choices: tuple[str, ...]) -> dict[str, str]:
    """A to G by their letters, and `options`: one lettered line each."""
    lettered = dict(zip(LETTERS, choices, strict=False))
    return lettered | {"options": "\n".join(f"{letter}. {text}" for letter, text in lettered.items())}
