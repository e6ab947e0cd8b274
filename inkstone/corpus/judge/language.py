"""Which language a document is in: by script first, and for Latin script by function words.

Scripts decide between Chinese and the rest (a Han character is one word; kana makes Chinese characters Japanese).
Latin letters alone do not make English: a document counts as another language when the function words of one of the
languages below are clearly more frequent than those of English, or when many of its letters carry accents. No model
and no download; code and short texts, which have few function words of any language, count as English.
"""

from functools import cache

import numpy as np

from inkstone.corpus.judge.kernel import (
    F64,
    HAN,
    HANGUL,
    I64,
    KANA,
    LATIN,
    LETTER,
    U64,
    Flat,
    Tokens,
    member,
    ratio,
    segment_sums,
)
from inkstone.corpus.judge.phrases import STOP_CHARACTERS, STOP_WORDS, WORDS, word_hashes

FOREIGN_WORDS: dict[str, str] = WORDS["foreign"]
ENGLISH_TOO = frozenset(WORDS["english_too"].split())
MIN_WORDS = 10  # fewer words say too little
FOREIGN_MIN_COUNT = 4
FOREIGN_MIN_SHARE = 0.08
ACCENTED_SHARE = 0.06
JAPANESE_MIN_SHARE = 0.25  # a page with fewer such words names something in Japanese
# Japanese is at least half kana, and its Chinese characters are seldom those that hold a Chinese sentence together.
QUOTED_MAX_KANA, QUOTING_MIN_STOP_WORDS = 0.45, 0.15


def language_measures(flat: Flat, tokens: Tokens, counts: I64) -> dict[str, F64]:
    """Shares of scripts among words, and figures about Latin words."""
    kind = flat.classes[tokens.starts]
    latin = kind == LATIN
    words = segment_sums(latin, tokens.offsets)
    lengths = np.where(latin, tokens.ends - tokens.starts, 0)
    other = segment_sums((kind == LETTER) | (kind == HANGUL), tokens.offsets) + counts[KANA]
    total = counts[HAN] + words + other
    here = np.flatnonzero(latin)
    hashes = tokens.hashes[here]
    ends = np.searchsorted(here, tokens.offsets)
    english = segment_sums(member(hashes, word_hashes(STOP_WORDS)), ends)
    chinese = (kind == HAN) & member(tokens.hashes, word_hashes(STOP_CHARACTERS))
    foreign = _foreign(hashes, ends)
    accented = segment_sums((flat.classes == LATIN) & (flat.points > 0x7F), flat.starts)
    return {
        "han_share": ratio(counts[HAN], total),
        "kana_share": ratio(counts[KANA], counts[HAN] + counts[KANA]),
        "other_script_share": ratio(other, total),
        "latin_words": words.astype(float),
        "mean_word_length": ratio(segment_sums(lengths, tokens.offsets), words),
        "stop_word_share": ratio(english, words),
        "han_stop_word_share": ratio(segment_sums(chinese, tokens.offsets), counts[HAN]),
        "foreign_word_share": ratio(np.where(foreign >= FOREIGN_MIN_COUNT, foreign, 0), words),
        "accented_share": ratio(accented, counts[LATIN]),
    }


def languages(measures: dict[str, F64]) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    """zh, en, mixed or other."""
    han, foreign = measures["han_share"], measures["other_script_share"]
    lang = np.where(han >= 0.5, "zh", np.where(han > 0.1, "mixed", "en"))
    no_words = (measures["latin_words"] == 0) & (han == 0)
    english, words = measures["stop_word_share"], measures["foreign_word_share"]
    not_english = (words >= FOREIGN_MIN_SHARE) & (words > english)
    not_english |= (measures["accented_share"] >= ACCENTED_SHARE) & (english < 0.15)
    not_english &= (measures["latin_words"] >= MIN_WORDS) & (han <= 0.1)
    kana = measures["kana_share"]
    quoting = (kana < QUOTED_MAX_KANA) & (measures["han_stop_word_share"] >= QUOTING_MIN_STOP_WORDS)
    foreign = np.where(quoting, foreign - han * kana / (1 - np.minimum(kana, 0.9)), foreign)
    japanese = (kana > 0.1) & (han + foreign > JAPANESE_MIN_SHARE) & ~quoting
    return np.where((foreign > 0.3) | japanese | no_words | not_english, "other", lang)


def _foreign(hashes: U64, ends: I64) -> I64:
    """Function words of the foreign language that has most of them, per document."""
    table, owners = _foreign_table()
    found = np.flatnonzero(member(hashes, table))
    place = np.searchsorted(table, hashes[found])
    most = np.zeros(len(ends) - 1, np.int64)
    for bit in range(len(FOREIGN_WORDS)):
        has = (owners[place] >> np.uint64(bit)) & np.uint64(1) == 1
        np.maximum(most, np.diff(np.searchsorted(found[has], ends)), out=most)
    return most


@cache
def _foreign_table() -> tuple[U64, U64]:
    """Sorted hashes of all foreign function words, and a bit for each language that has the word."""
    owners: dict[int, int] = {}
    for bit, words in enumerate(FOREIGN_WORDS.values()):
        for word in word_hashes(
            tuple(word for word in words.split() if len(word) > 1 and word not in {*STOP_WORDS, *ENGLISH_TOO})
        ).tolist():
            owners[word] = owners.get(word, 0) | 1 << bit
    table = np.array(sorted(owners), np.uint64)
    return table, np.array([owners[word] for word in table.tolist()], np.uint64)
