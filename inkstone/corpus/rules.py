"""Document rules: compare measures with the limits of the document's language.

`judge` gives every document of a batch its language and, where it breaks a rule, the first rule in the order below
with the measured value and the limit. Nothing is decided here that is not in the settings.
"""

from dataclasses import dataclass

import numpy as np

from inkstone.corpus.kernel import F64, I64, Tokens
from inkstone.corpus.measure import languages
from inkstone.corpus.phrases import phrase_count
from inkstone.corpus.settings import CorpusSettings, LanguageRules

# rule: (measure, setting, whether the setting is a minimum)
LIMITS = {
    "replacement_characters": ("replacement_share", "max_replacement_share", False),
    "too_short": ("tokens", "min_tokens", True),
    "symbols": ("symbol_share", "max_symbol_share", False),
    "not_alphabetic": ("alphabetic_share", "min_alphabetic_share", True),
    "repeated_lines": ("repeated_line_share", "max_repeated_line_share", False),
    "top_2gram": ("top_2gram_share", "max_top_2gram_share", False),
    "top_4gram": ("top_4gram_share", "max_top_4gram_share", False),
    "repeated_5gram": ("repeated_5gram_share", "max_repeated_5gram_share", False),
    "repeated_10gram": ("repeated_10gram_share", "max_repeated_10gram_share", False),
    "bullet_lines": ("bullet_line_share", "max_bullet_line_share", False),
    "ellipsis_lines": ("ellipsis_line_share", "max_ellipsis_line_share", False),
    "spam": ("spam_share", "max_spam_share", False),
    "short_words": ("mean_word_length", "min_word_length", True),
    "long_words": ("mean_word_length", "max_word_length", False),
    "stop_words": ("stop_word_share", "min_stop_word_share", True),
}
FRAGMENT_MAX_LINES = 2  # a longer list or verse need not end like a sentence
STOP_WORD_MIN_WORDS = 100  # below that the share of function words says little
# Where a setting outside the language tables decides, the key to relax.
OTHER_KEYS = {
    "language": "languages",
    "banned_phrase": "banned_phrases",
    "exact_duplicate": "dedup.exact",
    "near_duplicate": "dedup.min_similarity",
    "emptied": "lines.max_line_documents",
    "boilerplate_line": "lines.max_line_documents",
    "menu_line": "lines.max_menu_documents",
}


@dataclass(frozen=True)
class Verdicts:
    """One entry per document; `rule` is empty where the document stays."""

    lang: list[str]
    rule: list[str]
    value: F64
    threshold: F64


def judge(settings: CorpusSettings, measures: dict[str, F64], tokens: Tokens) -> Verdicts:
    """Language and first broken rule of every document."""
    lang = languages(measures)
    verdicts = Verdicts(lang.tolist(), [""] * len(lang), np.zeros(len(lang)), np.zeros(len(lang)))
    _break(verdicts, "language", ~np.isin(lang, settings.languages), measures["han_share"], np.full(len(lang), np.nan))
    if settings.banned_phrases:
        found: I64 = phrase_count(tokens, tuple(settings.banned_phrases))
        _break(verdicts, "banned_phrase", found > 0, found.astype(float), np.zeros(len(lang)))
    for rule, (measure, setting, minimum) in LIMITS.items():
        value, limit = measures[measure], _limits(settings, lang, setting)
        broken = value < limit if minimum else value > limit
        if rule == "long_words":
            broken &= limit > 0
        elif rule == "stop_words":
            broken &= measures["latin_words"] >= STOP_WORD_MIN_WORDS
        _break(verdicts, rule, broken, value, limit)
    fragment = _limits(settings, lang, "fragment_tokens")
    cut_off = (measures["sentence_end"] == 0) & (measures["lines"] <= FRAGMENT_MAX_LINES)
    _break(
        verdicts,
        "fragment",
        (measures["tokens"] < fragment) & cut_off,
        measures["tokens"],
        fragment,
    )
    return verdicts


def key_of(rule: str, lang: str) -> str:
    """The settings key that decides a rule for a language, as written in a recipe."""
    if rule in OTHER_KEYS:
        return f"corpus.{OTHER_KEYS[rule]}"
    setting = "fragment_tokens" if rule == "fragment" else LIMITS[rule][1]
    return f"corpus.rules.{_table(lang)}.{setting}"


def rules_for(settings: CorpusSettings, lang: str) -> LanguageRules:
    """The limits for a language."""
    rules: LanguageRules = getattr(settings.rules, _table(lang))
    return rules


def _table(lang: str) -> str:
    return "mixed" if lang == "other" else lang


def _limits(settings: CorpusSettings, lang: np.ndarray[tuple[int], np.dtype[np.str_]], setting: str) -> F64:
    limits = np.zeros(len(lang))
    for name in ("zh", "en", "mixed", "other"):
        limits[lang == name] = getattr(rules_for(settings, name), setting)
    return limits


def _break(
    verdicts: Verdicts, rule: str, broken: np.ndarray[tuple[int], np.dtype[np.bool_]], value: F64, limit: F64
) -> None:
    for row in np.flatnonzero(broken).tolist():
        if not verdicts.rule[row]:
            verdicts.rule[row] = rule
            verdicts.value[row] = value[row]
            verdicts.threshold[row] = limit[row]
