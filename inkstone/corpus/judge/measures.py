"""What the document rules look at: one number per document and measure, computed for a whole batch at once.

`measure(flat, tokens)` returns float columns by name. Punctuation is counted apart from words, so verse with a mark
after every seventh character measures like prose. `genres` tells verse and code from prose by shape, because limits
for prose would throw both away.
"""

import numpy as np

from inkstone.corpus.judge.kernel import (
    DIGIT,
    F64,
    HAN,
    HANGUL,
    I64,
    KANA,
    LATIN,
    LETTER,
    NEWLINE,
    PUNCTUATION,
    REPLACEMENT,
    SPACE,
    SYMBOL,
    U32,
    U64,
    Flat,
    Mask,
    Tokens,
    code_points,
    member,
    mix,
    ratio,
    segment_sums,
)
from inkstone.corpus.judge.language import language_measures
from inkstone.corpus.judge.phrases import SPAM_PHRASES, phrase_share
from inkstone.corpus.judge.repetition import repetition
from inkstone.corpus.judge.thresholds import REPEATED_SIZES, TOP_SIZES

ELLIPSIS_MIN_LINES = 3
LIST_LINE_TOKENS = 20
CODE_SIGNS = "{}[]<>=_\\$&|#*`/+^~@"
CODE_ENDINGS = "{};\\|=[(<>"
BULLETS = "•‣▪▫■□◆◇●○★☆►▶·-*"
ENDINGS = "。！？．…!?.」』”’》〉）】)]\"'；;:："


def measure(flat: Flat, tokens: Tokens) -> dict[str, F64]:
    """All measures of a batch."""
    counts = flat.class_counts()
    characters = np.diff(flat.starts) - 1
    visible = characters - counts[SPACE] - counts[NEWLINE]
    alphabetic = counts[[HAN, KANA, HANGUL, LATIN, LETTER]].sum(axis=0)
    measures = {
        "characters": characters.astype(float),
        "tokens": np.diff(tokens.offsets).astype(float),
        "symbol_share": ratio(counts[SYMBOL], visible),
        "alphabetic_share": ratio(alphabetic, visible),
        "replacement_share": ratio(counts[REPLACEMENT] + 3 * _wrongly_replaced(flat), characters),
        "digit_share": ratio(counts[DIGIT], visible),
        "sign_share": ratio(_signs(flat), visible),
        "clause_tokens": ratio(np.diff(tokens.offsets), _clauses(flat)),
        "sentence_end": _ends_like_a_sentence(flat).astype(float),
        **language_measures(flat, tokens, counts),
        **_line_measures(flat, tokens, characters),
        **repetition(tokens, TOP_SIZES, REPEATED_SIZES),
    }
    measures["spam_share"] = phrase_share(tokens, SPAM_PHRASES, _long_numbers(flat, tokens), at_least=3)
    return measures


def _signs(flat: Flat) -> I64:
    """Characters that are frequent in code, data, formulas and markup only."""
    return flat.per_document(member(flat.points, code_points(CODE_SIGNS)))


def _clauses(flat: Flat) -> I64:
    """Stretches of text between punctuation marks and line ends."""
    mark = (flat.classes == PUNCTUATION) | (flat.classes == NEWLINE)
    mark[1:] &= ~mark[:-1]
    return flat.per_document(mark)


def _wrongly_replaced(flat: Flat) -> I64:
    """How often 锟斤拷 (two replacement characters read as GBK) stands in each document."""
    points = flat.points
    found = np.zeros(len(points), bool)
    found[:-2] = (points[:-2] == ord("锟")) & (points[1:-1] == ord("斤")) & (points[2:] == ord("拷"))
    return flat.per_document(found)


def _long_numbers(flat: Flat, tokens: Tokens) -> Mask:
    """Tokens with seven digits or more: telephone and account numbers, mostly."""
    long = np.flatnonzero(tokens.ends - tokens.starts >= 7)
    digits = np.flatnonzero(flat.classes == DIGIT)
    count = np.searchsorted(digits, tokens.ends[long]) - np.searchsorted(digits, tokens.starts[long])
    found = np.zeros(len(tokens.hashes), bool)
    found[long[count >= 7]] = True
    return found


def _ends_like_a_sentence(flat: Flat) -> Mask:
    last = flat.points[np.maximum(flat.starts[1:] - 2, 0)]
    return member(last, code_points(ENDINGS))


# --- lines -------------------------------------------------------------------------------------------------------


def line_spans(flat: Flat) -> tuple[I64, I64, I64]:
    """First position and end of every line, and line offsets per document."""
    ends = np.flatnonzero(flat.points == 10)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    return starts, ends, np.searchsorted(starts, flat.starts)


def line_hashes(tokens: Tokens, starts: I64, ends: I64) -> tuple[U64, I64, I64]:
    """Hash of the tokens of every line, its first token and its number of tokens."""
    first, count = line_tokens(tokens, starts, ends)
    return tokens.span_hashes(first, first + count), first, count


