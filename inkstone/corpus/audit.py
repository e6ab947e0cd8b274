"""The audit: everything that curation removed, with the rule, the measured value and the limit that removed it.

Rows have the level "document" (a whole document), "line" (a line of a document that stays) or "record" (something in a
file that could not become a document). The counts and examples of the report come from the same calls, so report and
audit cannot disagree.
"""

from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

import pyarrow as pa

from inkstone.corpus.readers import Broken
from inkstone.corpus.shards import Shards

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
        pa.field("text", pa.string(), nullable=False),
    ]
)
EXAMPLES = 5
EXAMPLE_CHARACTERS = 300
FIRST_RECORDS = 20

Level = Literal["document", "line", "record"]


@dataclass
class RuleCount:
    """What one rule removed."""

    level: Level
    count: int = 0
    characters: int = 0
    examples: list[dict[str, object]] = field(default_factory=list)


@dataclass
class Entry:
    """One removal."""

    id: str
    source: str
    lang: str | None
    rule: str
    value: float | None
    threshold: float | None
    detail: str
    text: str


class Audit:
    """Writes the audit shards and counts as it goes; used with `with`."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self.rules: dict[str, RuleCount] = {}
        self.documents: Counter[tuple[str, str]] = Counter()  # (rule, language): removed documents
        self.records: list[dict[str, object]] = []

    def __enter__(self) -> "Audit":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._shards.__exit__(kind, error, at)

    def broken(self, records: list[Broken]) -> None:
        """Records that could not become documents."""
        self.add("record", [Entry(b.id, b.source, None, b.rule, None, None, b.detail, b.text) for b in records])
        room = FIRST_RECORDS - len(self.records)
        self.records += [{"id": b.id, "rule": b.rule, "detail": b.detail} for b in records[: max(room, 0)]]

    def add(self, level: Level, entries: list[Entry]) -> None:
        """Write removals of one level."""
        if not entries:
            return
        for entry in entries:
            count = self.rules.setdefault(entry.rule, RuleCount(level))
            count.count += 1
            count.characters += len(entry.text)
            if level == "document":
                self.documents[entry.rule, entry.lang or "other"] += 1
            if len(count.examples) < EXAMPLES:
                count.examples.append(_example(entry))
        columns = {name: [getattr(entry, name) for entry in entries] for name in SCHEMA.names if name != "level"}
        columns["level"] = [level] * len(entries)
        self._shards.add(pa.RecordBatch.from_pydict(columns, SCHEMA))

    def removed(self, level: Level) -> int:
        """How many removals of a level there were."""
        return sum(rule.count for rule in self.rules.values() if rule.level == level)


def _example(entry: Entry) -> dict[str, object]:
    text = entry.text
    shown = text if len(text) <= EXAMPLE_CHARACTERS else text[: EXAMPLE_CHARACTERS - 1] + "…"
    return {
        "id": entry.id,
        "value": entry.value,
        "threshold": entry.threshold,
        "detail": entry.detail,
        "text": shown,
    }
