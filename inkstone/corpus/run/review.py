"""Read the audit back: what was removed and why.

    for row in tally(Path("runs/own/corpus")): ...            # per rule, level, source and language
    removals = read_removals(Path("runs/own/corpus"), "near_duplicate", limit=10)

The audit is read as a stream of Parquet batches, so its size does not matter; counts are taken from the rows
themselves, not from the report.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from inkstone.corpus.run.audit import SCHEMA, Entry
from inkstone.errors import InkstoneError, InputError


@dataclass(frozen=True)
class Tally:
    """How much one rule removed from one source in one language."""

    rule: str
    level: str
    source: str
    lang: str
    count: int
    characters: int


def tally(directory: Path) -> list[Tally]:
    """Counts per rule, level, source and language, the most frequent rule first."""
    sums: dict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for batch in _batches(directory, ["rule", "level", "source", "lang", "text"]):
        keys = ["rule", "level", "source", "lang"]
        table = pa.table({**{key: batch[key] for key in keys}, "characters": pc.utf8_length(batch["text"])})
        grouped = table.group_by(keys).aggregate([("characters", "count"), ("characters", "sum")])
        for row in grouped.to_pylist():
            entry = sums[row["rule"], row["level"], row["source"], row["lang"] or "unknown"]
            entry[0] += row["characters_count"]
            entry[1] += row["characters_sum"]
    found = [Tally(*key, *entry) for key, entry in sums.items()]
    totals: dict[str, int] = defaultdict(int)
    for one in found:
        totals[one.rule] += one.count
    return sorted(found, key=lambda one: (-totals[one.rule], one.rule, one.level, -one.count, one.source, one.lang))


def read_removals(
    directory: Path, reason: str, source: str | None = None, lang: str | None = None, limit: int = 10
) -> list[Entry]:
    """The first `limit` removals by one rule, in the audit's order.

    Raises InputError that lists what there is when the rule, source or language removed nothing.
    """
    found: list[Entry] = []
    wanted = {"rule": reason, "source": source, "lang": lang}
    for batch in _batches(directory, SCHEMA.names):
        for column, value in wanted.items():
            if value is not None:
                batch = batch.filter(pc.fill_null(pc.equal(batch[column], value), False))
        found += [Entry(**row) for row in batch.slice(0, limit - len(found)).to_pylist()]
        if len(found) >= limit:
            return found
    if not found and limit:
        _explain_nothing(directory, reason, source, lang)
    return found


def _explain_nothing(directory: Path, reason: str, source: str | None, lang: str | None) -> None:
    rows = tally(directory)
    if not rows:
        raise InputError(f"{directory}: nothing was removed from this corpus")
    of_rule = [row for row in rows if row.rule == reason]
    if not of_rule:
        known = ", ".join(dict.fromkeys(row.rule for row in rows))
        raise InputError(f'{directory}: nothing was removed for the reason "{reason}"; reasons here: {known}')
    pairs = sorted({f"{row.source} ({row.lang})" for row in of_rule})
    shown = ", ".join(pairs[:20]) + (f" and {len(pairs) - 20} more" if len(pairs) > 20 else "")
    asked = " and ".join(filter(None, [source and f'source "{source}"', lang and f'language "{lang}"']))
    raise InputError(f"{directory}: {reason} removed nothing for {asked}; it did in: {shown}")


def _batches(directory: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for path in _files(directory):
        try:
            with pq.ParquetFile(path) as parquet:
                yield from parquet.iter_batches(batch_size=4096, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise InkstoneError(f"{path} cannot be read as Parquet ({error}): run the corpus stage again.") from error


def _files(directory: Path) -> list[Path]:
    """The audit's shards, from a run, a corpus or an audit directory."""
    for folder in (directory / "corpus" / "audit", directory / "audit", directory):
        files = sorted(folder.glob("*.parquet"))
        if files and (folder.name == "audit" or folder != directory):
            return files
    raise InputError(
        f"{directory} holds no audit: give the directory of a run or of a curated corpus, e.g. runs/own-text"
    )
