"""The passes over the corpus, one function each: read and judge, drop duplicates, drop lines, write.

Between passes documents wait in a draft, an Arrow file that is mapped into memory rather than loaded. So memory holds
one batch, and per document its hashes and MinHash values (half a kilobyte with the default settings).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inkstone.corpus.audit import Audit, Entry
from inkstone.corpus.dedup import Duplicates, Signatures, close_copies, signatures
from inkstone.corpus.files import InputFile
from inkstone.corpus.kernel import I64, Mask, flatten, segment_sums, tokenize
from inkstone.corpus.lines import LineCounts, Removed, candidate_lines, line_keys, remove_lines
from inkstone.corpus.measure import measure
from inkstone.corpus.readers import Batch, read_batches
from inkstone.corpus.repair import repair
from inkstone.corpus.report import Report, amount
from inkstone.corpus.rules import Verdicts, judge, key_of, rules_for
from inkstone.corpus.settings import CorpusSettings
from inkstone.corpus.shards import DOCUMENT, Shards
from inkstone.progress import Progress

DRAFT = pa.schema([*(field for field in DOCUMENT if field.name != "quality"), pa.field("lines", pa.list_(pa.uint64()))])
MIN_DOCUMENTS_FOR_HELDOUT = 20


def open_draft(path: Path) -> pa.Table:
    """The documents of a draft, mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


# --- read, repair, judge -----------------------------------------------------------------------------------------


def read(
    settings: CorpusSettings, files: list[InputFile], draft: Path, report: Report, audit: Audit, progress: Progress
) -> Signatures:
    """Read and repair all files, apply the document rules, write what stays to `draft`."""
    total = sum(file.size for file in files)
    described: list[Signatures] = []
    with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, DRAFT) as writer:
        for batch in read_batches(files, settings.text_fields, settings.max_document_mb):
            audit.broken(batch.broken)
            if batch.ids:
                rows, found = _judge_batch(settings, batch, report, audit)
                writer.write_batch(rows)
                described.append(found)
            kept = sum(len(part.exact) for part in described)
            progress.advance(batch.bytes_done, total, "bytes", documents=report.documents_read, kept=kept)
    return _joined(described, settings)


def _judge_batch(
    settings: CorpusSettings, batch: Batch, report: Report, audit: Audit
) -> tuple[pa.RecordBatch, Signatures]:
    raw = pa.array(batch.texts, pa.string())
    texts, repairs = repair(raw)
    flat = flatten(texts)
    tokens = tokenize(flat)
    verdicts = judge(settings, measure(flat, tokens), tokens)
    lines = candidate_lines(flat, tokens, settings.lines)
    keep = np.array([rule == "" for rule in verdicts.rule])

    columns = {"id": batch.ids, "text": texts, "source": batch.sources, "lang": verdicts.lang, "meta": batch.metas}
    keys = pa.ListArray.from_arrays(pa.array(lines.offsets, pa.int32()), pa.array(line_keys(lines)))
    every = pa.RecordBatch.from_pydict({**columns, "lines": keys}, DRAFT)
    kept = every.filter(pa.array(keep))
    _audit_verdicts(every, verdicts, keep, settings, audit)
    report.repaired(repairs)
    report.came_in(every["source"], every["lang"], texts)
    report.step("read", amount(raw), amount(raw))
    report.step("repair", amount(raw), amount(texts))
    report.step("rules", amount(texts), amount(kept["text"]))
    return kept, signatures(tokens, settings.dedup).take(np.flatnonzero(keep))


def _audit_verdicts(
    rows: pa.RecordBatch, verdicts: Verdicts, keep: Mask, settings: CorpusSettings, audit: Audit
) -> None:
    entries = []
    for row in np.flatnonzero(~keep).tolist():
        rule, lang = verdicts.rule[row], verdicts.lang[row]
        text = rows["text"][row].as_py()
        detail = key_of(rule, verdicts.table[row])
        if rule == "banned_phrase":
            phrase = next((p for p in settings.banned_phrases if p.casefold() in text.casefold()), "")
            detail = f"{detail}: {phrase}" if phrase else detail
        value, limit = float(verdicts.value[row]), float(verdicts.threshold[row])
        threshold = None if np.isnan(limit) else limit
        entries.append(
            Entry(rows["id"][row].as_py(), rows["source"][row].as_py(), lang, rule, value, threshold, detail, text)
        )
    audit.add("document", entries)


