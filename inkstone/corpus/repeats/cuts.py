"""Documents without some of their parts: new texts, audit entries, and what becomes of those that are left too short.

Two passes take parts out of documents: `rewrite` (lines and sentences) and `write` (repeated runs of tokens). Each says
what it takes out of which document; `cut` does the rest in the same way for both.
"""

import numpy as np
import pyarrow as pa

from inkstone.corpus.judge.kernel import I64
from inkstone.corpus.repeats.spans import tokens_left
from inkstone.corpus.run.audit import PARTS, Entry
from inkstone.corpus.run.figures import EXAMPLES, shortened
from inkstone.corpus.run.parquet_shards import DOCUMENT
from inkstone.corpus.run.tables import TaskWriter
from inkstone.corpus.settings import CorpusSettings


def cut(
    rows: pa.RecordBatch, affected: I64, texts: list[str], cuts: list[list[Entry]], settings: CorpusSettings, why: str,
    out: TaskWriter,
) -> tuple[pa.RecordBatch, I64, I64]:  # fmt: skip
    """The rows with the new `texts` of those in `affected`, which of them stay, and which of those that stay changed.

    One with fewer than `min_tokens` left goes as `emptied`, with the whole of its old text.
    """
    if not len(affected):
        return rows, np.arange(len(rows)), affected
    touched = rows.take(pa.array(affected))
    least, left = least_tokens(touched, settings), tokens_left(texts)
    emptied = left < least
    gone = np.flatnonzero(emptied).tolist()
    out.audit.add([entry(touched, n, "emptied", float(left[n]), float(least[n]), why) for n in gone])
    for n in np.flatnonzero(~emptied).tolist():
        out.audit.add(sorted(cuts[n], key=lambda part: PARTS.index(part.level)))
        if cuts[n] and len(out.figures.rewrites) < EXAMPLES:
            id, before = touched["id"][n].as_py(), touched["text"][n].as_py()
            change = {"before": shortened(before), "after": shortened(texts[n])}
            out.figures.rewrites.append({"id": id, "rule": cuts[n][0].rule, **change})
    every = rows["text"].to_pylist()
    for row, text in zip(affected.tolist(), texts, strict=True):
        every[row] = text
    rows = rows.set_column(rows.schema.get_field_index("text"), DOCUMENT.field("text"), pa.array(every, pa.string()))
    stay = np.ones(len(rows), bool)
    stay[affected[emptied]] = False
    kept = np.flatnonzero(stay)
    return rows.take(pa.array(kept)), kept, np.searchsorted(kept, affected[~emptied])


def least_tokens(rows: pa.RecordBatch, settings: CorpusSettings) -> I64:
    """The fewest tokens that each document may be left with."""
    least = [max(settings.rules.limit(lang, lang, "min_tokens")[0], 1) for lang in rows["lang"].to_pylist()]
    return np.array(least, np.int64)


def entry(rows: pa.RecordBatch, row: int, rule: str, value: float, threshold: float, detail: str) -> Entry:
    """The removal of a document; that of a part has its own `level`, `text` and `position`."""
    id, source, lang, text = (rows[name][row].as_py() for name in ("id", "source", "lang", "text"))
    return Entry(id, source, lang, "document", rule, value, threshold, detail, text)
