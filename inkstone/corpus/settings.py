"""Settings of the corpus stage: the `[corpus]` table of a recipe.

The limits of the document rules (`[corpus.rules.zh]` ...) are in `thresholds.py` and `thresholds.toml`.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inkstone.corpus.judge.operator_settings import PrivateSettings, QualitySettings, WordList
from inkstone.corpus.judge.thresholds import Rules
from inkstone.stage import Machine

Language = Literal["zh", "en", "mixed", "other"]
Genre = Literal["prose", "verse", "code", "list"]


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


class SentenceRules(BaseModel):
    """Removal of sentences that many documents repeat: quotations, slogans, disclaimers inside paragraphs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_documents: int = Field(
        default=30,
        ge=0,
        description="a sentence stays in its first so many documents and goes from the later ones; 0 = off",
    )
    min_tokens: int = Field(default=10, ge=1, description="shorter sentences are not counted")
    near: bool = Field(
        default=False,
        description="count nearly equal sentences as one; facts in a fixed form (dates, figures) can look alike",
    )
    min_similarity: float = Field(
        default=0.6, gt=0, le=1, description="`near`: estimated Jaccard similarity of the pairs of neighbouring tokens"
    )


class SubstringRules(BaseModel):
    """Removal of long passages that stand in an earlier document, or earlier in the same one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_tokens: int = Field(
        default=0,
        ge=0,
        description="a run of so many tokens or more goes where the same tokens stand before it (50 is usual); 0 = off",
    )

    @model_validator(mode="after")
    def _check(self) -> "SubstringRules":
        if 0 < self.min_tokens < 10:
            raise ValueError(
                "min_tokens: fewer than 10 tokens are common phrases; set 10 or more (50 is usual), 0 = off"
            )
        return self


class DedupSettings(BaseModel):
    """Duplicate documents. The first by id stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exact: bool = Field(default=True, description="remove documents equal but for case, punctuation and spaces")
    near: bool = Field(default=True, description="remove near duplicates (MinHash over token shingles)")
    shingle_tokens: int = Field(default=5, ge=1, le=32, description="tokens per shingle")
    bands: int = Field(default=25, ge=1, le=256, description="bands of the locality-sensitive hash: more find more")
    rows: int = Field(default=5, ge=1, le=64, description="rows per band: more compare fewer unlike documents")
    min_similarity: float = Field(
        default=0.55, ge=0, le=1, description="smallest estimated Jaccard similarity to the document that stays"
    )
    seed: int = Field(default=1, ge=0, description="seed of the hash functions")
    known: list[str] = Field(
        default=[],
        description="curated corpora (directories) whose documents count as earlier ones; they are not changed",
    )


class CorpusSettings(BaseModel):
    """The `[corpus]` table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: list[str] = Field(default=["primer:raw"], min_length=1, description="files, folders or globs of raw text")
    text_fields: list[str] = Field(
        default=["text"], min_length=1, description="fields of a row that make up its text, joined by an empty line"
    )
    languages: list[Language] = Field(default=["zh", "en", "mixed"], min_length=1, description="languages to keep")
    genres: list[Genre] = Field(default=["prose", "verse", "code", "list"], min_length=1, description="genres to keep")
    rules: Rules = Field(default=Rules(), description="document rules per language")
    html: Literal["extract", "drop", "keep"] = Field(
        default="extract",
        description="documents that are web pages: extract their main text (extra web), drop them, or keep them as is",
    )
    to_simplified: bool = Field(default=False, description="write traditional characters as simplified ones")
    web_lines: bool = Field(default=True, description="remove short lines that are notices of a web page")
    pii: PrivateSettings = Field(default=PrivateSettings(), description="private data")
    quality: QualitySettings = Field(default=QualitySettings(), description="quality score")
    word_lists: dict[str, WordList] = Field(default={}, description="lists of words that documents must not be full of")
    decontaminate: list[str] = Field(
        default=[], description="files and folders of benchmark items; a document that holds one is removed"
    )
    decontaminate_overlap: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="share of an item's runs of eight tokens that makes a document contaminated",
    )
    banned_phrases: list[str] = Field(
        default=[], description="a document that contains one of these is removed; case-blind"
    )
    lines: LineRules = Field(default=LineRules(), description="line rules")
    sentences: SentenceRules = Field(default=SentenceRules(), description="sentence rules")
    substrings: SubstringRules = Field(default=SubstringRules(), description="repeated passages of any place")
    dedup: DedupSettings = Field(default=DedupSettings(), description="duplicate documents")
    workers: Machine[int | None] = Field(
        default=None, ge=1, description="processes on this machine; default: one per core where it pays"
    )
    ray: Machine[str | None] = Field(default=None, description='address of a Ray cluster; "local" starts one here')
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
