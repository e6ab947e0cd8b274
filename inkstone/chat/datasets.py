"""Read conversations and preference pairs from files in the usual formats, or say everything that is wrong with them.

    dataset = read_chats([Path("chats.jsonl"), Path("alpaca.json.gz")])  # refuses when any row is malformed
    dataset = read_chats(paths, on_problem="skip")                       # leaves such rows out, and lists them

The format is detected per file. No row disappears silently: it is in the result, in `skipped`, or in the error. Sets
that are too large for memory are read row by row (`stream`), and checked so (`check_rows`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

from inkstone.chat.dataset_info import Input, open_input
from inkstone.chat.formats import (
    EXPECTED_CHAT,
    EXPECTED_PREFERENCE,
    EXPECTED_TEXT,
    EXPECTED_VERDICT,
    Fault,
    Layout,
    detect_chat,
    detect_preference,
    detect_text,
    detect_verdict,
    read_chat,
    read_preference,
    read_text,
    read_verdict,
)
from inkstone.chat.messages import Message, Preference, Verdict
from inkstone.chat.rows import Row, UnreadableFile
from inkstone.errors import InputError


class MalformedRows(InputError):
    """Rows that cannot be used, and nothing else: reading with "skip" leaves them out."""


OnProblem = Literal["refuse", "skip"]
_LISTED = 20
Item = TypeVar("Item")


@dataclass(frozen=True)
class Problem:
    """A row that cannot be used: where it is, and every fault it has as "field: what"."""

    file: Path
    row: int
    faults: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}:{self.row} {'; '.join(self.faults)}"


@dataclass(frozen=True)
class ChatDataset:
    """The conversations of all files, in order, and the rows that were left out."""

    chats: list[list[Message]]
    skipped: list[Problem]


@dataclass(frozen=True)
class PreferenceDataset:
    """The preference pairs of all files, in order, and the rows that were left out."""

    preferences: list[Preference]
    skipped: list[Problem]


@dataclass(frozen=True)
class VerdictDataset:
    """The conversations of all files with a verdict on their last answer, in order, and the rows left out."""

    verdicts: list[Verdict]
    skipped: list[Problem]


@dataclass(frozen=True)
class Kind(Generic[Item]):
    """What rows are read as: how their layout is told, how one is converted, and what would have been right."""

    detect: Callable[[Row], Layout | None]
    convert: Callable[[Row, Layout], tuple[Item, list[Fault]]]
    expected: str


CHATS = Kind(detect_chat, read_chat, EXPECTED_CHAT)
PREFERENCES = Kind(detect_preference, read_preference, EXPECTED_PREFERENCE)
VERDICTS = Kind(detect_verdict, read_verdict, EXPECTED_VERDICT)
TEXTS = Kind(detect_text, read_text, EXPECTED_TEXT)


@dataclass
class Faults:
    """What is wrong with files, in a few lines however much it is, and how many rows are usable."""

    unreadable: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    malformed: int = 0
    usable: int = 0

    def add(self, problem: Problem) -> None:
        self.malformed += 1
        self.lines += [str(problem)] if self.malformed <= _LISTED else []

    def merge(self, other: "Faults") -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def refuse(self, paths: Sequence[Path], on_problem: OnProblem) -> None:
        """Raises InputError for unreadable files, for malformed rows unless they are skipped, and for no rows."""
        listing = self.lines[:_LISTED]
        if self.malformed > 1:
            more = f"and {self.malformed - _LISTED} more: " if self.malformed > _LISTED else ""
            listing.append(f"{more}{self.malformed} malformed rows in all")
        if self.unreadable:
            raise InputError(self.unreadable + (listing if on_problem == "refuse" else []))
        if self.malformed and on_problem == "refuse":
            raise MalformedRows(listing)
        if not self.usable:
            raise InputError(["no usable row in " + (", ".join(map(str, paths)) or "no files"), *listing])


def read_chats(paths: Sequence[Path], on_problem: OnProblem = "refuse") -> ChatDataset:
    """Conversations that end with an assistant turn, from Alpaca, ShareGPT or OpenAI rows.

    Raises InputError for unreadable files, and for malformed rows unless `on_problem` is "skip".
    """
    return ChatDataset(*_read(CHATS, paths, on_problem))


def read_preferences(paths: Sequence[Path], on_problem: OnProblem = "refuse") -> PreferenceDataset:
    """Prompts with a chosen and a rejected answer. Raises InputError like `read_chats`."""
    return PreferenceDataset(*_read(PREFERENCES, paths, on_problem))


def read_verdicts(paths: Sequence[Path], on_problem: OnProblem = "refuse") -> VerdictDataset:
    """Conversations whose last answer is said to be good or bad. Raises InputError like `read_chats`."""
    return VerdictDataset(*_read(VERDICTS, paths, on_problem))


def check_rows(kind: Kind[Item], paths: Sequence[Path], on_problem: OnProblem = "refuse") -> None:
    """Read and keep nothing. Raises InputError like `read_chats`."""
    faults = Faults()
    for _ in stream(kind, paths, faults):
        pass
    faults.refuse(paths, on_problem)


def stream(kind: Kind[Item], paths: Sequence[Path], faults: Faults) -> Iterator[Item | Problem]:
    """What every row of the files is, in order; what is wrong is also told to `faults`."""
    for path in paths:
        try:
            opened = open_input(path)
            layout = _layout(opened, kind)
            for file, number, row in opened.rows():
                read = None if isinstance(row, str) else kind.convert(row, layout)
                if read and not read[1]:
                    faults.usable += 1
                    yield read[0]
                    continue
                wrong = read[1] if read else [("row", str(row))]
                problem = Problem(file, number, tuple(f"{opened.named(name)}: {what}" for name, what in wrong))
                faults.add(problem)
                yield problem
        except UnreadableFile as error:
            faults.unreadable.append(f"{path} {error}")


def _read(kind: Kind[Item], paths: Sequence[Path], on_problem: OnProblem) -> tuple[list[Item], list[Problem]]:
    items: list[Item] = []
    problems: list[Problem] = []
    faults = Faults()
    for one in stream(kind, paths, faults):
        if isinstance(one, Problem):
            problems.append(one)
        else:
            items.append(one)
    faults.refuse(paths, on_problem)
    return items, problems


def _layout(opened: Input, kind: Kind[Item]) -> Layout:
    """The layout of the first row that has one."""
    fields: set[str] = set()
    first = ""
    for _, number, row in opened.rows():
        layout = kind.detect(row) if isinstance(row, dict) else None
        if layout:
            return layout
        fields |= set(row) if isinstance(row, dict) else set()
        first = first or f"row {number} {row}"
    if not first:
        raise UnreadableFile("has no rows")
    raise UnreadableFile(
        f"is in no known format: its rows have the fields {', '.join(sorted(fields))}; expected {kind.expected}"
        if fields
        else f"has no row that is a JSON object ({first})"
    )
