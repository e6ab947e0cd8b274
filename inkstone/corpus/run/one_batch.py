"""One batch through everything that needs nothing but the batch, as rows, audit entries and figures.

`clean` is a pure function, so it runs wherever the batch is: in this process, in a pool, on a cluster. What needs the
whole corpus (duplicates, shared lines and sentences, quality quantiles) is in the passes.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from inkstone.corpus.judge.kernel import Flat, Mask, Tokens
from inkstone.corpus.judge.operators import Operated, operate
from inkstone.corpus.judge.resources import Models
from inkstone.corpus.judge.rules import key_of
from inkstone.corpus.read.readers import Batch
from inkstone.corpus.run.audit import Entry, Level
from inkstone.corpus.run.figures import Figures
from inkstone.corpus.run.parquet_shards import DOCUMENT
from inkstone.corpus.settings import CorpusSettings


@dataclass(frozen=True)
class Cleaned:
    """All documents of a batch after repair, which of them stay, and what was removed and counted."""

    rows: pa.RecordBatch  # DOCUMENT columns
    keep: Mask
    flat: Flat  # of rows["text"]
    tokens: Tokens
    removed: list[Entry]
    figures: Figures = field(default_factory=Figures)


def clean(batch: Batch, settings: CorpusSettings, models: Models) -> Cleaned:
    """Repair and judge the documents of a batch."""
    done = operate(batch, settings, models)
    verdicts = done.verdicts
    keep = np.array([rule == "" for rule in verdicts.rule], bool)
    columns = {
        "id": batch.ids, "text": done.texts, "source": batch.sources, "lang": verdicts.lang, "meta": done.metas,
        "quality": pa.nulls(len(keep), pa.float32()) if done.quality is None else done.quality.astype(np.float32),
    }  # fmt: skip
    rows = pa.RecordBatch.from_pydict(columns, DOCUMENT)
    raw = pa.array(batch.texts, pa.string())
    figures = Figures(done.numbers, rewrites=done.rewrites)
    figures.flows((("read", "in"), ("read", "out"), ("repair", "in")), rows, raw)
    figures.flows((("repair", "out"), ("rules", "in")), rows, done.texts)
    figures.flow("rules", "out", rows.filter(pa.array(keep)))
    figures.quality(rows.filter(pa.array(~keep)), "removed")
    return Cleaned(rows, keep, done.flat, done.tokens, _removed(rows, done, keep, settings), figures)


def _removed(rows: pa.RecordBatch, done: Operated, keep: Mask, settings: CorpusSettings) -> list[Entry]:
    """The audit rows of the documents that go, and of the lines that go from those that stay."""
    verdicts = done.verdicts

    def entry(row: int, level: Level, rule: str, value: float, limit: float, detail: str, text: str) -> Entry:
        threshold = None if np.isnan(limit) else limit
        id, source = rows["id"][row].as_py(), rows["source"][row].as_py()
        return Entry(id, source, verdicts.lang[row], level, rule, value, threshold, detail, text)

    documents = []
    for row in np.flatnonzero(~keep).tolist():
        rule, text = verdicts.rule[row], rows["text"][row].as_py()
        detail = key_of(rule, verdicts.table[row])
        more = done.details.get(row, "")
        if rule == "banned_phrase":
            more = next((p for p in settings.banned_phrases if p.casefold() in text.casefold()), "")
        value, limit = float(verdicts.value[row]), float(verdicts.threshold[row])
        documents.append(entry(row, "document", rule, value, limit, f"{detail}: {more}" if more else detail, text))
    return documents + [entry(x.row, "line", x.rule, x.value, x.threshold, x.detail, x.text) for x in done.lines]
