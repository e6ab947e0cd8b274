"""Read conversations and preference pairs from files in the usual formats, or say everything that is wrong with them.

    dataset = read_chats([Path("chats.jsonl"), Path("alpaca.json.gz")])  # refuses when any row is malformed
    dataset = read_chats(paths, on_problem="skip")                       # leaves such rows out, and lists them

The format is detected per file. No row disappears silently: it is in the result, in `skipped`, or in the error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from inkstone.chat.formats import (
    EXPECTED_CHAT,
    EXPECTED_PREFERENCE,
    EXPECTED_VERDICT,
    Fault,
    Layout,
    detect_chat,
    detect_preference,
    detect_verdict,
    read_chat,
    read_preference,
    read_verdict,
)
from inkstone.chat.messages import Message, Preference, Verdict
from inkstone.chat.rows import Row, UnreadableFile, read_rows
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


def read_chats(paths: Sequence[Path], on_problem: OnProblem = "refuse") -> ChatDataset:
    """Conversations that end with an assistant turn, from Alpaca, ShareGPT or OpenAI rows.

    Raises InputError for unreadable files, and for malformed rows unless `on_problem` is "skip".
    """
    return ChatDataset(*_read(paths, on_problem, detect_chat, read_chat, EXPECTED_CHAT))


def read_preferences(paths: Sequence[Path], on_problem: OnProblem = "refuse") -> PreferenceDataset:
    """Prompts with a chosen and a rejected answer. Raises InputError like `read_chats`."""
    return PreferenceDataset(*_read(paths, on_problem, detect_preference, read_preference, EXPECTED_PREFERENCE))


def read_verdicts(paths: Sequence[Path], on_problem: OnProblem = "refuse") -> VerdictDataset:
    """Conversations whose last answer is said to be good or bad. Raises InputError like `read_chats`."""
    return VerdictDataset(*_read(paths, on_problem, detect_verdict, read_verdict, EXPECTED_VERDICT))


def _read(
    paths: Sequence[Path],
    on_problem: OnProblem,
    detect: Callable[[Row], Layout | None],
    convert: Callable[[Row, Layout], tuple[Item, list[Fault]]],
    expected: str,
) -> tuple[list[Item], list[Problem]]:
    items: list[Item] = []
    problems: list[Problem] = []
    unreadable: list[str] = []
    for path in paths:
        try:
            rows = list(read_rows(path))
            layout = _layout(rows, detect, expected)
        except UnreadableFile as error:
            unreadable.append(f"{path} {error}")
            continue
        for number, row in rows:
            if isinstance(row, str):
                problems.append(Problem(path, number, (f"row: {row}",)))
                continue
            item, faults = convert(row, layout)
            if faults:
                problems.append(Problem(path, number, tuple(f"{field}: {what}" for field, what in faults)))
            else:
                items.append(item)
    if unreadable:
        raise InputError(unreadable + _listing(problems if on_problem == "refuse" else []))
    if problems and on_problem == "refuse":
        raise MalformedRows(_listing(problems))
    if not items:
        raise InputError(["no usable row in " + (", ".join(map(str, paths)) or "no files"), *_listing(problems)])
    return items, problems


def _layout(rows: list[tuple[int, Row | str]], detect: Callable[[Row], Layout | None], expected: str) -> Layout:
    """The layout of the first row that has one."""
    for _, row in rows:
        layout = detect(row) if isinstance(row, dict) else None
        if layout:
            return layout
    if not rows:
        raise UnreadableFile("has no rows")
    fields = sorted({field for _, row in rows if isinstance(row, dict) for field in row})
    raise UnreadableFile(
        f"is in no known format: its rows have the fields {', '.join(fields)}; expected {expected}"
        if fields
        else f"has no row that is a JSON object (row {rows[0][0]} {rows[0][1]})"
    )


def _listing(problems: list[Problem]) -> list[str]:
    lines = [str(problem) for problem in problems[:_LISTED]]
    more = f"and {len(problems) - _LISTED} more: " if len(problems) > _LISTED else ""
    count = f"{len(problems)} malformed rows in all"
    return [*lines, more + count] if len(problems) > 1 else lines
