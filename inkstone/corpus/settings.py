"""Settings of the corpus stage: the `[corpus]` table of a recipe.

Rules are per language (`[corpus.rules.zh]`, `.en`, `.mixed`): each names the measured value it limits, and 0 for a
minimum or 1 for a maximum share switches it off. The defaults were tuned on real Chinese and English text (verse,
novels, encyclopedia, manuals) so that clean text stays; `docs/corpus.md` has the figures.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Language = Literal["zh", "en", "mixed", "other"]


def _share(default: float, of: str) -> float:
    field: float = Field(default, ge=0, le=1, description=of)
    return field


class LanguageRules(BaseModel):
    """Limits for the documents of one language. Shares are between 0 and 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_tokens: int = Field(
        default=12, ge=0, description="fewest tokens (a Han character, or a run of letters or digits)"
    )
    fragment_tokens: int = Field(
        default=30,
        ge=0,
        description="a document with fewer tokens than this and at most two lines must end like a sentence; 0 = off",
    )
    max_symbol_share: float = _share(0.5, "most symbols and markup signs per character that is not a space")
    min_alphabetic_share: float = _share(0.03, "fewest letters and Han characters per character that is not a space")
    max_replacement_share: float = _share(0.002, "most replacement characters (U+FFFD, 锟斤拷) per character")
    max_bullet_line_share: float = _share(0.95, "most lines that start with a bullet sign")
    max_ellipsis_line_share: float = _share(0.3, "most lines that end with an ellipsis")
    max_repeated_line_share: float = _share(0.5, "most characters in lines that occurred before in the document")
    max_top_2gram_share: float = _share(0.4, "most tokens covered by the most frequent pair of tokens")
    max_top_4gram_share: float = _share(0.5, "most tokens covered by the most frequent run of four tokens")
    max_repeated_5gram_share: float = _share(0.75, "most tokens covered by runs of five that occurred before")
    max_repeated_10gram_share: float = _share(0.6, "most tokens covered by runs of ten that occurred before")
    max_spam_share: float = _share(0.04, "most tokens covered by solicitation phrases (at least three of them)")
    min_word_length: float = Field(default=0, ge=0, description="smallest mean length of Latin words, in letters")
    max_word_length: float = Field(
        default=0, ge=0, description="largest mean length of Latin words, in letters; 0 = off"
    )
    min_stop_word_share: float = _share(0, "fewest English function words per Latin word, in documents of 100 or more")


class Rules(BaseModel):
    """Document rules, one set per language. Documents in other languages are removed as a whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    zh: LanguageRules = LanguageRules()
    en: LanguageRules = LanguageRules(
        min_tokens=8, fragment_tokens=20, min_word_length=2.5, max_word_length=10, min_stop_word_share=0.02
    )
    mixed: LanguageRules = LanguageRules()

    @model_validator(mode="before")
    @classmethod
    def _overlay(cls, given: object) -> object:
        """A recipe that sets one limit of a language keeps that language's other defaults."""
        if not isinstance(given, dict):
            return given
        merged = dict(given)
        for name, value in given.items():
            if name in cls.model_fields and isinstance(value, dict):
                merged[name] = {**cls.model_fields[name].default.model_dump(), **value}
        return merged


class LineRules(BaseModel):
    """Removal of lines that many documents share: menus, footers, notices."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_line_documents: int = Field(
        default=100, ge=0, description="a line in more documents than this is removed from all of them; 0 = off"
    )
    min_line_tokens: int = Field(
        default=10,
        ge=1,
        description="shorter lines are not counted (titles, authors, speakers), unless they look like a menu",
    )
    max_menu_documents: int = Field(
        default=3,
        ge=0,
        description="a line that looks like navigation and is in more documents than this is removed; 0 = off",
    )


class DedupSettings(BaseModel):
    """Duplicate documents. The first by id stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exact: bool = Field(default=True, description="remove documents equal but for case, punctuation and spaces")
    near: bool = Field(default=True, description="remove near duplicates (MinHash over token shingles)")
    shingle_tokens: int = Field(default=5, ge=1, le=32, description="tokens per shingle")
    bands: int = Field(default=14, ge=1, le=256, description="bands of the locality-sensitive hash: more find more")
    rows: int = Field(default=8, ge=1, le=64, description="rows per band: more compare fewer unlike documents")
    min_similarity: float = Field(
        default=0.65, ge=0, le=1, description="smallest estimated Jaccard similarity to the document that stays"
    )
    seed: int = Field(default=1, ge=0, description="seed of the hash functions")


class CorpusSettings(BaseModel):
    """The `[corpus]` table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: list[str] = Field(default=["primer:raw"], min_length=1, description="files, folders or globs of raw text")
    text_fields: list[str] = Field(
        default=["text"], min_length=1, description="fields of a row that make up its text, joined by an empty line"
    )
    languages: list[Language] = Field(default=["zh", "en", "mixed"], min_length=1, description="languages to keep")
    rules: Rules = Field(default=Rules(), description="document rules per language")
    banned_phrases: list[str] = Field(
        default=[], description="a document that contains one of these is removed; case-blind"
    )
    lines: LineRules = Field(default=LineRules(), description="line rules")
    dedup: DedupSettings = Field(default=DedupSettings(), description="duplicate documents")
    heldout_fraction: float = Field(
        default=0.01, ge=0, lt=1, description="share of documents kept apart for evaluation"
    )
    max_document_mb: float = Field(
        default=32,
        gt=0,
        le=1024,
        description="a larger document is not read (MB of UTF-8); measuring takes about 60 times its size in memory",
    )

    @model_validator(mode="after")
    def _check(self) -> "CorpusSettings":
        for phrase in self.banned_phrases:
            if not any(char.isalnum() for char in phrase):
                raise ValueError(
                    f"banned_phrases: {phrase!r} has no letter, digit or Han character to match: remove it"
                )
        return self
