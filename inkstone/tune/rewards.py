"""What an answer is worth, by rule: the right number, an end of its own, or a function of yours.

    rewards = ["last_number", "ends", "my_rewards.py:polite"]      # polite(question, answer, row) -> float

Rewards are added up. One that raises or is no finite number ends the run with the row that it failed on.
"""

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inkstone.chat.numbers import last_number, same_number
from inkstone.chat.rows import UnreadableFile, read_rows
from inkstone.errors import InputError

Row = Mapping[str, object]
Reward = Callable[[str, str, Row], float]


@dataclass(frozen=True)
class Task:
    """A question, and the row it stands in, with what its reward needs."""

    question: str
    row: Row
    place: str


def right_number(question: str, answer: str, row: Row) -> float:
    """1 where the last number of the answer is that of the row's `answer`."""
    return float(same_number(last_number(answer), last_number(str(row.get("answer", "")))))


KNOWN: dict[str, Reward] = {"last_number": right_number}
ENDS = "ends"
"""1 where the answer ended by itself: known only to who generated it."""


def find_rewards(names: Sequence[str]) -> dict[str, Reward]:
    """The functions by name. Raises InputError naming every one that is not there."""
    problems: list[str] = []
    found: dict[str, Reward] = {}
    for name in names:
        path, colon, function = name.rpartition(":")
        if name in KNOWN:
            found[name] = KNOWN[name]
        elif name == ENDS:
            continue
        elif not colon:
            problems.append(f'there is no reward "{name}": known are {", ".join([*KNOWN, ENDS])}, or FILE.py:FUNCTION')
        elif not Path(path).is_file():
            problems.append(f'reward "{name}": {path} does not exist')
        else:
            loaded = _function(Path(path), function)
            if loaded is None:
                problems.append(f'reward "{name}": {path} has no function {function}')
            else:
                found[name] = loaded
    if problems:
        raise InputError(problems)
    return found


def _function(path: Path, name: str) -> Reward | None:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    return found if callable(found) else None


def reward_of(rewards: Mapping[str, Reward], task: Task, answer: str) -> float:
    """The sum. Raises InputError where a function fails or gives no finite number."""
    total = 0.0
    for name, reward in rewards.items():
        try:
            value = float(reward(task.question, answer, task.row))
        except Exception as error:  # a user's function may raise anything
            raise InputError(
                f'reward "{name}" failed on {task.place} ({type(error).__name__}: {error}): mend the function'
            ) from error
        if not math.isfinite(value):
            raise InputError(f'reward "{name}" is {value} on {task.place}: it must be a finite number')
        total += value
    return total


def _question(row: Row) -> object:
    """A text; of a prompt in OpenAI's form the one message that it has."""
    found = row.get("question", row.get("prompt"))
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], dict) and found[0].get("role") == "user":
        return found[0].get("content")
    return found


def read_tasks(paths: Sequence[Path]) -> list[Task]:
    """Rows with a `question` (or a `prompt` of one turn), with what rewards need. Raises InputError with bad rows."""
    tasks: list[Task] = []
    problems: list[str] = []
    for path in paths:
        try:
            for number, row in read_rows(path):
                place = f"{path}:{number}"
                question = _question(row) if isinstance(row, dict) else None
                if isinstance(row, str) or not isinstance(question, str) or not question.strip():
                    problems.append(f"{place} {row if isinstance(row, str) else 'has no question'}")
                else:
                    tasks.append(Task(question.strip(), row, place))
        except UnreadableFile as error:
            problems.append(f"{path} {error}")
    if problems:
        raise InputError(problems[:20])
    if not tasks:
        raise InputError("no question is left to train on: give inputs with rows that have a question")
    return tasks
