"""Document rules: compare measures with the limits of the document's language and genre.

`judge` gives every document of a batch its language and genre and, where it breaks a rule, the first rule in the order
below with the measured value, the limit and the table that the limit stands in. Nothing is decided here that is not in
the settings.
"""

from dataclasses import dataclass

import numpy as np

from inkstone.corpus.judge.kernel import F64, Mask, Tokens
from inkstone.corpus.judge.language import languages
from inkstone.corpus.judge.measures import genres
from inkstone.corpus.judge.phrases import phrase_count
from inkstone.corpus.judge.thresholds import REPEATED_SIZES, SHORT_TOKENS, TOP_SIZES
from inkstone.corpus.settings import CorpusSettings

# rule: (measure, setting, whether the setting is a minimum)
LIMITS = {
    "replacement_characters": ("replacement_share", "max_replacement_share", False),
    "too_short": ("tokens", "min_tokens", True),
    "too_long": ("tokens", "max_tokens", False),
    "symbols": ("symbol_share", "max_symbol_share", False),
    "spam": ("spam_share", "max_spam_share", False),
    "not_alphabetic": ("alphabetic_share", "min_alphabetic_share", True),
    "repeated_lines": ("repeated_line_share", "max_repeated_line_share", False),
    "repeated_line_count": ("repeated_line_count_share", "max_repeated_line_count_share", False),
    "repeated_paragraphs": ("repeated_paragraph_share", "max_repeated_paragraph_share", False),
    **{f"top_{n}gram": (f"top_{n}gram_share", f"max_top_ngram_share.{n}", False) for n in TOP_SIZES},
    **{f"repeated_{n}gram": (f"repeated_{n}gram_share", f"max_repeated_ngram_share.{n}", False)
       for n in REPEATED_SIZES},
    "bullet_lines": ("bullet_line_share", "max_bullet_line_share", False),
    "ellipsis_lines": ("ellipsis_line_share", "max_ellipsis_line_share", False),
    "line_breaks": ("newline_share", "max_newline_share", False),
    "line_ends": ("line_end_share", "min_line_end_share", True),
    "short_words": ("mean_word_length", "min_word_length", True),
    "long_words": ("mean_word_length", "max_word_length", False),
    "stop_words": ("stop_word_share", "min_stop_word_share", True),
}  # fmt: skip
OFF_AT_ZERO = ("max_tokens", "max_word_length")
FRAGMENT_MAX_LINES = 2  # a longer list or verse need not end like a sentence
POEM_TOKENS = (20, 28)  # four clauses of five or seven characters, written without marks
STOP_WORD_MIN_WORDS = 100  # below that the share of function words says little
# Where a setting outside the language tables decides, the key to relax.
OTHER_KEYS = {
    "language": "languages", "genre": "genres", "banned_phrase": "banned_phrases", "exact_duplicate": "dedup.exact",
    "near_duplicate": "dedup.min_similarity", "emptied": "lines.max_line_documents",
    "boilerplate_line": "lines.max_line_documents", "menu_line": "lines.max_menu_documents",
    "repeated_sentence": "sentences.max_documents", "near_repeated_sentence": "sentences.min_similarity",
    "repeated_substring": "substrings.min_tokens", "contaminated": "decontaminate", "private_data": "pii.drop",
    "low_score": "quality.min_score", "low_quality": "quality.min_quantile",
    "low_quality_line": "quality.min_line_score", "high_perplexity": "quality.max_perplexity", "html": "html",
    "web_line": "web_lines",
}  # fmt: skip
Names = np.ndarray[tuple[int], np.dtype[np.str_]]


@dataclass(frozen=True)
class Verdicts:
    """One entry per document; `rule` is empty where the document stays. `table` names where the limit stands."""

    lang: list[str]
    genre: list[str]
    rule: list[str]
    value: F64
    threshold: F64
    table: list[str]


