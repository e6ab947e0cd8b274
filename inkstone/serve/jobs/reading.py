"""What a run's own files say while it goes: events as they are written, the last progress, why it ended."""

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

Event = dict[str, Any]
_TAIL = 64 * 1024


def events_since(path: Path, place: int) -> list[tuple[int, Event]]:
    """The complete events of a file from a place in it on, each with the place after it."""
    if not path.is_file():
        return []
    with path.open("rb") as stream:
        place = stream.seek(place if place <= path.stat().st_size else 0)
        lines = [line for line in stream if line.endswith(b"\n")]
    ends = accumulate(map(len, lines), initial=place)
    return [(end, json.loads(line)) for end, line in zip(list(ends)[1:], lines, strict=True)]


def progress_of(path: Path) -> Event:
    """The last progress of a run; nothing where there is none yet."""
    lines = [line for line in tail(path).split("\n")[:-1] if '"kind": "progress"' in line]
    return dict(json.loads(lines[-1])) if lines else {}


def tail(path: Path) -> str:
    """The end of a file, from a whole line on."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _TAIL))
        cut = stream.tell() > 0
        read = stream.read().decode("utf-8", "replace")
    return read.partition("\n")[2] if cut else read


def last_words(log: Path) -> str:
    """Why a process ended, as it said itself."""
    said = [line for line in tail(log).splitlines() if line.strip() and not line.startswith("{")]
    errors = [place for place, line in enumerate(said) if line.startswith("error:")]
    words = "\n".join(said[errors[-1] if errors else -1 :]).removeprefix("error:").strip()
    return words[:4000] or "the process ended without a word: perhaps the system killed it for its memory"
