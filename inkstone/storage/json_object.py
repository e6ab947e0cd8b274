"""JSON files: an object read, where whatever is wrong with it is one sentence, and values and rows written."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from inkstone.errors import InkstoneError, InputError


def read_json_object(
    path: Path, remedy: str = "repair or replace it", error: type[InkstoneError] = InputError
) -> dict[str, Any]:
    """Its contents; a byte order mark is accepted. Raises `error` for damage and OSError where it cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as cause:
        why = "nested too deeply" if isinstance(cause, RecursionError) else str(cause)
        raise error(f"{path} is not valid JSON ({why}): {remedy}") from cause
    if not isinstance(values, dict):
        raise error(f"{path} is not a JSON object of settings: {remedy}")
    return values


def write_json(path: Path, value: object, indent: int | None = 1) -> None:
    """Letters of every script stand for themselves."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")


def write_json_lines(path: Path, rows: Iterable[object]) -> None:
    """A row a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
