"""`events.jsonl` of a run: everything that happens, in order, written as it happens and readable while it does.

    {"sequence": 17, "time": "...", "stage": "pretrain", "kind": "metrics", "row": {...}}

Kinds: plan (the stages, and those that wait), start, progress (about once a second), note, metrics, done, failed. The
file only grows; a second call of the run goes on counting. The terminal, the report and trackers are readers of it.
"""

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inkstone.progress import Field
from inkstone.storage import append_line, reading

Event = dict[str, Any]
Observer = Callable[[Event], None]


class EventLog:
    """Appends events to a file and passes them on to an observer."""

    def __init__(self, path: Path, observer: Observer | None = None) -> None:
        self.path, self.observer = path, observer
        self.sequence = _mend(path)

    def write(self, stage: str, kind: str, keep: bool = True, **facts: Any) -> None:
        """One event; with `keep` false only the observer hears of it."""
        event = {"sequence": self.sequence + 1, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        event |= {"stage": stage, "kind": kind, **facts}
        if keep:
            self.sequence += 1
            append_line(self.path, json.dumps(event, ensure_ascii=False))
        if self.observer:
            self.observer(event)

    def note(self, message: str) -> None:
        """A sentence that is no stage's own."""
        self.write("", "note", note=message, fields={})


class StageEvents:
    """The progress of one stage, as events; `watch` hears of its steps and of the fields of its notes."""

    def __init__(self, log: EventLog, stage: str, should_stop: Callable[[], bool] | None) -> None:
        self.log, self.stage, self.asked, self.last = log, stage, should_stop, 0.0
        self.watch: Callable[[float | None, str, Mapping[str, Field]], None] = lambda done, unit, fields: None

    def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
        keep = time.monotonic() - self.last >= 1 or done == total
        self.last = time.monotonic() if keep else self.last
        self.log.write(self.stage, "progress", keep, done=done, total=total, unit=unit, fields=fields)
        self.watch(done, unit, fields)

    def note(self, message: str, **fields: Field) -> None:
        self.log.write(self.stage, "note", note=message, fields=fields)
        self.watch(None, "", fields)

    def metrics(self, row: Mapping[str, Field]) -> None:
        self.log.write(self.stage, "metrics", row=dict(row))

    def should_stop(self) -> bool:
        return self.asked is not None and self.asked()


def read_events(path: Path) -> list[Event]:
    """The events so far; a last line that is being written, or was cut off by a kill, is left out."""
    if not path.is_file():
        return []
    with reading(path, "events", "remove it: it is only the run's log"):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1] if line]


def _mend(path: Path) -> int:
    """Cut off what a kill left of the last line; returns the last event's number."""
    if not path.is_file():
        return 0
    with path.open("rb+") as stream:
        stream.truncate(path.read_bytes().rfind(b"\n") + 1)
    events = read_events(path)
    return int(events[-1]["sequence"]) if events else 0
