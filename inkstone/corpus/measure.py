"""What the document rules look at: one number per document and measure, computed for a whole batch at once.

`measure(flat, tokens)` returns float columns by name. Punctuation is counted apart from words, so verse with a mark
after every seventh character measures like prose. Repetition is counted in tokens, so it means the same in Chinese
and English.
"""

import numpy as np

from inkstone.corpus.kernel import (
    DIGIT,
    F64,
    HAN,
    HANGUL,
    I64,
    KANA,
    LATIN,
    LETTER,
    NEWLINE,
    REPLACEMENT,
    SPACE,
    SYMBOL,
    U64,
    Flat,
    Mask,
    Tokens,
    code_points,
    hash_spans,
    member,
    mix,
    ngram_hashes,
    segment_sums,
    window_positions,
)
from inkstone.corpus.phrases import SPAM_PHRASES, STOP_WORDS, phrase_share, word_hashes

# Fewer than this say nothing: an aphorism or a summary has two.
TOP_MIN_OCCURRENCES = 5
ELLIPSIS_MIN_LINES = 3
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
        "symbol_share": _ratio(counts[SYMBOL], visible),
        "alphabetic_share": _ratio(alphabetic, visible),
        "replacement_share": _ratio(counts[REPLACEMENT] + 3 * _wrongly_replaced(flat), characters),
        "sentence_end": _ends_like_a_sentence(flat).astype(float),
        **_languages(flat, tokens, counts),
        **_line_measures(flat, tokens, characters),
        **_repetition(tokens),
    }
    measures["spam_share"] = phrase_share(tokens, SPAM_PHRASES, _long_numbers(flat, tokens), at_least=3)
    return measures


def _ratio(part: I64 | F64, whole: I64 | F64) -> F64:
    return np.asarray(part / np.maximum(whole, 1), float)


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


# --- language ----------------------------------------------------------------------------------------------------


def _languages(flat: Flat, tokens: Tokens, counts: I64) -> dict[str, F64]:
    """Shares of scripts among words (a Han character is one word), and figures about Latin words."""
    kind = flat.classes[tokens.starts]
    latin = kind == LATIN
    words = segment_sums(latin, tokens.offsets)
    lengths = np.where(latin, tokens.ends - tokens.starts, 0)
    other = segment_sums((kind == LETTER) | (kind == HANGUL), tokens.offsets) + counts[KANA]
    total = counts[HAN] + words + other
    stop = latin & member(tokens.hashes, word_hashes(STOP_WORDS))
    return {
        "han_share": _ratio(counts[HAN], total),
        "kana_share": _ratio(counts[KANA], counts[HAN] + counts[KANA]),
        "other_script_share": _ratio(other, total),
        "latin_words": words.astype(float),
        "mean_word_length": _ratio(segment_sums(lengths, tokens.offsets), words),
        "stop_word_share": _ratio(segment_sums(stop, tokens.offsets), words),
    }


def languages(measures: dict[str, F64]) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    """zh, en, mixed or other, by the script of the words. Kana makes Chinese characters Japanese."""
    han, foreign = measures["han_share"], measures["other_script_share"]
    lang = np.where(han >= 0.5, "zh", np.where(han > 0.1, "mixed", "en"))
    no_words = (measures["latin_words"] == 0) & (han == 0)
    return np.where((foreign > 0.3) | (measures["kana_share"] > 0.1) | no_words, "other", lang)


# --- lines -------------------------------------------------------------------------------------------------------


def line_spans(flat: Flat) -> tuple[I64, I64, I64]:
    """First position and end of every line, and line offsets per document."""
    ends = np.flatnonzero(flat.points == 10)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    return starts, ends, np.searchsorted(starts, flat.starts)


def line_hashes(tokens: Tokens, starts: I64, ends: I64) -> tuple[U64, I64, I64]:
    """Hash of the tokens of every line, its first token and its number of tokens."""
    first = np.searchsorted(tokens.starts, starts)
    last = np.searchsorted(tokens.starts, ends)
    return hash_spans(tokens.hashes, first, last), first, last - first


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
    document = np.repeat(np.arange(len(flat)), np.diff(offsets))
    repeated = _later_occurrences(hashes ^ mix(document.astype(np.uint64)), words > 0)
    return {
        "lines": lines.astype(float),
        "bullet_line_share": _ratio(segment_sums(bullet, offsets), lines),
        "ellipsis_line_share": _ratio(np.where(trailing >= ELLIPSIS_MIN_LINES, trailing, 0), lines),
        "repeated_line_share": _ratio(segment_sums(np.where(repeated, ends - starts, 0), offsets), characters),
    }


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


# --- repetition --------------------------------------------------------------------------------------------------


def _repetition(tokens: Tokens) -> dict[str, F64]:
    total = np.diff(tokens.offsets)
    measures: dict[str, F64] = {}
    for n in (2, 4, 5, 10):
        position, run = _sorted_ngrams(tokens, n)
        if n < 5:
            top = _most_frequent(tokens, position, run)
            measures[f"top_{n}gram_share"] = np.minimum(
                _ratio(np.where(top >= TOP_MIN_OCCURRENCES, top * n, 0), total), 1
            )
        else:
            later = np.ones(len(position), bool)
            later[run] = False
            measures[f"repeated_{n}gram_share"] = _ratio(_covered(tokens, position[later], n), total)
    return measures


def _sorted_ngrams(tokens: Tokens, n: int) -> tuple[I64, I64]:
    """Positions of all n-grams sorted by (document, n-gram), and where each run of equal ones begins.

    Hash and position are packed into one integer, because sorting values is much faster than sorting an index.
    """
    keys, offsets = ngram_hashes(tokens, n)
    position = window_positions(tokens.offsets, n)
    keys ^= np.repeat(mix(np.arange(len(offsets) - 1, dtype=np.uint64)), np.diff(offsets))
    bits = np.uint64(max(1, len(tokens.hashes).bit_length()))
    keys >>= bits
    keys <<= bits
    keys |= position.astype(np.uint64)
    keys.sort()
    run = np.append(True, (keys[1:] ^ keys[:-1]) >> bits != 0)[: len(keys)]
    keys &= (np.uint64(1) << bits) - np.uint64(1)
    return keys.astype(np.int64), np.flatnonzero(run)


def _most_frequent(tokens: Tokens, position: I64, run: I64) -> I64:
    """Occurrences of the most frequent n-gram of each document."""
    top = np.zeros(len(tokens.offsets) - 1, np.int64)
    if len(run):
        length = np.diff(run, append=len(position))
        often = length > 1
        document = np.searchsorted(tokens.offsets, position[run[often]], side="right") - 1
        np.maximum.at(top, document, length[often])
    return top


def _covered(tokens: Tokens, position: I64, n: int) -> I64:
    """Tokens of each document that lie in one of the n-grams at `position`."""
    edges = np.zeros(len(tokens.hashes) + n + 1, np.int32)
    np.add.at(edges, position, 1)
    np.add.at(edges, position + n, -1)
    return segment_sums(np.cumsum(edges[: len(tokens.hashes)]) > 0, tokens.offsets)
