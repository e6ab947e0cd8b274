"""Answers that survive a kill: each is appended to a file as it comes, and only the missing ones are asked again.

kept = Kept(scratch / "answers.jsonl", "sft")
values, seconds = kept.ask("problems", ids, lambda missing: ((index, answer(index)) for index in missing))
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from inkstone.chat import Message
from inkstone.storage import fingerprint

Value = TypeVar("Value")


def worded(name: str, talk: Sequence[Message]) -> str:
    """A question's name with a mark of its words: once they are edited, it is another question."""
    return f"{name}/{fingerprint([[one.role, one.content] for one in talk])[:12]}"


class Kept:
    """The answers of one model, as JSON; without a path nothing is kept."""

    def __init__(self, path: Path | None, model: str) -> None:
        self.path, self.model = path, model
        self.rows: dict[tuple[str, str, str], tuple[object, float]] = {}
        if path and path.is_file():
            whole = path.read_bytes().rpartition(b"\n")[0]
            path.write_bytes(whole + b"\n" if whole else b"")  # a kill may have cut the last line
            for line in whole.splitlines():
                owner, part, name, value, seconds = json.loads(line)
                self.rows[owner, part, name] = value, seconds

    def ask(
        self, part: str, names: Sequence[str], answer: Callable[[list[int]], Iterable[tuple[int, Value]]]
    ) -> tuple[list[Value], float]:
        """A value for each name, and the seconds it took them. `answer` yields (index, value) of the missing ones."""
        keys = [(self.model, part, name) for name in names]
        before = time.perf_counter()
        for index, value in answer([index for index, key in enumerate(keys) if key not in self.rows]):
            now = time.perf_counter()
            self.rows[keys[index]] = value, now - before
            if self.path:
                with self.path.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps([*keys[index], value, now - before], ensure_ascii=False) + "\n")
            before = now
        found = [self.rows[key] for key in keys]
        return [value for value, _ in found], sum(seconds for _, seconds in found)  # type: ignore[misc]
