"""The passes over a corpus, as functions `work(argument, draft)` for the engine: each fills one task's directory.

    read       a group of input files: repair, rules, signatures, spans
    rewrite    its documents again: without equal ones, without frequent lines and sentences
    write      and again: without near duplicates, low quality, repeated substrings; Parquet for train, heldout, audit
    match      a partition of the band keys: which documents are alike
    count      a partition of the spans: which lines and sentences go

The models come first (`judge/resources.py`). Nearly equal sentences have two passes of their own, in `near.py`,
repeated substrings four, in `substrings.py`.
A task of `read`, `rewrite` or `write` holds one batch in memory, a task of `match` or `count` one partition.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from inkstone.corpus.judge.kernel import I64, U64, Mask, flatten, tokenize
from inkstone.corpus.judge.resources import Prepared, open_models
from inkstone.corpus.judge.rules import key_of
from inkstone.corpus.read.files import InputFile
from inkstone.corpus.read.readers import read_batches
from inkstone.corpus.repeats.cuts import cut, entry, least_tokens
from inkstone.corpus.repeats.dedup import Matches, Signatures, band_keys, equals, matches, signatures
from inkstone.corpus.repeats.known import KnownCorpus
from inkstone.corpus.repeats.near import describe
from inkstone.corpus.repeats.spans import (
    DROP,
    ROW,
    RULES,
    SENTENCE,
    Removed,
    decide,
    find_spans,
    limits,
    remove,
    tokens_left,
)
from inkstone.corpus.repeats.substrings import cut_out
from inkstone.corpus.run import audit as audits
from inkstone.corpus.run.audit import Entry
from inkstone.corpus.run.one_batch import clean
from inkstone.corpus.run.parquet_shards import DOCUMENT, Shards
from inkstone.corpus.run.tables import (
    KEY,
    Tables,
    TaskWriter,
    batches,
    between,
    key_rows,
    low_quality,
    map_rows,
    partition_of,
    read_rows,
    save,
    save_matches,
)
from inkstone.corpus.settings import CorpusSettings

GONE = np.dtype([("rank", "<i8"), ("of", "<i8"), ("similarity", "<f8"), ("near", "u1")])


@dataclass(frozen=True)
class ReadTask:
    """Input files to read as one group."""

    files: tuple[InputFile, ...]
    settings: CorpusSettings
    partitions: int
    models: Prepared


def read(task: ReadTask, draft: Path) -> None:
    """Read, repair and judge; describe what stays."""
    settings, models = task.settings, open_models(task.models)
    with TaskWriter(draft, task.partitions, settings.dedup) as out:
        for batch in read_batches(list(task.files), settings.text_fields, settings.max_document_mb, settings.encoding):
            out.audit.broken(batch.broken)
            out.figures.numbers.update({("count", "encoding", name): n for name, n in batch.encodings.items()})
            if not batch.ids:
                continue
            cleaned = clean(batch, settings, models)
            out.figures.merge(cleaned.figures)
            out.audit.add(cleaned.removed)
            stays = np.flatnonzero(cleaned.keep)
            place = np.cumsum(cleaned.keep) - 1 + out.documents
            spans = find_spans(cleaned.flat, cleaned.tokens, settings.lines, settings.sentences)
            if settings.sentences.near:
                out.sentences.add(describe(spans, cleaned.tokens, cleaned.keep))
            rows = spans.rows(cleaned.flat, 0)[cleaned.keep[spans.documents]]
            rows["rank"] = place[rows["rank"]]
            out.spans.add(rows)
            out.add(cleaned.rows.take(pa.array(stays)), signatures(cleaned.tokens, settings.dedup).take(stays))


@dataclass(frozen=True)
class MatchTask:
    """Compare the documents whose keys fall into one of `partitions`, to at least `minimum` agreement."""

    places: tuple[Path, ...]
    known: tuple[KnownCorpus, ...]
    settings: CorpusSettings
    partition: int
    partitions: int
    minimum: float


def match(task: MatchTask, draft: Path) -> None:
    """Pairs of documents that are equal or agree in at least `minimum`; known corpora come before all others."""
    settings = task.settings.dedup
    tables = Tables.open([*(known.signatures for known in task.known), *task.places], settings)
    parts = []
    if settings.exact:
        rows = tables.partition("equal", task.partition, len(task.known))
        known = [_here(tables.exact(n), np.arange(*tables.offsets[n : n + 2]), task) for n in range(len(task.known))]
        rows = np.concatenate([*known, rows])
        parts.append(equals(rows["key"], rows["rank"]))
    if settings.near:
        rows = tables.partition("bands", task.partition, len(task.known))
        rows = np.concatenate([*(_known_bands(tables, n, task) for n in range(len(task.known))), rows])
        parts.append(matches(rows["key"], rows["rank"], tables.agreement, task.minimum))
    save_matches(Matches.joined(parts), draft)


def _known_bands(tables: Tables, number: int, task: MatchTask) -> np.ndarray:
    """Band keys of a part of a known corpus, which keeps signatures only."""
    long, parts = tables.long(number), [np.zeros(0, KEY)]
    for start in range(0, len(long), 65_536):
        some = long[start : start + 65_536]
        bands = band_keys(tables.minhash(number)[some - tables.offsets[number]], task.settings.dedup)
        parts.append(_here(bands.ravel(), np.repeat(some, bands.shape[1]), task))
    return np.concatenate(parts)


def _here(keys: U64, ranks: I64, task: MatchTask) -> np.ndarray:
    mine = partition_of(keys, task.partitions) == task.partition
    return key_rows(keys[mine], ranks[mine])


@dataclass(frozen=True)
class CountTask:
    """Count one partition of the spans. `gone` holds the equal documents, `copies` the ranks of close copies.

    `regrouped` are the places of spans under the keys that they count as, where nearly equal sentences count as one.
    """

    places: tuple[Path, ...]
    settings: CorpusSettings
    partition: int
    gone: Path
    copies: Path
    regrouped: tuple[Path, ...] = ()


def count(task: CountTask, draft: Path) -> None:
    """Which lines and sentences of the documents that are left go, and why."""
    tables = Tables.open(list(task.places), task.settings.dedup)
    if task.regrouped:
        rows = read_rows(task.regrouped, "spans", task.partition, ROW)
    else:
        rows = tables.partition("spans", task.partition)
    rows = rows[~np.isin(rows["rank"], np.load(task.gone)["rank"])]
    counted = ~np.isin(rows["rank"], np.load(task.copies))
    save(draft / "drop.npy", decide(rows, counted, limits(task.settings.lines, task.settings.sentences)))


@dataclass(frozen=True)
class RewriteTask:
    """One task's documents without the ranks in `gone` and the spans in `drops`."""

    places: tuple[Path, ...]
    number: int
    settings: CorpusSettings
    known: tuple[KnownCorpus, ...]
    gone: Path
    drops: tuple[Path, ...]
    partitions: int


