"""What a user may choose about the embedded primer: how much raw text, and which seed."""

from pydantic import BaseModel, ConfigDict, Field


class PrimerSettings(BaseModel):
    """The recipe's `[primer]` section."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size_mb: float = Field(
        default=8.0,
        ge=0.3,
        le=20.0,
        description="approximate size of the dirty raw corpus, in millions of UTF-8 bytes of text before compression",
    )
    seed: int = Field(default=1, ge=0, description="seed of every random draw; the same seed gives the same bytes")
