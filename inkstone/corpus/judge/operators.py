"""All that can be done to one batch alone, in order: web pages, repair, private data, script, lines, rules, quality.

`operate` is a pure function of the batch, the settings and the models. What needs the whole corpus (duplicates, lines
and sentences that many documents share, quantiles of quality) comes later.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inkstone.corpus.judge.benchmarks import find_contamination
from inkstone.corpus.judge.kernel import (
    F64,
    I64,
    Flat,
    Mask,
    Tokens,
    code_points,
    encode,
    flatten,
    member,
    tokenize,
    without,
)
from inkstone.corpus.judge.measures import line_spans, line_tokens, measure
from inkstone.corpus.judge.phrases import WEB_PHRASES, phrase_cover, phrase_places
from inkstone.corpus.judge.private import mask
from inkstone.corpus.judge.repair import repair, tidy_blank_lines
from inkstone.corpus.judge.resources import Models
from inkstone.corpus.judge.rules import Verdicts, break_rule, judge
from inkstone.corpus.read import web
from inkstone.corpus.read.readers import Batch
from inkstone.corpus.settings import CorpusSettings

WEB_LINE_TOKENS = 24  # a notice is short; a sentence that mentions cookies is not one
CODE_OPENINGS = " \t#/*\"'<>{}()-;%"  # lines that begin so may be code
MAX_REWRITES = 20


@dataclass(frozen=True)
class LineEntry:
    """A line that was removed from a document that stays (or goes for another reason)."""

    row: int
    rule: str
    value: float
    threshold: float
    detail: str
    text: str


@dataclass
class Operated:
    """Documents after all operators, and what was found; verdicts have an empty rule where a document stays."""

    texts: pa.StringArray
    metas: list[str]
    flat: Flat
    tokens: Tokens
    verdicts: Verdicts
    details: dict[int, str] = field(default_factory=dict)  # of single verdicts, e.g. which benchmark item
    quality: F64 | None = None
    lines: list[LineEntry] = field(default_factory=list)
    numbers: Counter[tuple[str, ...]] = field(default_factory=Counter)
    rewrites: list[dict[str, object]] = field(default_factory=list)


def operate(batch: Batch, settings: CorpusSettings, models: Models) -> Operated:
    """Apply all operators to a batch."""
    numbers: Counter[tuple[str, ...]] = Counter()
    raw = pa.array(batch.texts, pa.string())
    texts, metas, unread = _pages(raw, list(batch.metas), settings, numbers)
    texts, repairs = repair(texts)
    numbers.update({("repair", *kind): count for kind, count in repairs.items()})
    masked = mask(texts, settings.pii)
    for kind, places in masked.found.items():
        numbers["count", f"private_{kind}", "documents"] += len(places)
        numbers["count", f"private_{kind}", "pieces"] += places.total()
    texts = _simplified(masked.texts) if settings.to_simplified else masked.texts
    flat = flatten(texts)
    tokens = tokenize(flat)
    lines = _line_rules(flat, tokens, settings, models)
    if lines:
        texts = _without_lines(texts, flat, lines)
        flat = flatten(texts)
        tokens = tokenize(flat)
    measures = measure(flat, tokens)
    verdicts = judge(settings, measures, tokens)
    done = Operated(texts, metas, flat, tokens, verdicts, numbers=numbers, lines=[line for _, _, line in lines])
    done.rewrites = _rewrites(batch.ids, raw, texts)
    nothing = np.zeros(len(texts))
    break_rule(verdicts, "html", unread, nothing, nothing, first=True)
    for row in np.flatnonzero(unread).tolist():
        done.details[row] = "no main text was found in the page" if web.extractor_installed() else web.MISSING
    if settings.pii.drop:
        pieces = masked.per_document().astype(float)
        break_rule(verdicts, "private_data", pieces >= settings.pii.drop, pieces, nothing + settings.pii.drop)
    _word_lists(done, settings, models)
    _contamination(done, settings, models)
    _score(done, settings, models)
    for genre, count in Counter(verdicts.genre).items():
        numbers["count", f"genre_{genre}", "documents"] += count
    return done


# --- text --------------------------------------------------------------------------------------------------------


def _pages(
    texts: pa.StringArray, metas: list[str], settings: CorpusSettings, numbers: Counter[tuple[str, ...]]
) -> tuple[pa.StringArray, list[str], Mask]:
    """Web pages replaced by their main text, and which of them could not be."""
    unread = np.zeros(len(texts), bool)
    found = web.pages(texts) if settings.html != "keep" else []
    if not found:
        return texts, metas, unread
    numbers["count", "html", "pages"] += len(found)
    rows = texts.to_pylist()
    extract = settings.html == "extract" and web.extractor_installed()
    for row in found:
        text, title = web.main_text(rows[row]) if extract else ("", "")
        if text:
            rows[row], metas[row] = text, web.with_page(metas[row], title)
            numbers["count", "html", "extracted"] += 1
        else:
            unread[row] = True
    return pa.array(rows, pa.string()), metas, unread


def _simplified(texts: pa.StringArray) -> pa.StringArray:
    """Traditional characters as simplified ones, phrase by phrase (皇后 stays, 頭髮 is 头发)."""
    from opencc import OpenCC

    converter = OpenCC("t2s")
    return pa.array([converter.convert(text) for text in texts.to_pylist()], pa.string())


def _rewrites(ids: list[str], before: pa.StringArray, after: pa.StringArray) -> list[dict[str, object]]:
    """A few documents that changed, for the report."""
    changed = np.flatnonzero(~np.asarray(pc.equal(before, after)))[:MAX_REWRITES].tolist()
    shown: list[dict[str, object]] = []
    for row in changed:
        old, new = before[row].as_py(), after[row].as_py()
        start = max(_first_difference(old, new) - 40, 0)
        shown.append(
            {"id": ids[row], "rule": "rewritten", "before": old[start : start + 200], "after": new[start : start + 200]}
        )
    return shown


def _first_difference(one: str, other: str) -> int:
    """How many characters two texts have in common from the start."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


