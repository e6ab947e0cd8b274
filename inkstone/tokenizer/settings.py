"""What a recipe may say about the tokenizer and about the token shards."""

from typing import Literal

from pydantic import BaseModel, Field, model_validator

from inkstone.stage import Machine


class ExtendSettings(BaseModel, extra="forbid", frozen=True):
    """How a vocabulary is extended with Chinese pieces."""

    add: int = Field(25_000, ge=1, description="Tokens to add; with choose the most that are tried.")
    choose: Literal["alp"] | None = Field(None, description='"alp": as many as the knee of the ALP curve says.')
    characters: tuple[int, ...] = Field(
        (),
        description="Numbers of most frequent single characters to try; empty: as many as character_coverage asks for.",
    )
    character_coverage: float = Field(0.9995, gt=0, le=1, description="Share of Chinese characters that get a token.")
    max_piece_characters: int = Field(8, ge=2, description="Longest piece that may be learned, in characters.")
    min_frequency: int = Field(2, ge=1, description="A pair is merged only if it occurs at least this many times.")
    measure_mb: float = Field(2.0, gt=0, description="ALP is measured on about this many MB of Chinese text.")
    invalid_utf8: Literal["refuse", "replace"] = Field("refuse", description="What to do with text that is not UTF-8.")


class TokenizerSettings(BaseModel, extra="forbid", frozen=True):
    """`[tokenizer]`: how the vocabulary is learned, or whose is taken."""

    vocab_size: int = Field(
        8192, ge=273, description="Tokens in the whole vocabulary, with its 16 control tokens and 256 bytes."
    )
    character_coverage: float = Field(
        0.9995,
        gt=0,
        le=1,
        description="Share of the text's characters that get a token of their own; rarer ones are written as bytes. "
        "At most half of the vocabulary is spent on single characters.",
    )
    sample_mb: float = Field(
        100.0, gt=0, description="Train on a sample of whole documents of about this many MB of UTF-8 text."
    )
    max_piece_characters: int = Field(16, ge=2, description="Longest piece that may be learned, in characters.")
    max_han_characters: int = Field(
        4, ge=1, description="Longest piece of Chinese characters; keeps stock phrases from filling the vocabulary."
    )
    min_frequency: int = Field(2, ge=1, description="A pair is merged only if it occurs at least this many times.")
    count_power: float = Field(
        1.0,
        ge=0,
        le=1,
        description="A word that occurs n times counts like n to this power. Below 1 the vocabulary suits other texts "
        "than the ones it is trained on better, and these less.",
    )
    measure_mb: float = Field(
        20.0, gt=0, description="Measure compression on about this many MB of held-out text at most."
    )
    seed: int = Field(1, description="Chooses which documents are sampled.")
    invalid_utf8: Literal["refuse", "replace"] = Field(
        "refuse", description='What to do with text that is not UTF-8: "refuse", or "replace" bad bytes.'
    )
    base: str | None = Field(None, description="A directory or file whose tokenizer is taken instead of learning one.")
    extend: ExtendSettings | None = Field(None, description="With base: adds Chinese pieces of the corpus.")

    @model_validator(mode="after")
    def _extends_something(self) -> "TokenizerSettings":
        if self.extend and not self.base:
            raise ValueError("extend needs base: the directory whose vocabulary is to grow")
        return self


class TokensSettings(BaseModel, extra="forbid", frozen=True):
    """`[tokens]`: how the encoded corpus is cut into files."""

    max_shard_tokens: int = Field(
        100_000_000, ge=1, description="A new shard begins before a document that would exceed this many tokens."
    )
    part_mb: float = Field(
        64.0,
        gt=0,
        description="Text is encoded in parts of about this many MB: what one process does at a time, what a killed "
        "run keeps, and what is not encoded again when other text changes. Every part begins a new shard.",
    )
    processes: Machine[int] = Field(0, ge=0, description="Processes that encode; 0 is one per core.")
    batch_mb: float = Field(
        8.0, gt=0, description="Text encoded at once, in MB (bounds memory; the result is the same)."
    )
    invalid_utf8: Literal["refuse", "replace"] = Field(
        "refuse", description='What to do with text that is not UTF-8: "refuse", or "replace" bad bytes and count them.'
    )