def rewrite(task: RewriteTask, draft: Path) -> None:
    """Drop equal documents, then lines and sentences; describe the documents that changed anew."""
    settings, tables = task.settings, Tables.open(list(task.places), task.settings.dedup)
    first, last = tables.offsets[task.number : task.number + 2]
    gone = between(np.load(task.gone, "r"), first, last)
    originals = _names(gone["of"], task)
    drops = np.concatenate(
        [np.zeros(0, DROP), *(between(np.load(p / "drop.npy", "r"), first, last) for p in task.drops)]
    )
    drops = drops[np.argsort(drops["rank"], kind="stable")]
    minhash, long = tables.minhash(task.number), np.zeros(last - first, bool)
    long[tables.long(task.number) - first] = True
    with TaskWriter(draft, task.partitions, settings.dedup) as out:
        for start, rows in batches(tables.rows(task.number)):
            alive = _drop_duplicates(rows, first + start, gone, originals, "equal_documents", task, out)
            here = np.flatnonzero(alive)
            stay = rows.take(pa.array(here))
            out.figures.flow("lines", "in", stay)
            stay, kept, changed = _drop_spans(stay, here + first + start, drops, settings, out)
            out.figures.flow("lines", "out", stay)
            local = here[kept] + start
            exact = np.array(tables.exact(task.number)[local])
            signs = Signatures(exact, np.array(minhash[local]), long[local])
            if len(changed):
                texts = stay["text"].take(pa.array(changed))
                fresh = signatures(tokenize(flatten(texts)), settings.dedup)
                signs.exact[changed], signs.minhash[changed] = fresh.exact, fresh.minhash
                signs.has_shingles[changed] = fresh.has_shingles
            out.add(stay, signs)


