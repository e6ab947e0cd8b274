"""Settings of the corpus stage: the `[corpus]` table of a recipe.

The limits of the document rules (`[corpus.rules.zh]` ...) are in `thresholds.py` and `thresholds.toml`.
"""

import codecs
from typing import Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from inkstone.corpus.judge.operator_settings import PrivateSettings, QualitySettings, WordList
from inkstone.corpus.judge.thresholds import Rules
from inkstone.stage import Machine

Language = Literal["zh", "en", "mixed", "other"]
Genre = Literal["prose", "verse", "code", "list"]


class LineRules(BaseModel, extra="forbid", frozen=True):
    """Removal of lines that many documents share: menus, footers, notices."""

    max_line_documents: int = Field(
        100, ge=0, description="a line in more documents than this is removed from all of them; 0 = off"
    )
    min_line_tokens: int = Field(
        10, ge=1, description="shorter lines are not counted (titles, authors, speakers), unless they look like a menu"
    )
    max_menu_documents: int = Field(
        3, ge=0, description="a line that looks like navigation and is in more documents than this is removed; 0 = off"
    )


class SentenceRules(BaseModel, extra="forbid", frozen=True):
    """Removal of sentences that many documents repeat: quotations, slogans, disclaimers inside paragraphs."""

    max_documents: int = Field(
        30, ge=0, description="a sentence stays in its first so many documents and goes from the later ones; 0 = off"
    )
    min_tokens: int = Field(10, ge=1, description="shorter sentences are not counted")
    near: bool = Field(
        False, description="count nearly equal sentences as one; facts in a fixed form (dates, figures) can look alike"
    )
    min_similarity: float = Field(
        0.6, gt=0, le=1, description="`near`: estimated Jaccard similarity of the pairs of neighbouring tokens"
    )


class SubstringRules(BaseModel, extra="forbid", frozen=True):
    """Removal of long passages that stand in an earlier document, or earlier in the same one."""

    min_tokens: int = Field(
        0,
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


class DedupSettings(BaseModel, extra="forbid", frozen=True):
    """Duplicate documents. The first by id stays."""

    exact: bool = Field(True, description="remove documents equal but for case, punctuation and spaces")
    near: bool = Field(True, description="remove near duplicates (MinHash over token shingles)")
    shingle_tokens: int = Field(5, ge=1, le=32, description="tokens per shingle")
    bands: int = Field(25, ge=1, le=256, description="bands of the locality-sensitive hash: more find more")
    rows: int = Field(5, ge=1, le=64, description="rows per band: more compare fewer unlike documents")
    min_similarity: float = Field(
        0.55, ge=0, le=1, description="smallest estimated Jaccard similarity to the document that stays"
    )
    seed: int = Field(1, ge=0, description="seed of the hash functions")
    known: list[str] = Field(
        [], description="curated corpora (directories) whose documents count as earlier ones; they are not changed"
    )


class CorpusSettings(BaseModel, extra="forbid", frozen=True):
    """The `[corpus]` table."""

    inputs: list[str] = Field(["primer:raw"], min_length=1, description="files, folders or globs of raw text")
    text_fields: list[str] = Field(
        ["text"], min_length=1, description="fields of a row that make up its text, joined by an empty line"
    )
    encoding: str = Field(
        "auto",
        description='of text, CSV and web pages: "auto" is UTF-8, else GB18030 (GBK), Big5 or UTF-16 where plausible',
    )
    languages: list[Language] = Field(["zh", "en", "mixed"], min_length=1, description="languages to keep")
    genres: list[Genre] = Field(["prose", "verse", "code", "list"], min_length=1, description="genres to keep")
    rules: Rules = Field(Rules(), description="document rules per language")
    html: Literal["extract", "drop", "keep"] = Field(
        "extract",
        description="documents that are web pages: extract their main text (extra web), drop them, or keep them as is",
    )
    to_simplified: bool = Field(False, description="write traditional characters as simplified ones")
    web_lines: bool = Field(True, description="remove short lines that are notices of a web page")
    pii: PrivateSettings = Field(PrivateSettings(), description="private data")
    quality: QualitySettings = Field(QualitySettings(), description="quality score")
    word_lists: dict[str, WordList] = Field({}, description="lists of words that documents must not be full of")
    decontaminate: list[str] = Field(
        [], description="files and folders of benchmark items; a document that holds one is removed"
    )
    decontaminate_overlap: float = Field(
        0.8, gt=0, le=1, description="share of an item's runs of eight tokens that makes a document contaminated"
    )
    banned_phrases: list[str] = Field([], description="a document that contains one of these is removed; case-blind")
    lines: LineRules = Field(LineRules(), description="line rules")
    sentences: SentenceRules = Field(SentenceRules(), description="sentence rules")
    substrings: SubstringRules = Field(SubstringRules(), description="repeated passages of any place")
    dedup: DedupSettings = Field(DedupSettings(), description="duplicate documents")
    workers: Machine[int | None] = Field(
        None, ge=1, description="processes on this machine; default: one per core where it pays"
    )
    ray: Machine[str | None] = Field(None, description='address of a Ray cluster; "local" starts one here')
    heldout_fraction: float = Field(0.01, ge=0, lt=1, description="share of documents kept apart for evaluation")
    max_document_mb: float = Field(
        32,
        gt=0,
        le=1024,
        description="a larger document is not read (MB of UTF-8); measuring takes about 60 times its size in memory",
    )

    @field_validator("encoding")
    @classmethod
    def _known(cls, name: str) -> str:
        if name == "auto":
            return name
        try:
            "".encode(name)  # `lookup` also knows encodings of bytes as bytes
            return codecs.lookup(name).name
        except (LookupError, UnicodeError) as error:
            raise ValueError(f"{name!r} is no encoding: write auto, utf-8, gb18030, big5, utf-16 ...") from error

    @model_validator(mode="after")
    def _check(self) -> "CorpusSettings":
        for phrase in self.banned_phrases:
            if not any(char.isalnum() for char in phrase):
                raise ValueError(
                    f"banned_phrases: {phrase!r} has no letter, digit or Han character to match: remove it"
                )
        return self
