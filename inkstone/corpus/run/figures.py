"""Figures of a curation: counters that tasks fill on their own and that add up to the report.

`Figures` has one counter whose keys are words, e.g. ("flow", step, source, lang, "documents_in"), a few examples per
rule and the first unreadable records. Everything adds, in any grouping, so the sum over tasks is the same whatever did
the work; `report.py` turns the sum into `report.json`.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

EXAMPLES = 20
EXAMPLE_CHARACTERS = 300
FIRST_RECORDS = 20
QUALITY_BINS = 20

Example = dict[str, object]


@dataclass
class Figures:
    """What happened, as numbers and a few examples."""

    numbers: Counter[tuple[str, ...]] = field(default_factory=Counter)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    unreadable: list[Example] = field(default_factory=list)
    rewrites: list[Example] = field(default_factory=list)

    def flow(self, step: str, end: str, rows: pa.RecordBatch) -> None:
        """Text that enters (`end` = "in") or leaves ("out") a step, by source and language of `rows`."""
        self.flows(((step, end),), rows, rows["text"])

    def flows(self, ends: tuple[tuple[str, str], ...], rows: pa.RecordBatch, texts: pa.StringArray) -> None:
        """The same text at several ends of steps."""
        columns = {"characters": pc.utf8_length(texts), "bytes": pc.binary_length(texts)}
        table = pa.table({"source": rows["source"], "lang": rows["lang"], **columns})
        sums = table.group_by(["source", "lang"], use_threads=False).aggregate(
            [("source", "count"), ("characters", "sum"), ("bytes", "sum")]
        )
        for row in sums.to_pylist():
            for step, end in ends:
                where = ("flow", step, row["source"], row["lang"])
                self.numbers[*where, f"documents_{end}"] += row["source_count"]
                self.numbers[*where, f"characters_{end}"] += row["characters_sum"]
                self.numbers[*where, f"bytes_{end}"] += row["bytes_sum"]

    def lengths(self, texts: pa.StringArray) -> None:
        """Histogram of lengths in characters: documents below each power of two."""
        powers = np.ceil(np.log2(np.maximum(np.asarray(pc.utf8_length(texts)), 1) + 1)).astype(int)
        for power, count in zip(*np.unique(powers, return_counts=True), strict=True):
            self.numbers["length", str(1 << int(power))] += int(count)

    def quality(self, rows: pa.RecordBatch, fate: str) -> None:
        """Histogram of quality scores in `QUALITY_BINS` bins of [0, 1], kept or removed, by source and language."""
        scored = rows.filter(pc.is_valid(rows["quality"]))
        bins = np.minimum((np.asarray(scored["quality"]) * QUALITY_BINS).astype(int), QUALITY_BINS - 1)
        keys = zip(scored["source"].to_pylist(), scored["lang"].to_pylist(), bins.tolist(), strict=True)
        for (source, lang, place), count in Counter(keys).items():
            self.numbers["quality", source, lang, fate, str(place)] += count

    def removed(self, level: str, rule: str, lang: str, characters: int, example: Example) -> None:
        """One removal."""
        self.numbers["rule", level, rule, lang, "count"] += 1
        self.numbers["rule", level, rule, lang, "characters"] += characters
        shown = self.examples.setdefault(rule, [])
        if len(shown) < EXAMPLES:
            shown.append(example)

    def merge(self, other: "Figures") -> None:
        """Add what another task counted."""
        self.numbers.update(other.numbers)
        for rule, shown in other.examples.items():
            mine = self.examples.setdefault(rule, [])
            mine += shown[: EXAMPLES - len(mine)]
        self.unreadable += other.unreadable[: FIRST_RECORDS - len(self.unreadable)]
        self.rewrites += other.rewrites[: EXAMPLES - len(self.rewrites)]

    def total(self, *start: str, last: str | None = None) -> int:
        """Sum of the numbers whose key begins with `start` (and ends with `last`)."""
        size = len(start)
        return sum(n for key, n in self.numbers.items() if key[:size] == start and last in (None, key[-1]))

    def save(self, path: Path) -> None:
        content = {
            "numbers": [[*key, value] for key, value in sorted(self.numbers.items())],
            "examples": self.examples,
            "unreadable": self.unreadable,
            "rewrites": self.rewrites,
        }
        path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Figures":
        content = json.loads(path.read_text(encoding="utf-8"))
        numbers = Counter({tuple(row[:-1]): row[-1] for row in content["numbers"]})
        return cls(numbers, content["examples"], content["unreadable"], content["rewrites"])


def shortened(text: str) -> str:
    """The beginning of a text, for an example."""
    return text if len(text) <= EXAMPLE_CHARACTERS else text[: EXAMPLE_CHARACTERS - 1] + "…"
