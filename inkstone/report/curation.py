"""What the page tells about a curated corpus, read from its report.json, its audit and its quality column.

    facts = read_curation(Path("runs/own/corpus"), report)

Samples are capped per rule and in length, so the page stays small whatever the corpus; counts are of all rows. What a
corpus does not have (scores, clusters, rewritten documents) is left out.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from inkstone.corpus.run.audit import Entry
from inkstone.corpus.run.review import Tally, read_removals, tally
from inkstone.errors import InkstoneError
from inkstone.report.sankey import Band

SAMPLES = 12  # per rule
SAMPLE_CHARACTERS = 420
BANDS = 8  # more sources are drawn as one band
REWRITES = 8
CLUSTERS = 6

# Stages in the frame's order: what a reader calls them, and which names of rules belong there. RULES takes the rest.
STAGES = (
    ("lines", r"_line$|sentence|^emptied$"),
    ("private data", r"^pii"),
    ("contamination", r"contamin"),
    ("duplicates", r"dup|equal_document|substring"),
    ("quality", r"quality|perplexity"),
)
RULES = "rules"
PARTS = ("line", "sentence", "substring")  # removed from a document that stays; a masked span takes no text away


@dataclass(frozen=True)
class Sample:
    """One removal as the page shows it: where it came from, why it went, and the beginning of its text."""

    where: str
    why: str
    text: str
    rest: int  # characters that are not shown


@dataclass(frozen=True)
class Rewrite:
    """A document that stays without some of its lines."""

    id: str
    removed: list[tuple[str, str]]  # rule, line
    kept: str


@dataclass(frozen=True)
class Curation:
    """Everything the corpus section shows besides report.json."""

    flows: dict[str, dict[str, list[Band]]]  # "documents" | "characters" -> "source" | "language" -> bands
    stages: dict[str, list[str]]  # unit -> the stages that removed something
    samples: dict[str, list[Sample]]
    quality: dict[str, tuple[list[int], list[float]]]  # language -> counts of 20 bins, and their edges
    cluster_sizes: dict[str, int]
    clusters: list[tuple[str, list[Sample]]]  # id that was kept, its copies
    rewrites: list[Rewrite]


def read_curation(corpus: Path, report: dict[str, Any]) -> Curation | None:
    """The facts of one corpus directory; None where it has no audit (e.g. a report copied alone)."""
    if not (corpus / "audit").is_dir():
        return None
    rows = tally(corpus)
    flows: dict[str, dict[str, list[Band]]] = {}
    stages: dict[str, list[str]] = {}
    for unit in ("documents", "characters"):
        counted = [row for row in rows if row.level == "document" or (unit == "characters" and row.level in PARTS)]
        present = {stage_of(row.rule) for row in counted}
        order = [RULES, *(name for name, _ in STAGES)]
        stages[unit] = [name for name in order if name in present]
        flows[unit] = {
            grain: _bands(report.get(key, {}), counted, grain, unit, stages[unit])
            for grain, key in (("source", "sources"), ("language", "langs"))
        }
    levels = {row.rule for row in rows if row.level != "record"}
    removals = {rule: read_removals(corpus, rule, limit=25 * SAMPLES) for rule in sorted(levels)}
    return Curation(
        flows=flows,
        stages=stages,
        samples={rule: [_sample(one) for one in spread(found, SAMPLES)] for rule, found in removals.items()},
        quality=_quality(corpus),
        cluster_sizes=_cluster_sizes(corpus),
        clusters=_clusters([one for found in removals.values() for one in found]),
        rewrites=_rewrites(corpus, [one for found in removals.values() for one in found if one.level in PARTS]),
    )


def stage_of(rule: str) -> str:
    """The stage of the frame a rule belongs to, by its name."""
    return next((stage for stage, names in STAGES if re.search(names, rule)), RULES)


def _bands(
    given: dict[str, dict[str, Any]], rows: Sequence[Tally], grain: str, unit: str, stages: Sequence[str]
) -> list[Band]:
    """One band per source or language; small ones are joined."""
    removed: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        key = row.source if grain == "source" else row.lang
        removed[key][stage_of(row.rule)] += row.count if unit == "documents" else row.characters
    names = sorted(given, key=lambda name: -given[name][f"{unit}_in"])
    shown, rest = (names, []) if len(names) <= BANDS else (names[: BANDS - 1], names[BANDS - 1 :])
    groups = [(name, [name]) for name in shown] + ([(f"{len(rest)} more", rest)] if rest else [])
    bands = []
    for label, members in groups:
        out = sum(given[name][f"{unit}_out"] for name in members)
        gone = [sum(removed[name][stage] for name in members) for stage in stages]
        bands.append(Band(label, out + sum(gone), gone))
    return bands


def spread(found: Sequence[Entry], count: int) -> list[Entry]:
    """Up to `count` of them, taking turns between sources and languages."""
    queues: dict[tuple[str, str | None], list[Entry]] = defaultdict(list)
    for one in found:
        queues[one.source, one.lang].append(one)
    chosen: list[Entry] = []
    for turn in range(max(map(len, queues.values()), default=0)):
        chosen += [queue[turn] for queue in queues.values() if turn < len(queue)]
    return chosen[:count]


def _sample(one: Entry) -> Sample:
    text, why = one.text[:SAMPLE_CHARACTERS], why_removed(one.value, one.threshold, one.detail)
    return Sample(f"{one.id} · {one.lang or 'unknown'}", why, text, len(one.text) - len(text))


def why_removed(value: float | None, threshold: float | None, detail: str | None) -> str:
    """What was measured, and the detail that the audit gives."""
    limit = "" if threshold is None else f", limit {threshold:.4g}"
    measured = "" if value is None else f"measured {value:.4g}{limit}"
    return " · ".join(filter(None, (measured, detail)))


def _quality(corpus: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Histograms of the documents' scores by language; {} where none was scored."""
    scores: dict[str, list[np.ndarray]] = defaultdict(list)
    for batch in _dataset(corpus / "train").to_batches(columns=["lang", "quality"]):
        scored = batch.filter(pc.is_valid(batch["quality"]))
        for lang in pc.unique(scored["lang"]).to_pylist():
            scores[lang].append(np.asarray(scored.filter(pc.equal(scored["lang"], lang))["quality"]))
    joined = {lang: np.concatenate(parts) for lang, parts in sorted(scores.items()) if parts}
    if not joined:
        return {}
    low, high = min(float(part.min()) for part in joined.values()), max(float(part.max()) for part in joined.values())
    edges = np.linspace(min(low, 0.0), max(high, 1.0), 21)
    return {lang: (np.histogram(part, edges)[0].tolist(), edges.tolist()) for lang, part in joined.items()}


