"""Questions as data: one four-choice quiz item or one word problem per JSON line.

`read_quiz(directory)` and `read_problems(directory)` read dev.jsonl (worked examples) and test.jsonl (what is scored).
Fields are typed strictly, so a number where a text belongs is refused rather than turned into one; every problem of
every file is reported in one error.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from inkstone.errors import InputError

LETTERS = "ABCD"
Text = Annotated[str, Field(pattern=r"\S")]  # something other than white space


class Item(BaseModel, frozen=True, strict=True):
    """A four-choice question; `phrasing` says whether its wording occurs in the training text."""

    id: str
    subject: str
    lang: Literal["zh", "en"]
    question: Text
    choices: tuple[Text, Text, Text, Text]
    answer: int = Field(ge=0, le=3)
    phrasing: str = ""


class Problem(BaseModel, frozen=True, strict=True):
    """A word problem whose answer is a number; `solution` is a worked answer that ends with that number."""

    id: str
    lang: Literal["zh", "en"]
    question: Text
    solution: Text
    answer: Text


Row = TypeVar("Row", Item, Problem)


@dataclass(frozen=True)
class Questions(Generic[Row]):
    """Worked examples and the questions that are scored."""

    dev: list[Row]
    test: list[Row]


def read_quiz(directory: Path) -> Questions[Item]:
    return _read(directory, Item)


def read_problems(directory: Path) -> Questions[Problem]:
    return _read(directory, Problem)


def _read(directory: Path, kind: type[Row]) -> Questions[Row]:
    problems: list[str] = []
    seen: dict[str, str] = {}
    dev = _read_file(directory / "dev.jsonl", kind, problems, seen)
    test = _read_file(directory / "test.jsonl", kind, problems, seen)
    if not test and not problems:
        problems.append(f"{directory / 'test.jsonl'} holds no questions: give it one JSON object per line.")
    if problems:
        raise InputError(problems)
    return Questions(dev, test)


def _read_file(path: Path, kind: type[Row], problems: list[str], seen: dict[str, str]) -> list[Row]:
    """Rows of one file; what is wrong goes to `problems`, and `seen` maps each id to the place that used it."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path} cannot be read ({error}): a question directory holds dev.jsonl and test.jsonl.")
        return []
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = kind.model_validate_json(line)
        except ValidationError as error:
            for detail in error.errors():
                field = ".".join(map(str, detail["loc"])) or "line"
                problems.append(f"{place}: {field}: {detail['msg']}.")
            continue
        if row.id in seen:
            problems.append(f"{place}: id: {row.id!r} was already used at {seen[row.id]}; ids must be unique.")
        seen.setdefault(row.id, place)
        rows.append(row)
    return rows
