"""One batch through the rules that need nothing but the batch: repair, language, document rules.

`clean` is a pure function, so it runs wherever the batch is: in this process, in a pool, on a cluster. What needs the
whole corpus (duplicates, shared lines and sentences, quality quantiles) is in the passes.
"""

from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa

from inkstone.corpus.audit import Entry, Level
from inkstone.corpus.figures import Figures
from inkstone.corpus.kernel import Flat, Mask, Tokens, flatten, tokenize
from inkstone.corpus.measure import measure
from inkstone.corpus.readers import Batch
from inkstone.corpus.repair import repair
from inkstone.corpus.rules import Verdicts, judge, key_of
from inkstone.corpus.settings import CorpusSettings
from inkstone.corpus.shards import DOCUMENT


@dataclass(frozen=True)
class Cleaned:
    """All documents of a batch after repair, which of them stay, and what was removed and counted."""

    rows: pa.RecordBatch  # DOCUMENT columns
    keep: Mask
    flat: Flat  # of rows["text"]
    tokens: Tokens
    removed: list[tuple[Level, list[Entry]]]
    figures: Figures = field(default_factory=Figures)


def clean(batch: Batch, settings: CorpusSettings) -> Cleaned:
    """Repair and judge the documents of a batch."""
    raw = pa.array(batch.texts, pa.string())
    texts, repairs = repair(raw)
    flat = flatten(texts)
    tokens = tokenize(flat)
    verdicts = judge(settings, measure(flat, tokens), tokens)
    keep = np.array([rule == "" for rule in verdicts.rule], bool)
    columns = {"id": batch.ids, "text": texts, "source": batch.sources, "lang": verdicts.lang, "meta": batch.metas}
    quality = pa.nulls(len(texts), pa.float32())
    rows = pa.RecordBatch.from_pydict({**columns, "quality": quality}, DOCUMENT)
    figures = Figures()
    figures.flow("read", "in", rows, raw)
    figures.flow("read", "out", rows, raw)
    figures.flow("repair", "in", rows, raw)
    figures.flow("repair", "out", rows)
    figures.flow("rules", "in", rows)
    figures.flow("rules", "out", rows.filter(pa.array(keep)))
    for name, done in repairs.items():
        for unit, value in asdict(done).items():
            figures.numbers["repair", name, unit] += value
    return Cleaned(rows, keep, flat, tokens, [("document", _entries(rows, verdicts, keep, settings))], figures)


def _entries(rows: pa.RecordBatch, verdicts: Verdicts, keep: Mask, settings: CorpusSettings) -> list[Entry]:
    """The audit rows of the documents that go."""
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
    return entries
