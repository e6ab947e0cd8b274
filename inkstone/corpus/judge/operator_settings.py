"""Settings of single operators: private data, word lists, quality."""

from typing import Literal

from pydantic import BaseModel, Field

PrivateKind = Literal["email", "ip", "phone", "id_number", "bank_card", "secret_url"]


class PrivateSettings(BaseModel, extra="forbid", frozen=True):
    """Private data. Found pieces are masked; a document that holds many is a list of contacts and can be dropped."""

    kinds: list[PrivateKind] = Field(
        ["email", "ip", "phone", "id_number", "bank_card", "secret_url"],
        description="kinds to mask: email, ip, phone, id_number, bank_card, secret_url; [] leaves all as it is",
    )
    replacement: str = Field("<|{kind}|>", description="what stands in its place; {kind} is the kind's name")
    drop: int = Field(0, ge=0, description="a document with this many pieces or more is removed; 0 = never")


class WordList(BaseModel, extra="forbid", frozen=True):
    """A user's list of words or phrases (adult content, spam, a competitor's names), one per line."""

    file: str = Field(description="UTF-8 text, one word or phrase per line; lines that start with # are notes")
    min_count: int = Field(3, ge=1, description="fewest occurrences that count")
    max_share: float = Field(0.01, ge=0, le=1, description="most tokens of a document inside these phrases")


class QualitySettings(BaseModel, extra="forbid", frozen=True):
    """Quality score of documents between 0 and 1, from a hashed n-gram model."""

    model: str | None = Field(None, description="model directory from `inkstone curate quality train`")
    good: list[str] = Field(
        [], description="sources to take as good: a model is trained on them against all other sources"
    )
    sample_mb: float = Field(20.0, gt=0, description="text per side to train on, MB")
    seed: int = Field(1, ge=0, description="order of the training documents")
    min_score: float = Field(0.0, ge=0, le=1, description="a document with a lower score is removed; 0 = off")
    min_quantile: float = Field(
        0.0, ge=0, lt=1, description="share of every source's documents that goes, those with the lowest scores"
    )
    min_line_score: float = Field(
        0.0, ge=0, le=1, description="a line with a lower score is removed from its document; 0 = off"
    )
    min_line_tokens: int = Field(20, ge=1, description="shorter lines are not scored")
    max_perplexity: float = Field(
        0.0, ge=0, description="a document with a higher perplexity under the model's n-grams goes; 0 = off"
    )