# --- lines -------------------------------------------------------------------------------------------------------


def _line_rules(
    flat: Flat, tokens: Tokens, settings: CorpusSettings, models: Models
) -> list[tuple[int, int, LineEntry]]:
    """Lines that go on their own account: notices of the web, and (where asked) lines of low quality."""
    starts, ends, offsets = line_spans(flat)
    first, count = line_tokens(tokens, starts, ends)
    document = np.repeat(np.arange(len(flat)), np.diff(offsets))
    found: list[tuple[int, int, LineEntry]] = []

    def remove(lines: I64, rule: str, values: F64, limit: float, key: str) -> None:
        for line, value in zip(lines.tolist(), values.tolist(), strict=True):
            a, b, row = int(starts[line]), int(ends[line]), int(document[line])
            text = flat.points[a:b].tobytes().decode("utf-32-le")
            found.append((a, b, LineEntry(row, rule, float(value), limit, key, text)))

    if settings.web_lines:
        places = phrase_places(tokens, WEB_PHRASES)
        hit = np.unique(np.searchsorted(first, places, side="right") - 1)
        # Lines without tokens share their first token with the next line; the last of them holds the phrase.
        hit = hit[(count[hit] > 0) & (count[hit] <= WEB_LINE_TOKENS)]
        signs = np.flatnonzero(member(flat.points, code_points("_{}=<>`")))  # of code, wherever in the line
        hit = hit[np.searchsorted(signs, starts[hit]) == np.searchsorted(signs, ends[hit])]
        hit = hit[~member(flat.points[starts[hit]], code_points(CODE_OPENINGS))]
        remove(hit, "web_line", count[hit].astype(float), WEB_LINE_TOKENS, "corpus.web_lines")
    if settings.quality.min_line_score and models.quality:
        long = np.flatnonzero(count >= settings.quality.min_line_tokens)
        score = models.quality.score_spans(tokens, first[long], count[long])
        low = score < settings.quality.min_line_score
        low &= ~np.isin(starts[long], [start for start, _, _ in found])
        limit = settings.quality.min_line_score
        remove(long[low], "low_quality_line", score[low], limit, "corpus.quality.min_line_score")
    return found


def _without_lines(texts: pa.StringArray, flat: Flat, lines: list[tuple[int, int, LineEntry]]) -> pa.StringArray:
    """Texts without the lines; blank lines left at the ends or in a row go with them."""
    drop = np.zeros(len(flat.points), bool)
    touched = set()
    last = set((flat.starts[1:] - 1).tolist())
    for start, end, entry in lines:
        drop[start:end] = True
        touched.add(entry.row)
        if end not in last:
            drop[end] = True  # with its line break, unless that closes the document
    points, starts = without(flat.points, flat.starts, drop)
    rows = encode(points, starts).to_pylist()
    for row in touched:
        rows[row] = tidy_blank_lines(rows[row])
    return pa.array(rows, pa.string())


# --- documents ---------------------------------------------------------------------------------------------------


def _word_lists(done: Operated, settings: CorpusSettings, models: Models) -> None:
    for name, words in models.word_lists.items():
        limits = settings.word_lists[name]
        share, count = phrase_cover(done.tokens, words)
        over = (share > limits.max_share) & (count >= limits.min_count)
        break_rule(done.verdicts, f"words_{name}", over, share, np.full(len(share), limits.max_share))


def _contamination(done: Operated, settings: CorpusSettings, models: Models) -> None:
    if not models.benchmarks:
        return
    overlap, item = find_contamination(done.tokens, models.benchmarks)
    limit = np.full(len(item), settings.decontaminate_overlap)
    for row in break_rule(done.verdicts, "contaminated", overlap >= limit, overlap, limit):
        done.details[row] = f"holds {models.benchmarks.names[int(item[row])]}"


def _score(done: Operated, settings: CorpusSettings, models: Models) -> None:
    if not models.quality:
        return
    wanted, size = settings.quality, len(done.texts)
    done.quality = models.quality.score(done.tokens)
    if wanted.min_score:
        limit = np.full(size, wanted.min_score)
        break_rule(done.verdicts, "low_score", done.quality < limit, done.quality, limit)
    if wanted.max_perplexity:
        perplexity = models.quality.perplexity(done.tokens)
        limit = np.full(size, wanted.max_perplexity)
        break_rule(done.verdicts, "high_perplexity", perplexity > limit, perplexity, limit)
