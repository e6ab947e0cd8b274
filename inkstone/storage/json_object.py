"""Read a file that holds one JSON object; whatever is wrong with it is one sentence."""

import json
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
