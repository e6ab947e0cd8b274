"""`report.json`: what went in, what each step and rule took out, what came out, how long it took.

`Report` is filled by the stage step by step; `as_json` adds the audit's counts and examples.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inkstone.corpus.audit import Audit
from inkstone.corpus.repair import Repair


@dataclass(frozen=True)
class Amount:
    """An amount of text."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.documents + other.documents, self.characters + other.characters, self.bytes + other.bytes)


def amount(texts: pa.StringArray) -> Amount:
    """How much text an array holds."""
    return Amount(len(texts), _sum(pc.utf8_length(texts)), _sum(pc.binary_length(texts)))


@dataclass
class Flow:
    """Text that went into something and came out of it."""

    before: Amount = Amount()
    after: Amount = Amount()

    def as_json(self) -> dict[str, int | float]:
        ends = {"in": self.before, "out": self.after}
        flat = {f"{name}_{end}": value for end, size in ends.items() for name, value in asdict(size).items()}
        kept = self.after.characters / self.before.characters if self.before.characters else 0.0
        return {**flat, "kept_share": round(kept, 4)}


@dataclass
class Report:
    """Figures of one run."""

    steps: dict[str, Flow] = field(default_factory=dict)
    sources: dict[str, Flow] = field(default_factory=dict)
    langs: dict[str, Flow] = field(default_factory=dict)
    repairs: dict[str, Repair] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    splits: dict[str, Amount] = field(default_factory=dict)

    def step(self, name: str, before: Amount, after: Amount) -> None:
        """Add to a step; steps are listed in the order of their first call."""
        flow = self.steps.setdefault(name, Flow())
        flow.before += before
        flow.after += after

    def split(self, name: str, size: Amount) -> None:
        """Add to train or heldout."""
        self.splits[name] = self.splits.get(name, Amount()) + size

    @property
    def documents_read(self) -> int:
        return self.steps["read"].after.documents if "read" in self.steps else 0

    @property
    def documents_kept(self) -> int:
        return sum(size.documents for size in self.splits.values())

    def came_in(self, sources: pa.Array, langs: pa.Array, texts: pa.StringArray) -> None:
        """Documents as they were read (repaired), by source and language."""
        for flows, keys in ((self.sources, sources), (self.langs, langs)):
            for key, part in _grouped(keys, texts):
                flows.setdefault(key, Flow()).before += part

    def came_out(self, sources: pa.Array, langs: pa.Array, texts: pa.StringArray) -> None:
        """Documents that stay, by source, language and length."""
        for flows, keys in ((self.sources, sources), (self.langs, langs)):
            for key, part in _grouped(keys, texts):
                flows.setdefault(key, Flow()).after += part
        powers = np.ceil(np.log2(np.maximum(np.asarray(pc.utf8_length(texts)), 1) + 1)).astype(int)
        for power, count in zip(*np.unique(powers, return_counts=True), strict=True):
            bucket = f"<{1 << int(power)}"
            self.lengths[bucket] = self.lengths.get(bucket, 0) + int(count)

    def repaired(self, done: dict[str, Repair]) -> None:
        for name, repair in done.items():
            self.repairs[name] = self.repairs.get(name, Repair()) + repair

    def as_json(self, audit: Audit, seconds: float) -> dict[str, object]:
        read = self.steps["read"].before
        rules = sorted(audit.rules.items(), key=lambda item: (-item[1].count, item[0]))
        return {
            "documents_in": read.documents,
            "documents_out": self.documents_kept,
            "characters_in": read.characters,
            "characters_out": sum(split.characters for split in self.splits.values()),
            "steps": [{"step": name, **flow.as_json()} for name, flow in self.steps.items()],
            "rules": [{"rule": name, **asdict(count)} for name, count in rules],
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "sources": {name: flow.as_json() for name, flow in sorted(self.sources.items())},
            "langs": {name: flow.as_json() for name, flow in sorted(self.langs.items())},
            "lengths": dict(sorted(self.lengths.items(), key=lambda item: int(item[0][1:]))),
            "repairs": {name: asdict(repair) for name, repair in sorted(self.repairs.items())},
            "unreadable": {"count": audit.removed("record"), "first": audit.records},
            "throughput": {
                "seconds": round(seconds, 3),
                "megabytes_per_second": round(read.bytes / 1e6 / max(seconds, 1e-9), 2),
                "documents_per_second": round(read.documents / max(seconds, 1e-9), 1),
            },
        }


def _grouped(keys: pa.Array, texts: pa.StringArray) -> Iterable[tuple[str, Amount]]:
    table = pa.table({"key": keys, "characters": pc.utf8_length(texts), "bytes": pc.binary_length(texts)})
    sums = table.group_by("key").aggregate([("key", "count"), ("characters", "sum"), ("bytes", "sum")])
    for row in sums.to_pylist():
        yield row["key"], Amount(row["key_count"], row["characters_sum"], row["bytes_sum"])


def _sum(values: pa.Array) -> int:
    return pc.sum(values).as_py() or 0