def _original(detail: str) -> str | None:
    """The id of the document that was kept instead, as the audit's detail names it."""
    head, found, rest = detail.partition("repeats ")
    return (rest.split(";")[0].strip() or None) if found and not head else None


def _cluster_sizes(corpus: Path) -> dict[str, int]:
    """How many documents had so many copies: {"2": n, "3-4": n, ...}, the one that stays counted in."""
    copies: Counter[str] = Counter()
    duplicate = ds.field("level") == "document"
    for batch in _dataset(corpus / "audit").to_batches(columns=["detail", "level"], filter=duplicate):
        repeats = batch["detail"].filter(pc.starts_with(batch["detail"], "repeats "))
        for entry in pc.value_counts(repeats).to_pylist():
            copies[_original(entry["values"]) or ""] += entry["counts"]
    sizes: Counter[str] = Counter()
    for count in copies.values():
        power = int(np.ceil(np.log2(count + 1)))
        first, last = 2 ** (power - 1) + 1, 2**power
        sizes[str(last) if first == last else f"{first}-{last}"] += 1
    return dict(sorted(sizes.items(), key=lambda item: int(item[0].split("-")[0])))


def _clusters(found: Sequence[Entry]) -> list[tuple[str, list[Sample]]]:
    """The largest clusters among the removals that were read, with a few of their copies."""
    copies: dict[str, list[Entry]] = defaultdict(list)
    for one in found:
        original = _original(one.detail) if one.level == "document" else None
        if original:
            copies[original].append(one)
    largest = sorted(copies.items(), key=lambda item: (-len(item[1]), item[0]))[:CLUSTERS]
    return [(original, [_sample(one) for one in members[:4]]) for original, members in largest]


def _rewrites(corpus: Path, lines: Sequence[Entry]) -> list[Rewrite]:
    """Documents that lost lines: the lines that went, and what is left."""
    lost: dict[str, list[Entry]] = defaultdict(list)
    for line in lines:
        lost[line.id].append(line)
    if not lost:
        return []
    chosen = sorted(lost, key=lambda name: (-len({line.rule for line in lost[name]}), -len(lost[name]), name))
    wanted = chosen[: 4 * REWRITES]
    table = _dataset(corpus / "train").to_table(columns=["id", "text"], filter=ds.field("id").isin(wanted))
    kept = dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
    return [
        Rewrite(name, [(one.rule, one.text[:200]) for one in lost[name][:6]], kept[name][:SAMPLE_CHARACTERS])
        for name in wanted
        if name in kept
    ][:REWRITES]


def _dataset(folder: Path) -> ds.Dataset:
    try:
        return ds.dataset(sorted(str(path) for path in folder.glob("*.parquet")), format="parquet")
    except (OSError, pa.ArrowException) as error:
        raise InkstoneError(f"{folder} cannot be read as Parquet ({error}): run the corpus stage again.") from error
