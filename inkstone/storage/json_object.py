"""Read a file that holds one JSON object; whatever is wrong with it is one sentence."""

import json
from pathlib import Path
from typing import Any

from inkstone.errors import InputError


def read_json_object(path: Path) -> dict[str, Any]:
    """Its contents; a byte order mark is accepted. Raises InputError for damage and OSError where it cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): repair or replace it") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is not a JSON object of settings: repair or replace it")
    return values