def _drop_spans(
    rows: pa.RecordBatch, ranks: I64, drops: np.ndarray, settings: CorpusSettings, out: TaskWriter
) -> tuple[pa.RecordBatch, I64, I64]:
    """The rows without their lines and sentences, which of them stay, and which of those changed.

    A document that its repeated sentences would empty keeps them.
    """
    drops = between(drops, int(ranks[0]), int(ranks[-1]) + 1) if len(ranks) else drops[:0]
    drops = drops[np.isin(drops["rank"], ranks)]
    affected, place = np.unique(np.searchsorted(ranks, drops["rank"]), return_inverse=True)
    touched = rows.take(pa.array(affected))
    done = remove(touched["text"], drops, place, settings.lines, settings.sentences)
    short = tokens_left([text for text, _ in done]) < least_tokens(touched, settings)
    if short.any():
        lines = drops["kind"] < SENTENCE
        again = remove(touched["text"], drops[lines], place[lines], settings.lines, settings.sentences)
        done = [again[n] if short[n] else one for n, one in enumerate(done)]
    cuts = [[_span_entry(touched, n, part, settings) for part in removed] for n, (_, removed) in enumerate(done)]
    why = "tokens left without menu and boilerplate lines"
    return cut(rows, affected, [text for text, _ in done], cuts, settings, why, out)


@dataclass(frozen=True)
class WriteTask:
    """One task's documents without the ranks in `gone`, as Parquet. `heldout_id` is held out whatever its hash.

    `repeats` are the places of the windows that stand somewhere before, where these are looked for.
    """

    places: tuple[Path, ...]
    number: int
    earlier: tuple[Path, ...]  # where this task's other audit files lie
    settings: CorpusSettings
    known: tuple[KnownCorpus, ...]
    gone: Path
    least_quality: tuple[tuple[str, float], ...]
    heldout_id: str | None
    train_id: str | None
    repeats: tuple[Path, ...] = ()


def write(task: WriteTask, draft: Path) -> None:
    """Drop near duplicates, the lowest quality and repeated substrings, split, write the audit of all passes."""
    tables = Tables.open(list(task.places), task.settings.dedup)
    first, last = tables.offsets[task.number : task.number + 2]
    gone = between(np.load(task.gone, "r"), first, last)
    originals = _names(gone["of"], task)
    least, repeats = dict(task.least_quality), map_rows(task.repeats, int(first), int(last))
    names = partial(_names, task=task)
    stays = np.ones(int(last - first), bool)
    # Nothing follows, so TaskWriter's own rows stay empty.
    with TaskWriter(draft, 1, task.settings.dedup) as out:
        with Shards(draft / "train", DOCUMENT) as train, Shards(draft / "heldout", DOCUMENT) as held:
            for start, rows in batches(tables.rows(task.number)):
                alive = _drop_duplicates(rows, first + start, gone, originals, "duplicates", task, out)
                here = np.flatnonzero(alive)
                here = here[_drop_low_quality(rows.take(pa.array(here)), least, out)]
                stay = rows.take(pa.array(here))
                if task.repeats:
                    out.figures.flow("substrings", "in", stay)
                    stay, kept = cut_out(stay, first + start + here, repeats, task.settings, names, out)
                    out.figures.flow("substrings", "out", stay)
                    here = here[kept]
                stays[start : start + len(rows)] = False
                stays[start + here] = True
                apart = _heldout(stay["id"].to_pylist(), task)
                for name, shards, which in (("train", train, ~apart), ("heldout", held, apart)):
                    chosen = stay.filter(pa.array(which))
                    shards.add(chosen)
                    out.figures.flow(f"split:{name}", "out", chosen)
                out.figures.lengths(stay["text"])
                out.figures.quality(stay, "kept")
        _save_signatures(tables, task.number, stays, draft)
    with Shards(draft / "audit", audits.SCHEMA) as shards:
        for place in (*task.earlier, draft):
            for batch in pa.ipc.open_file(pa.memory_map(str(place / "audit.arrow"))).read_all().to_batches():
                shards.add(batch)