# --- duplicates --------------------------------------------------------------------------------------------------


def drop_duplicates(
    step: str, settings: CorpusSettings, draft: pa.Table, duplicates: Duplicates, report: Report, audit: Audit
) -> Mask:
    """Which documents of the draft stay; the others go to the audit, naming the document they repeat."""
    alive: Mask = duplicates.of < 0
    for start, rows in _batches(draft):
        entries = []
        for place in np.flatnonzero(~alive[start : start + len(rows)]).tolist():
            row = start + place
            rule = "near_duplicate" if duplicates.near[row] else "exact_duplicate"
            original = draft["id"][int(duplicates.of[row])].as_py()
            limit = settings.dedup.min_similarity if duplicates.near[row] else 1.0
            value = float(duplicates.similarity[row])
            entries.append(_entry(rows, place, rule, value, limit, f"repeats {original}"))
        audit.add("document", entries)
        stay = rows.filter(pa.array(alive[start : start + len(rows)]))
        report.step(step, amount(rows["text"]), amount(stay["text"]))
    return alive


# --- lines -------------------------------------------------------------------------------------------------------


def drop_lines(
    settings: CorpusSettings,
    draft: pa.Table,
    alive: Mask,
    found: Signatures,
    output: Path,
    report: Report,
    audit: Audit,
) -> Signatures:
    """Remove frequent lines from the documents that are alive and write these documents to `output`.

    Close copies of a document do not count: a text that was copied often must not lose its lines.
    """
    counts = LineCounts()
    counted = alive & ~close_copies(found, settings.dedup)
    for start, rows in _batches(draft):
        stay = rows.filter(pa.array(counted[start : start + len(rows)]))
        counts.add(_flat_keys(stay), _offsets(stay))
    frequent = counts.frequent(settings.lines)
    table = np.array(sorted(frequent), np.uint64)

    described: list[Signatures] = []
    with pa.OSFile(str(output), "wb") as sink, pa.ipc.new_file(sink, DRAFT) as writer:
        for start, rows in _batches(draft):
            here = np.flatnonzero(alive[start : start + len(rows)])
            stay, signs = rows.take(pa.array(here)), found.take(here + start)
            before = amount(stay["text"])
            hits = segment_sums(np.isin(_flat_keys(stay), table), _offsets(stay))
            if hits.any():
                stay, signs = _clean_batch(settings, stay, signs, np.flatnonzero(hits), frequent, audit)
            report.step("lines", before, amount(stay["text"]))
            writer.write_batch(stay)
            described.append(signs)
    return _joined(described, settings)


def _clean_batch(
    settings: CorpusSettings,
    rows: pa.RecordBatch,
    signs: Signatures,
    affected: I64,
    frequent: dict[int, tuple[str, int, int]],
    audit: Audit,
) -> tuple[pa.RecordBatch, Signatures]:
    """Rewrite the affected documents; those left without text go to the audit as they were."""
    touched = rows.take(pa.array(affected))
    texts, removed = remove_lines(touched["text"], settings.lines, frequent)
    flat = flatten(texts)
    tokens = tokenize(flat)
    left = np.diff(tokens.offsets)
    limits = np.array([rules_for(settings, lang).min_tokens or 0 for lang in touched["lang"].to_pylist()])
    emptied = left < np.maximum(limits, 1)
    audit.add(
        "document",
        [
            _entry(
                touched,
                place,
                "emptied",
                float(left[place]),
                float(limits[place]),
                "tokens left without menu and boilerplate lines",
            )
            for place in np.flatnonzero(emptied).tolist()
        ],
    )
    audit.add("line", [_line_entry(touched, line) for line in removed if not emptied[line.document]])

    all_texts = rows["text"].to_pylist()
    for place, text in zip(affected.tolist(), texts.to_pylist(), strict=True):
        all_texts[place] = text
    rows = rows.set_column(rows.schema.get_field_index("text"), DRAFT.field("text"), pa.array(all_texts, pa.string()))
    signs = signs.replace(affected, signatures(tokens, settings.dedup))
    stay = np.ones(len(rows), bool)
    stay[affected[emptied]] = False
    return rows.filter(pa.array(stay)), signs.take(np.flatnonzero(stay))


