"""Line rules: lines that many documents share are menus, footers and notices, not text.

A line counts once per document, by the hash of its tokens. Two kinds are removed: a long line in more than
`max_line_documents` documents, and a line that looks like navigation in more than `max_menu_documents`. Titles, names
and refrains are short and stay. Counting happens after duplicate documents are gone, so a text that was copied many
times does not lose its lines.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from inkstone.corpus.kernel import (
    I64,
    SPACE,
    U32,
    U64,
    Flat,
    Mask,
    Tokens,
    code_points,
    encode,
    flatten,
    member,
    segment_sums,
    tokenize,
    without,
)
from inkstone.corpus.measure import line_hashes, line_spans
from inkstone.corpus.phrases import MENU_PHRASES, opens_with
from inkstone.corpus.repair import tidy_blank_lines
from inkstone.corpus.settings import LineRules

_SEPARATORS = "|｜>»›·•→"
_MENU_TOKENS = 40  # a menu is short; a paragraph that mentions one is not
_MENU_ITEM_TOKENS = 6


@dataclass(frozen=True)
class Lines:
    """The lines of a batch that a rule may remove: those long enough, or looking like navigation."""

    hashes: U64
    menu: Mask
    starts: I64
    ends: I64
    offsets: I64  # per document


def candidate_lines(flat: Flat, tokens: Tokens, rules: LineRules) -> Lines:
    """Lines of at least `min_line_tokens` tokens, and lines that look like navigation."""
    starts, ends, offsets = line_spans(flat)
    hashes, first, count = line_hashes(tokens, starts, ends)
    separators = _separators(flat, starts, ends)
    menu = (separators >= 2) & (count > 0) & (count <= _MENU_ITEM_TOKENS * (separators + 1))
    menu |= opens_with(tokens, first, count, MENU_PHRASES)
    menu &= (count <= _MENU_TOKENS) & (flat.points[starts] != ord("|"))  # a row of a table is not a menu
    chosen = menu | (count >= rules.min_line_tokens)
    kept = np.zeros(len(offsets), np.int64)
    np.cumsum(segment_sums(chosen, offsets), out=kept[1:])
    return Lines(hashes[chosen], menu[chosen], starts[chosen], ends[chosen], kept)


def _separators(flat: Flat, starts: I64, ends: I64) -> I64:
    """Separators of every line that stand between spaces, as in `Home | About | Login` (and not in `a >> b`)."""
    found = member(flat.points, code_points(_SEPARATORS))
    found[1:-1] &= (flat.classes[:-2] == SPACE) & (flat.classes[2:] == SPACE)
    places = np.flatnonzero(found)
    return np.searchsorted(places, ends) - np.searchsorted(places, starts)


@dataclass
class LineCounts:
    """In how many documents each line stands. The lowest bit of a key says whether it looks like navigation."""

    keys: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    counts: U32 = field(default_factory=lambda: np.zeros(0, np.uint32))
    _pending: list[U64] = field(default_factory=list)
    _waiting: int = 0

    def add(self, keys: U64, offsets: I64) -> None:
        """Count the lines of a batch, once per document."""
        document = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        order = np.lexsort((keys, document))
        keys, document = keys[order], document[order]
        first = np.ones(len(keys), bool)
        first[1:] = (keys[1:] != keys[:-1]) | (document[1:] != document[:-1])
        self._pending.append(keys[first])
        self._waiting += len(keys)
        if self._waiting > 4_000_000:
            self.settle()

    def settle(self) -> None:
        """Merge what was added into the sorted table."""
        keys = np.concatenate([self.keys, *self._pending])
        counts = np.concatenate([self.counts, np.ones(len(keys) - len(self.keys), np.uint32)])
        self.keys, group = np.unique(keys, return_inverse=True)
        self.counts = np.bincount(group, weights=counts, minlength=len(self.keys)).astype(np.uint32)
        self._pending, self._waiting = [], 0

    def frequent(self, rules: LineRules) -> dict[int, tuple[str, int, int]]:
        """Lines to remove: key to (rule, documents, limit)."""
        self.settle()
        removed: dict[int, tuple[str, int, int]] = {}
        menu = (self.keys & np.uint64(1)).astype(bool)
        for rule, limit, which in (
            ("menu_line", rules.max_menu_documents, menu),
            ("boilerplate_line", rules.max_line_documents, ~menu),
        ):
            if limit:
                for place in np.flatnonzero(which & (self.counts > limit)).tolist():
                    removed[int(self.keys[place])] = (rule, int(self.counts[place]), limit)
        return removed


def line_keys(lines: Lines) -> U64:
    """The key that `LineCounts` counts: the hash, with its lowest bit saying "looks like navigation"."""
    keys: U64 = lines.hashes & ~np.uint64(1) | lines.menu.astype(np.uint64)
    return keys


@dataclass(frozen=True)
class Removed:
    """A removed line: which document of the batch, its text, and why."""

    document: int
    text: str
    rule: str
    documents: int
    limit: int


def remove_lines(
    texts: pa.StringArray, rules: LineRules, frequent: dict[int, tuple[str, int, int]]
) -> tuple[pa.StringArray, list[Removed]]:
    """The texts without their frequent lines, and those lines."""
    flat = flatten(texts)
    lines = candidate_lines(flat, tokenize(flat), rules)
    keys = line_keys(lines)
    hit = np.flatnonzero(np.isin(keys, np.array(sorted(frequent), np.uint64)))
    document = np.searchsorted(lines.offsets, hit, side="right") - 1
    drop = np.zeros(len(flat.points), bool)
    removed = []
    for line, row in zip(hit.tolist(), document.tolist(), strict=True):
        start, end = int(lines.starts[line]), int(lines.ends[line])
        drop[start : end + 1] = True  # with its newline
        text = flat.points[start:end].tobytes().decode("utf-32-le")
        removed.append(Removed(row, text, *frequent[int(keys[line])]))
    drop[flat.starts[1:] - 1] = False  # the closing newline of a document stays
    left = encode(*without(flat.points, flat.starts, drop)).to_pylist()
    return pa.array([tidy_blank_lines(text) for text in left], pa.string()), removed