def _save_signatures(tables: Tables, number: int, stays: Mask, draft: Path) -> None:
    """Keep what a later corpus needs to know this one (see `known.py`)."""
    long = np.zeros(len(stays), np.uint8)
    long[tables.long(number) - int(tables.offsets[number])] = 1
    (draft / "signatures").mkdir()
    for name, values in (("exact.u64", tables.exact(number)), ("minhash.u32", tables.minhash(number)),
                         ("long.u8", long)):  # fmt: skip
        with (draft / "signatures" / name).open("wb") as stream:
            for start in range(0, len(stays), 65_536):
                part = slice(start, start + 65_536)
                stream.write(np.ascontiguousarray(values[part][stays[part]]).data)


def _drop_low_quality(rows: pa.RecordBatch, least: dict[str, float], out: TaskWriter) -> Mask:
    """Which rows stay."""
    out.figures.flow("quality", "in", rows)
    low, scores, floors = low_quality(rows, least)
    why = f"{key_of('low_quality', '')} of its source"
    entries = [entry(rows, n, "low_quality", float(scores[n]), float(floors[n]), why)
               for n in np.flatnonzero(low).tolist()]  # fmt: skip
    out.audit.add(entries)
    out.figures.quality(rows.filter(pa.array(low)), "removed")
    out.figures.flow("quality", "out", rows.filter(pa.array(~low)))
    return ~low


def hash_share(identity: str) -> float:
    """A document's place in [0, 1) by the hash of its id."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "big") / 2.0**64


def _heldout(ids: list[str], task: WriteTask) -> Mask:
    share = task.settings.heldout_fraction
    return np.array([(hash_share(id) < share or id == task.heldout_id) and id != task.train_id for id in ids], bool)


# --- shared ------------------------------------------------------------------------------------------------------


def _drop_duplicates(
    rows: pa.RecordBatch,
    first_rank: int,
    gone: np.ndarray,
    originals: dict[int, str],
    step: str,
    task: "RewriteTask | WriteTask",
    out: TaskWriter,
) -> Mask:
    """Which rows stay; the others go to the audit, naming the document they repeat."""
    alive = np.ones(len(rows), bool)
    here = between(gone, first_rank, first_rank + len(rows))
    alive[here["rank"] - first_rank] = False
    entries = []
    for rank, of, similarity, near in here.tolist():
        rule = "near_duplicate" if near else "exact_duplicate"
        limit = task.settings.dedup.min_similarity if near else 1.0
        entries.append(entry(rows, rank - first_rank, rule, float(similarity), limit, f"repeats {originals[of]}"))
    out.audit.add(entries)
    out.figures.flow(step, "in", rows)
    out.figures.flow(step, "out", rows.filter(pa.array(alive)))
    return alive


def _names(ranks: np.ndarray, task: "RewriteTask | WriteTask") -> dict[int, str]:
    """Ids of documents, looked up for a whole task at once, for it opens all tasks' files.

    A negative rank is a document of a known corpus.
    """
    if not len(ranks):
        return {}
    own = Tables.open(list(task.places), task.settings.dedup).values("id", np.unique(ranks[ranks >= 0]))
    known = {int(rank): f"a document of {task.known[0].name if len(task.known) == 1 else 'a known corpus'}"
             for rank in ranks[ranks < 0]}  # fmt: skip
    return {**own, **known}


def _span_entry(rows: pa.RecordBatch, row: int, span: Removed, settings: CorpusSettings) -> Entry:
    rule, limit = RULES[span.kind], limits(settings.lines, settings.sentences)[span.kind]
    setting = key_of(RULES[min(span.kind, SENTENCE)], "")
    near = ", counted with the sentences that are nearly equal to it" if span.kind > SENTENCE else ""
    detail = f"in {span.documents} documents{near}; {setting} = {limit}"
    one = entry(rows, row, rule, float(span.documents), float(limit), detail)
    one.level, one.text, one.position = "line" if span.kind < SENTENCE else "sentence", span.text, span.position
    return one