def line_tokens(tokens: Tokens, starts: I64, ends: I64) -> tuple[I64, I64]:
    """First token of every line and its number of tokens."""
    first = np.searchsorted(tokens.starts, starts)
    return first, np.searchsorted(tokens.starts, ends) - first


def paragraph_spans(flat: Flat) -> tuple[I64, I64, I64]:
    """The same for paragraphs: runs of lines between blank ones."""
    newline = flat.points == 10
    newline[:-1] &= newline[1:]
    newline[flat.starts[1:] - 1] = True
    ends = np.flatnonzero(newline)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    return starts, ends, np.searchsorted(starts, flat.starts)


def _line_measures(flat: Flat, tokens: Tokens, characters: I64) -> dict[str, F64]:
    starts, ends, offsets = line_spans(flat)
    hashes, _, words = line_hashes(tokens, starts, ends)
    filled = ends > starts
    lines = segment_sums(filled, offsets)
    head = flat.points[_first_visible(flat, starts, ends)]
    tail = flat.points[np.maximum(ends - 1, 0)]
    bullet = filled & member(head, code_points(BULLETS))
    ellipsis = filled & ((tail == ord("…")) | (_ends_with_dots(flat, ends)))
    trailing = segment_sums(ellipsis, offsets)
    ended = filled & member(tail, code_points(ENDINGS))
    code = filled & _code_lines(flat, starts, tail)
    repeated = _later_occurrences(_in_document(hashes, offsets), words > 0)
    again = np.where(repeated, ends - starts, 0)
    p_starts, p_ends, p_offsets = paragraph_spans(flat)
    p_hashes, _, p_words = line_hashes(tokens, p_starts, p_ends)
    p_again = np.where(_later_occurrences(_in_document(p_hashes, p_offsets), p_words > 0), p_ends - p_starts, 0)
    return {
        "lines": lines.astype(float),
        "newline_share": ratio(lines - 1, np.diff(tokens.offsets)),
        "line_end_share": ratio(segment_sums(ended, offsets), lines),
        "code_line_share": ratio(segment_sums(code, offsets), lines),
        "repeated_line_count_share": ratio(segment_sums(repeated, offsets), lines),
        "repeated_paragraph_share": ratio(segment_sums(p_again, p_offsets), characters),
        "bullet_line_share": ratio(segment_sums(bullet, offsets), lines),
        "ellipsis_line_share": ratio(np.where(trailing >= ELLIPSIS_MIN_LINES, trailing, 0), lines),
        "repeated_line_share": ratio(segment_sums(again, offsets), characters),
    }


def _in_document(hashes: U64, offsets: I64) -> U64:
    """Hashes that are equal only inside one document."""
    return hashes ^ np.repeat(mix(np.arange(len(offsets) - 1, dtype=np.uint64)), np.diff(offsets))


def _code_lines(flat: Flat, starts: I64, tail: U32) -> Mask:
    """Lines indented like code, or ending as only code does (`{`, `}`, `;`, `\\`, `|` ...)."""
    first = flat.points[starts]
    second = flat.points[np.minimum(starts + 1, len(flat.points) - 1)]
    indented = (first == 9) | ((first == 32) & (second == 32))
    return indented | member(tail, code_points(CODE_ENDINGS))


def genres(measures: dict[str, F64]) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    """verse (Chinese, short clauses), code (also markup, data), list (short lines: dialogue, quiz), or prose."""
    verse = (measures["han_share"] >= 0.9) & (measures["clause_tokens"] <= 9) & (measures["digit_share"] <= 0.01)
    verse &= (measures["clause_tokens"] >= 3) & (measures["tokens"] <= 40 * measures["lines"])
    verse &= measures["sign_share"] <= 0.01
    signs = measures["sign_share"]
    code = ((measures["code_line_share"] >= 0.25) & (signs >= 0.02)) | (signs >= 0.09)
    short_lines = (measures["lines"] >= 3) & (measures["tokens"] <= LIST_LINE_TOKENS * measures["lines"])
    return np.where(verse, "verse", np.where(code, "code", np.where(short_lines, "list", "prose")))


def _first_visible(flat: Flat, starts: I64, ends: I64) -> I64:
    """First position of each line that is not a space (its end where there is none)."""
    visible = np.flatnonzero(flat.classes != SPACE)
    return np.minimum(visible[np.searchsorted(visible, starts)], ends) if len(visible) else starts


def _ends_with_dots(flat: Flat, ends: I64) -> Mask:
    dots = flat.points == ord(".")
    return dots[np.maximum(ends - 1, 0)] & dots[np.maximum(ends - 2, 0)] & dots[np.maximum(ends - 3, 0)]


def _later_occurrences(keys: U64, counted: Mask) -> Mask:
    """Which counted entries equal an earlier counted one."""
    later = np.zeros(len(keys), bool)
    index = np.flatnonzero(counted)
    order = index[np.argsort(keys[index], kind="stable")]
    later[order[1:][keys[order[1:]] == keys[order[:-1]]]] = True
    return later