def _line_entry(rows: pa.RecordBatch, line: Removed) -> Entry:
    key = key_of(line.rule, "")
    detail = f"in {line.documents} documents; {key} = {line.limit}"
    entry = _entry(rows, line.document, line.rule, float(line.documents), float(line.limit), detail)
    entry.text = line.text
    return entry


def _flat_keys(rows: pa.RecordBatch) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.asarray(rows["lines"].flatten())


def _offsets(rows: pa.RecordBatch) -> I64:
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.asarray(pc.list_value_length(rows["lines"])), out=offsets[1:])
    return offsets


# --- write -------------------------------------------------------------------------------------------------------


def write(settings: CorpusSettings, draft: pa.Table, alive: Mask, output: Path, report: Report) -> None:
    """Write the documents that are alive as train/ and heldout/."""
    heldout = _heldout(settings, draft, alive)
    with Shards(output / "train", DOCUMENT) as train, Shards(output / "heldout", DOCUMENT) as held:
        for start, rows in _batches(draft):
            here, apart = alive[start : start + len(rows)], heldout[start : start + len(rows)]
            for name, shards, which in (("train", train, here & ~apart), ("heldout", held, here & apart)):
                chosen = rows.filter(pa.array(which))
                columns = [
                    chosen[field.name] if field.name != "quality" else pa.nulls(len(chosen), field.type)
                    for field in DOCUMENT
                ]
                shards.add(pa.RecordBatch.from_arrays(columns, schema=DOCUMENT))
                report.split(name, amount(chosen["text"]))
                report.came_out(chosen["source"], chosen["lang"], chosen["text"])


def _heldout(settings: CorpusSettings, draft: pa.Table, alive: Mask) -> Mask:
    """A share of the documents by the hash of their ids; at least one where there are 20 or more."""
    heldout = np.zeros(len(alive), bool)
    rows = np.flatnonzero(alive)
    if not settings.heldout_fraction:
        return heldout
    ids = draft["id"].take(pa.array(rows)).to_pylist()
    digests = [hashlib.blake2b(id.encode(), digest_size=8).digest() for id in ids]
    places = np.frombuffer(b"".join(digests), ">u8") / 2.0**64
    chosen = places < settings.heldout_fraction
    if not chosen.any() and len(rows) >= MIN_DOCUMENTS_FOR_HELDOUT:
        chosen[places.argmin()] = True
    if len(rows) and chosen.all():
        chosen[places.argmax()] = False
    heldout[rows[chosen]] = True
    return heldout


# --- shared ------------------------------------------------------------------------------------------------------


def _batches(draft: pa.Table) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of a draft and the row each starts at."""
    start = 0
    for rows in draft.to_batches():
        yield start, rows
        start += len(rows)


def _entry(rows: pa.RecordBatch, place: int, rule: str, value: float, threshold: float, detail: str) -> Entry:
    id, source, lang, text = (rows[name][place].as_py() for name in ("id", "source", "lang", "text"))
    return Entry(id, source, lang, rule, value, threshold, detail, text)


def _joined(described: list[Signatures], settings: CorpusSettings) -> Signatures:
    width = settings.dedup.bands * settings.dedup.rows
    parts = described or [Signatures(np.zeros(0, np.uint64), np.zeros((0, width), np.uint32), np.zeros(0, bool))]
    return Signatures(
        np.concatenate([part.exact for part in parts]),
        np.concatenate([part.minhash for part in parts]),
        np.concatenate([part.has_shingles for part in parts]),
    )