def judge(settings: CorpusSettings, measures: dict[str, F64], tokens: Tokens) -> Verdicts:
    """Language, genre and first broken rule of every document."""
    lang, genre = languages(measures), genres(measures)
    documents = len(lang)
    zeros = np.zeros(documents)
    tables = ["mixed" if name == "other" else name for name in lang.tolist()]
    verdicts = Verdicts(lang.tolist(), genre.tolist(), [""] * documents, zeros.copy(), zeros.copy(), tables)
    nothing = np.full(documents, np.nan)
    break_rule(verdicts, "language", ~np.isin(lang, settings.languages), measures["han_share"], nothing)
    break_rule(verdicts, "genre", ~np.isin(genre, settings.genres), measures["sign_share"], nothing)
    if settings.banned_phrases:
        found = phrase_count(tokens, tuple(settings.banned_phrases)).astype(float)
        break_rule(verdicts, "banned_phrase", found > 0, found, zeros)
    shape = np.where((genre == "prose") & (measures["tokens"] < SHORT_TOKENS), "short", genre)
    groups = _groups(lang, shape)
    chinese = lang == "zh"
    values = {
        **measures,
        "stop_word_share": np.where(chinese, measures["han_stop_word_share"], measures["stop_word_share"]),
    }
    counted = np.where(chinese, measures["tokens"], measures["latin_words"])
    for rule, (measure, setting, minimum) in LIMITS.items():
        value = values[measure]
        limit = _limits(settings, groups, documents, setting)
        broken = value < limit if minimum else value > limit
        if setting in OFF_AT_ZERO:
            broken &= limit > 0
        elif rule == "stop_words":
            broken &= counted >= STOP_WORD_MIN_WORDS
        for row in break_rule(verdicts, rule, broken, value, limit):
            verdicts.table[row] = settings.rules.limit(verdicts.lang[row], str(shape[row]), setting)[1]
    fragment = _limits(settings, groups, documents, "fragment_tokens")
    cut_off = (measures["sentence_end"] == 0) & (measures["lines"] <= FRAGMENT_MAX_LINES)
    cut_off &= ~((measures["characters"] == measures["tokens"]) & np.isin(measures["tokens"], POEM_TOKENS) & chinese)
    broken = (measures["tokens"] < fragment) & cut_off
    for row in break_rule(verdicts, "fragment", broken, measures["tokens"], fragment):
        verdicts.table[row] = settings.rules.limit(verdicts.lang[row], str(shape[row]), "fragment_tokens")[1]
    return verdicts


def key_of(rule: str, table: str) -> str:
    """The settings key that decides a rule, as written in a recipe; `table` is a language or the table of a verdict."""
    if rule in OTHER_KEYS:
        return f"corpus.{OTHER_KEYS[rule]}"
    if rule.startswith("words_"):
        return f"corpus.word_lists.{rule.removeprefix('words_')}"
    setting = "fragment_tokens" if rule == "fragment" else LIMITS[rule][1]
    return f"corpus.rules.{'mixed' if table == 'other' else table}.{setting}"


def _groups(lang: Names, shape: Names) -> list[tuple[str, str, Mask]]:
    """The documents of each language and shape."""
    pairs = np.char.add(np.char.add(lang, "/"), shape)
    return [(*pair.split("/"), pairs == pair) for pair in np.unique(pairs).tolist()]


def _limits(settings: CorpusSettings, groups: list[tuple[str, str, Mask]], documents: int, setting: str) -> F64:
    limits = np.zeros(documents)
    for lang, shape, members in groups:
        limits[members] = settings.rules.limit(lang, shape, setting)[0]
    return limits


def break_rule(verdicts: Verdicts, rule: str, broken: Mask, value: F64, limit: F64, first: bool = False) -> list[int]:
    """Note the rule for the documents that break it and no rule before it (`first`: or any); returns their rows."""
    rows = [row for row in np.flatnonzero(broken).tolist() if first or not verdicts.rule[row]]
    for row in rows:
        verdicts.rule[row] = rule
        verdicts.value[row] = value[row]
        verdicts.threshold[row] = limit[row]
    return rows
