"""The recipe's [model] section: the shape of a model that is trained from nothing.

The vocabulary is not here because the tokenizer decides it; defaults that follow from other numbers are left None.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inkstone.errors import InputError
from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.families import writing_family
from inkstone.model.size import PATTERN, is_size, shape_of


class ModelSettings(BaseModel):
    """Shape of the decoder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: str | None = Field(
        None,
        pattern=PATTERN,
        description='e.g. "125M" or "7B": decides layers, width and heads, and the rate and batch of [pretrain], where '
        "they are not given; embeddings come on top",
    )
    hidden_size: int = Field(256, ge=8, description="width of the residual stream")
    num_layers: int = Field(6, ge=1, description="decoder blocks")
    num_heads: int = Field(4, ge=1, description="query heads")
    num_kv_heads: int | None = Field(None, ge=1, description="key/value heads; default: num_heads")
    head_dim: int | None = Field(None, ge=2, description="dimensions per head; default: hidden_size / num_heads")
    intermediate_size: int | None = Field(
        None, ge=8, description="width of the SwiGLU; default: 8/3 hidden_size, rounded up to a multiple of 64"
    )
    max_positions: int = Field(2048, ge=8, description="longest sequence in tokens")
    rope_theta: float = Field(10000.0, gt=0, description="base of the rotary frequencies")
    norm_eps: float = Field(1e-5, gt=0, description="epsilon of RMSNorm")
    tie_embeddings: bool = Field(True, description="the output head shares the embedding's weights")
    position: Literal["rope", "alibi"] = Field(
        "rope", description="rotary positions, or ALiBi, which takes texts longer than those of training"
    )
    sliding_window: int | None = Field(None, ge=1, description="tokens a token sees, itself included; default: all")
    num_experts: int = Field(0, ge=0, description="experts in the place of each MLP; 0: one dense MLP")
    experts_per_token: int = Field(2, ge=1, description="experts that each token is sent to")
    router_aux_loss: float = Field(0.01, ge=0, description="weight of the loss that balances the experts' load")

    @model_validator(mode="before")
    @classmethod
    def _sized(cls, values: Any) -> Any:
        size = values.get("size") if isinstance(values, dict) else None
        return {**shape_of(size), **values} if is_size(size) else values

    @model_validator(mode="after")
    def _possible(self) -> "ModelSettings":
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size = {self.hidden_size} is not a multiple of num_heads = {self.num_heads}: "
                "change one of them, or set head_dim"
            )
        config = self.decoder_config(vocab_size=1)
        problems = config.problems()
        if problems:
            raise ValueError("; ".join(problems))
        try:
            writing_family(config)
        except InputError as error:
            raise ValueError(str(error)) from error
        return self

    def decoder_config(self, vocab_size: int) -> DecoderConfig:
        """The full shape, once the tokenizer's vocabulary is known."""
        return DecoderConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size or -(-self.hidden_size * 8 // 3 // 64) * 64,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads or self.num_heads,
            head_dim=self.head_dim or self.hidden_size // self.num_heads,
            max_positions=self.max_positions,
            rope_theta=self.rope_theta,
            norm_eps=self.norm_eps,
            tie_embeddings=self.tie_embeddings,
            position=self.position,
            sliding_window=self.sliding_window,
            num_experts=self.num_experts,
            experts_per_token=self.experts_per_token if self.num_experts else 2,
            router_aux_loss=self.router_aux_loss if self.num_experts else 0.0,
        )
