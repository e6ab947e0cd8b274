"""The adapter of a tuning stage, LoRA or a prefix: what is attached before training, what is written after it."""

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field

from inkstone.errors import InputError
from inkstone.model import Decoder, load_model
from inkstone.model.decoder.lora import LINEARS, LoraShape, attach_lora, attach_prefix, merge_lora
from inkstone.model.decoder.prefix import draw_prefix
from inkstone.model.families import position_after_prefix
from inkstone.model.files.adapter import load_adapter, save_adapter
from inkstone.model.packed.pack import Kind, pack_model, packed_maps


class LoraSettings(BaseModel):
    """`[sft.lora]`: the size of a low-rank adapter, and which linear maps get one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(16, ge=1, le=4096, description="rows of A and columns of B")
    alpha: float = Field(32.0, gt=0, description="the product is multiplied with alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what the adapter is given")
    targets: list[str] = Field(list(LINEARS), description="linear maps with an adapter, of every block", min_length=1)
    rslora: bool = Field(False, description="alpha / sqrt(rank) instead: for large ranks")
    dora: bool = Field(False, description="the length of each row of a weight is learned apart")
    quantize: Kind | None = Field(
        None, description="pack the frozen base while the adapter trains; nf4 is QLoRA (Dettmers et al. 2023)"
    )
    embeddings: bool = Field(False, description="embedding and head are trained whole, e.g. after new tokens")

    def shape(self, tied: bool) -> LoraShape:
        """For a model whose head is its embedding, or has its own."""
        also = () if not self.embeddings else ("embed_tokens",) if tied else ("embed_tokens", "lm_head")
        return LoraShape(self.rank, self.alpha, tuple(self.targets), self.dropout, self.rslora, self.dora, also)


class PrefixSettings(BaseModel):
    """`[sft.prefix]`: P-tuning v2, keys and values before every conversation; all else is frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    length: int = Field(128, ge=1, le=4096, description="virtual tokens; ChatGLM2's trainer has 128")
    quantize: Kind | None = Field(None, description="pack the frozen base while the prefix trains")


def attach(model: Decoder, settings: LoraSettings | PrefixSettings, seed: int, whole: bool) -> None:
    """Freeze the model, pack it if asked (QLoRA), and give it the adapter.

    Raises InputError for sharded weights, unknown targets and a second prefix.
    """
    if not whole:
        raise InputError("an adapter trains on whole weights: set shard and tensor to 1")
    if settings.quantize:
        pack_model(model, settings.quantize)
    generator = torch.Generator().manual_seed(seed)
    if isinstance(settings, LoraSettings):
        attach_lora(model, settings.shape(model.config.tie_embeddings), generator)
    else:
        begin = position_after_prefix(model.config, settings.length)
        attach_prefix(model, draw_prefix(model.config, settings.length, begin, generator))


def save_and_merge(model: Decoder, output: Path, base: Path) -> Decoder:
    """Keep the adapter alone in `output/adapter`, as PEFT reads it; returns a plain model with it in its weights.

    An adapter that was trained over packed weights goes into the base as it is stored.
    """
    save_adapter(model, output / "adapter", str(base))
    if packed_maps(model):
        model = load_model(base, torch.float32)
        load_adapter(model, output / "adapter")
    merge_lora(model)
    return model
