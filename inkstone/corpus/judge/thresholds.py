"""The limits of the document rules as settings: `[corpus.rules]` over the defaults in `thresholds.toml`.

Each document is judged by the table of its language; the tables verse, code, list and short change single limits for
documents of that shape.
"""

import tomllib
from functools import cache, partial
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, Field, model_validator

TOP_SIZES = (2, 3, 4, 5, 6)
REPEATED_SIZES = (5, 6, 7, 8, 9, 10, 11, 13, 14, 16)
SHORT_TOKENS = 80


@cache
def _defaults() -> dict[str, dict[str, object]]:
    return tomllib.loads((files("inkstone.corpus.judge") / "thresholds.toml").read_text("utf-8"))


def _number(description: str, most: float | None = None) -> Any:
    return Field(default=None, ge=0, le=most, description=description)


_share = partial(_number, most=1)


class Limits(BaseModel, extra="forbid", frozen=True):
    """Limits that a table names; the others are the language's (in a genre) or the defaults."""

    min_tokens: int | None = _number("fewest tokens (a Han character, or a run of letters or digits)")
    max_tokens: int | None = _number("most tokens; 0 = off")
    fragment_tokens: int | None = _number(
        "a document with fewer tokens than this and at most two lines must end like a sentence; 0 = off"
    )
    max_symbol_share: float | None = _share("most symbols and markup signs per character that is not a space")
    min_alphabetic_share: float | None = _share("fewest letters and Han characters per character that is not a space")
    max_replacement_share: float | None = _share("most replacement characters (U+FFFD, 锟斤拷) per character")
    max_bullet_line_share: float | None = _share("most lines that start with a bullet sign")
    max_ellipsis_line_share: float | None = _share("most lines that end with an ellipsis")
    max_repeated_line_share: float | None = _share("most characters in lines that occurred before in the document")
    max_repeated_line_count_share: float | None = _share("most lines that occurred before in the document")
    max_repeated_paragraph_share: float | None = _share(
        "most characters in paragraphs that occurred before in the document"
    )
    max_newline_share: float | None = _share("most line breaks per token")
    min_line_end_share: float | None = _share("fewest lines that end like a sentence")
    max_spam_share: float | None = _share("most tokens covered by solicitation phrases (at least three of them)")
    min_word_length: float | None = _number("smallest mean length of Latin words, in letters")
    max_word_length: float | None = _number("largest mean length of Latin words, in letters; 0 = off")
    min_stop_word_share: float | None = _share("fewest function words per word, in documents of 100 words or more")
    max_top_ngram_share: dict[int, float] = Field(
        default={}, description="most tokens covered by the most frequent run of N tokens, N from 2 to 6"
    )
    max_repeated_ngram_share: dict[int, float] = Field(
        default={}, description="most tokens covered by runs of N that occurred before, N = 5-11, 13, 14 or 16"
    )

    @model_validator(mode="after")
    def _known_sizes(self) -> "Limits":
        for name, given, known in (
            ("max_top_ngram_share", self.max_top_ngram_share, TOP_SIZES),
            ("max_repeated_ngram_share", self.max_repeated_ngram_share, REPEATED_SIZES),
        ):
            for size, share in given.items():
                if size not in known or not 0 <= share <= 1:
                    sizes = ", ".join(map(str, known))
                    raise ValueError(f"{name}: {size} = {share}: the sizes are {sizes}, the shares between 0 and 1")
        return self


def _table(name: str) -> Limits:
    return Limits.model_validate(_defaults()[name])


class Rules(BaseModel, extra="forbid", frozen=True):
    """Document rules, one table per language and genre. Documents in other languages are removed as a whole."""

    zh: Limits = Field(default=_table("zh"), description="Chinese")
    en: Limits = Field(default=_table("en"), description="English")
    mixed: Limits = Field(default=_table("mixed"), description="both in one document")
    verse: Limits = Field(default=_table("verse"), description="over the language's: Chinese in short clauses")
    code: Limits = Field(default=_table("code"), description="over the language's: code, markup, formulas, data")
    list: Limits = Field(default=_table("list"), description="over the language's: short lines, as in a dialogue")
    short: Limits = Field(default=_table("short"), description="over the language's: prose of fewer than 80 tokens")

    @model_validator(mode="before")
    @classmethod
    def _overlay(cls, given: object) -> object:
        """A recipe that sets one limit keeps the other defaults of its table."""
        if not isinstance(given, dict):
            return given
        return {
            name: _merged(_defaults().get(name, {}), value) if isinstance(value, dict) else value
            for name, value in given.items()
        }

    def limit(self, lang: str, genre: str, setting: str) -> tuple[float, str]:
        """The limit for a document, and the table that it stands in. `setting.N` names the limit of n-gram size N."""
        table = "mixed" if lang == "other" else lang
        for name in (genre, table):
            found = _look_up(getattr(self, name), setting) if name in type(self).model_fields else None
            if found is not None:
                return found, name
        return (0.0 if setting.startswith("min_") else _NO_LIMIT), table


_NO_LIMIT = float("inf")


def _look_up(limits: Limits, setting: str) -> float | None:
    name, _, size = setting.partition(".")
    value = getattr(limits, name)
    return value.get(int(size)) if size else value


def _merged(default: dict[str, object], given: dict[str, object]) -> dict[str, object]:
    merged = dict(default)
    for name, value in given.items():
        old = merged.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            value = {**old, **{str(size): share for size, share in value.items()}}
        merged[name] = value
    return merged
