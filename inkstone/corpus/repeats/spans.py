"""Lines and sentences that many documents share: which there are, which go, and texts without them.

A span is known by the hash of its tokens, so case and punctuation do not tell two apart. Lines that look like menus, or
that very many documents share, go from all of them; a repeated sentence stays in its first documents and goes from the
later ones. Titles, names and refrains are short and stay, and no document is emptied of its last sentence.
Counting happens after duplicate documents are gone, so a text that was copied many times does not lose its lines.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from inkstone.corpus.judge.kernel import (
    I64,
    SPACE,
    U64,
    Flat,
    Mask,
    Tokens,
    code_points,
    flatten,
    member,
    run_heads,
    tokenize,
)
from inkstone.corpus.judge.measures import line_hashes, line_spans
from inkstone.corpus.judge.phrases import MENU_PHRASES, opens_with
from inkstone.corpus.settings import LineRules, SentenceRules

# The two lowest bits of a key. NEAR: a sentence that counts as the one whose key has the same other bits (near.py).
LINE, MENU, SENTENCE, NEAR = 0, 1, 2, 3
RULES = {LINE: "boilerplate_line", MENU: "menu_line", SENTENCE: "repeated_sentence", NEAR: "near_repeated_sentence"}
NEAR_BANDS = 8  # band keys of a sentence: more find more
ROW = np.dtype([("key", "<u8"), ("rank", "<i8"), ("start", "<u4")])
DROP = np.dtype([("rank", "<i8"), ("start", "<u4"), ("kind", "u1"), ("documents", "<u4")])
_SEPARATORS = "|｜>»›·•→"
_SENTENCE_ENDS = "。！？!?…；;"
_MENU_TOKENS = 40  # a menu is short; a paragraph that mentions one is not
_MENU_ITEM_TOKENS = 6


@dataclass(frozen=True)
class Spans:
    """Spans of a batch that may go. `starts` and `ends` are positions in the flat batch."""

    keys: U64
    starts: I64
    ends: I64
    documents: I64

    def rows(self, flat: Flat, first_rank: int) -> np.ndarray:
        """As rows for counting; `start` is a position in the document."""
        rows = np.empty(len(self.keys), ROW)
        rows["key"], rows["rank"] = self.keys, self.documents + first_rank
        rows["start"] = self.starts - flat.starts[self.documents]
        return rows


def find_spans(flat: Flat, tokens: Tokens, lines: LineRules, sentences: SentenceRules) -> Spans:
    """Every line and sentence that is long enough, and every line that looks like navigation."""
    parts = []
    if lines.max_line_documents or lines.max_menu_documents:
        parts.append(_lines(flat, tokens, lines))
    if sentences.max_documents:
        parts.append(_sentences(flat, tokens, sentences))
    keys, starts, ends = (
        np.concatenate([np.zeros(0, kind), *(part[n] for part in parts)])
        for n, kind in enumerate((np.uint64, np.int64, np.int64))
    )
    return Spans(keys, starts, ends, np.searchsorted(flat.starts, starts, side="right") - 1)


def _lines(flat: Flat, tokens: Tokens, rules: LineRules) -> tuple[U64, I64, I64]:
    starts, ends, _ = line_spans(flat)
    hashes, first, count = line_hashes(tokens, starts, ends)
    separators = _separators(flat, starts, ends)
    menu = (separators >= 2) & (count > 0) & (count <= _MENU_ITEM_TOKENS * (separators + 1))
    menu |= opens_with(tokens, first, count, MENU_PHRASES)
    menu &= (count <= _MENU_TOKENS) & (flat.points[starts] != ord("|"))  # a row of a table is not a menu
    chosen = menu | (count >= rules.min_line_tokens)
    return _key(hashes, np.where(menu, MENU, LINE))[chosen], starts[chosen], ends[chosen]


def _sentences(flat: Flat, tokens: Tokens, rules: SentenceRules) -> tuple[U64, I64, I64]:
    """A sentence ends after its last closing mark, after a full stop before white space, or with its line."""
    closing = member(flat.points, code_points(_SENTENCE_ENDS))
    closing[:-1] |= (flat.points[:-1] == ord(".")) & (flat.classes[1:] == SPACE)
    closing[:-1] &= ~closing[1:]
    newline = flat.points == 10
    ends = np.flatnonzero(closing | newline) + 1
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    ends = ends - newline[ends - 1] if len(ends) else ends
    hashes, _, count = line_hashes(tokens, starts, ends)
    chosen = count >= rules.min_tokens
    return _key(hashes, np.full(len(hashes), SENTENCE))[chosen], starts[chosen], ends[chosen]


def _key(hashes: U64, kind: I64) -> U64:
    keys: U64 = hashes & ~np.uint64(3) | kind.astype(np.uint64)
    return keys


def _separators(flat: Flat, starts: I64, ends: I64) -> I64:
    """Separators of every line that stand between spaces, as in `Home | About | Login` (and not in `a >> b`)."""
    found = member(flat.points, code_points(_SEPARATORS))
    found[1:-1] &= (flat.classes[:-2] == SPACE) & (flat.classes[2:] == SPACE)
    places = np.flatnonzero(found)
    return np.searchsorted(places, ends) - np.searchsorted(places, starts)


def limits(lines: LineRules, sentences: SentenceRules) -> dict[int, int]:
    """Most documents of each kind; 0 = off."""
    most = sentences.max_documents
    return {LINE: lines.max_line_documents, MENU: lines.max_menu_documents, SENTENCE: most, NEAR: most}


def decide(rows: np.ndarray, counted: Mask, most: dict[int, int]) -> np.ndarray:
    """Which spans go, as DROP rows. `rows` are all spans with certain keys; `counted` excludes those in copies.

    A line of more than `most` documents goes everywhere; a sentence, together with those that are nearly equal to it,
    goes from the documents after the first `most`.
    """
    kind = rows["key"] & np.uint64(3)
    key = rows["key"] ^ (kind == NEAR)  # counted under the key of its sentence
    order = np.lexsort((rows["start"], rows["rank"], key))
    rows, counted, key, kind = rows[order], counted[order], key[order], kind[order].astype(np.uint8)
    rank = rows["rank"]
    new_key, new_document = run_heads(key), run_heads(key, rank)
    place = np.cumsum(new_document & counted)  # counted documents up to here, over all keys
    group = np.cumsum(new_key) - 1
    heads = np.flatnonzero(new_key)
    before = (place[heads] - (new_document & counted)[heads])[group] if len(rows) else place
    total = np.bincount(group, weights=new_document & counted).astype(np.int64)[group] if len(rows) else place
    limit = np.array([most[LINE], most[MENU], most[SENTENCE], most[NEAR]])[kind]
    goes = (limit > 0) & np.where(kind >= SENTENCE, counted & (place - before > limit), total > limit)
    drop = np.empty(int(goes.sum()), DROP)
    drop["rank"], drop["start"], drop["kind"], drop["documents"] = (
        rank[goes],
        rows["start"][goes],
        kind[goes],
        total[goes],
    )
    return drop[np.lexsort((drop["kind"], drop["start"], drop["rank"]))]


@dataclass(frozen=True)
class Removed:
    """A removed part: where it stood in the document, its text, and why (`kind` as in `RULES`)."""

    position: int
    text: str
    kind: int
    documents: int


def without_spans(text: str, spans: list[tuple[int, int, int, int]]) -> tuple[str, list[Removed]]:
    """A text without its spans (start, end, kind, documents), and what exactly was taken out.

    A line goes with its newline, and blank lines that would pile up go too; putting every `Removed` back at its
    position, in order, gives the text again. Overlapping spans are taken once, as the first.
    """
    kept, removed, done, tail = [], [], 0, ""
    for start, end, kind, documents in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start < done:
            continue
        kept.append(text[done:start])
        tail = (tail + kept[-1])[-2:]
        if text[end : end + 1] == "\n" and (not tail or tail[-1] == "\n"):
            end += 1
            while text[end : end + 1] == "\n" and tail in ("", "\n\n"):
                end += 1
        removed.append(Removed(start, text[start:end], kind, documents))
        done = end
    if done >= len(text):  # no newlines at the end: each goes with the part that stood behind it
        for place in reversed(range(len(removed))):
            left, part = kept[place].rstrip("\n"), removed[place]
            moved, kept[place] = kept[place][len(left) :], left
            removed[place] = Removed(part.position - len(moved), moved + part.text, part.kind, part.documents)
            if left:
                break
    return "".join([*kept, text[done:]]), removed


def remove(
    texts: pa.StringArray, drops: np.ndarray, rows: I64, lines: LineRules, sentences: SentenceRules
) -> list[tuple[str, list[Removed]]]:
    """Every text without its spans; `drops` are DROP rows, `rows` says which of `texts` each belongs to."""
    flat = flatten(texts)
    tokens = tokenize(flat)
    spans = find_spans(flat, tokens, lines, sentences)
    ends = {
        (document, start, int(key) & 3): end
        for document, start, key, end in zip(
            spans.documents.tolist(), (spans.starts - flat.starts[spans.documents]).tolist(), spans.keys.tolist(),
            (spans.ends - flat.starts[spans.documents]).tolist(), strict=True,
        )
    }  # fmt: skip
    asked: dict[int, list[tuple[int, int, int, int]]] = {}
    for row, drop in zip(rows.tolist(), drops.tolist(), strict=True):
        _, start, kind, documents = drop
        asked.setdefault(row, []).append((start, ends[row, start, min(kind, SENTENCE)], kind, documents))
    return [without_spans(text, asked.get(row, [])) for row, text in enumerate(texts.to_pylist())]


def tokens_left(texts: list[str]) -> I64:
    """Tokens of every text."""
    return np.diff(tokenize(flatten(pa.array(texts, pa.string()))).offsets)
