"""The audit: everything that curation removed, with the rule, the measured value and the limit that removed it.

Rows have the level "document" (a whole document), "line", "sentence" or "substring" (a part of a document that stays;
`position` is where it stood, in characters), "span" (masked private data: the text itself is not repeated) or "record"
(something in a file that could not become a document). Report and audit are counted by the same call, so they cannot
disagree.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from inkstone.corpus.read.readers import Broken
from inkstone.corpus.run.figures import FIRST_RECORDS, Figures, shortened

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("lang", pa.string()),
        pa.field("level", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("position", pa.int64()),
        pa.field("text", pa.string(), nullable=False),
    ]
)

Level = Literal["document", "line", "sentence", "substring", "span", "record"]
PARTS: tuple[Level, ...] = ("line", "sentence", "substring")


@dataclass
class Entry:
    """One removal. `value` broke `threshold`; `detail` says how, or names the copy that was kept."""

    id: str
    source: str
    lang: str | None
    level: Level
    rule: str
    value: float | None
    threshold: float | None
    detail: str
    text: str
    position: int | None = None  # where a part stood, in characters; an old audit does not say


class Audit:
    """Writes the removals of one task as an Arrow file and counts them; call `close` at the end."""

    def __init__(self, path: Path, figures: Figures) -> None:
        self._figures = figures
        self._writer = pa.ipc.new_file(str(path), SCHEMA)

    def add(self, entries: list[Entry]) -> None:
        """Write removals."""
        for entry in entries:
            example = {name: getattr(entry, name) for name in ("id", "value", "threshold", "detail")}
            example["text"] = shortened(entry.text)
            self._figures.removed(entry.level, entry.rule, entry.lang or "other", len(entry.text), example)
        if entries:
            columns = {name: [getattr(entry, name) for entry in entries] for name in SCHEMA.names}
            self._writer.write_batch(pa.RecordBatch.from_pydict(columns, SCHEMA))

    def broken(self, records: list[Broken]) -> None:
        """Records that could not become documents."""
        self.add([Entry(b.id, b.source, None, "record", b.rule, None, None, b.detail, b.text) for b in records])
        room = max(FIRST_RECORDS - len(self._figures.unreadable), 0)
        self._figures.unreadable += [{"id": b.id, "rule": b.rule, "detail": b.detail} for b in records[:room]]

    def close(self) -> None:
        self._writer.close()
