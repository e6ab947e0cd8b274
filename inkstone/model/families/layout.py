"""A family's table of weights: which rows of which stored tensor fill which part of the decoder's tensors.

One table serves both directions. Reading: ours[ours_at] = theirs[theirs_rows]. Writing: theirs[theirs_rows] =
ours[ours_at]. So a family is data, and one reader and one writer serve all of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from inkstone.model.decoder.config import DecoderConfig


@dataclass(frozen=True, eq=False)
class Piece:
    """ours[ours_at] = theirs[theirs_rows]: one line of a family's table of weights."""

    ours: str
    """One of the decoder's tensor names."""
    theirs: str
    """The tensor's name in the checkpoint."""
    ours_at: tuple[int | slice, ...] = ()
    """The part of ours it fills; () is all of it."""
    theirs_rows: slice | Tensor | None = None
    """Rows (first dimension) of theirs it comes from, in this order; None is all of them."""


def parameters(module: str, bias: bool) -> list[str]:
    """The tensor names of a linear map or norm."""
    return [f"{module}.weight", *([f"{module}.bias"] if bias else [])]


def attention_names(config: DecoderConfig, layer: int) -> list[str]:
    """The decoder's tensors of one block's attention: q, k, v, then the output."""
    at = f"model.layers.{layer}.self_attn"
    names = [name for part in "qkv" for name in parameters(f"{at}.{part}_proj", config.qkv_bias)]
    names += [f"{at}.{part}_norm.weight" for part in "qk" if config.qk_norm]
    return names + parameters(f"{at}.o_proj", config.out_bias)


def mlp_names(config: DecoderConfig, layer: int) -> list[str]:
    """The decoder's tensors of one block's MLP or experts."""
    at = f"model.layers.{layer}.mlp"
    if config.num_experts:
        return [f"{at}.gate.weight", f"{at}.experts.gate_up_proj", f"{at}.experts.down_proj"]
    parts = ["gate_proj", "up_proj", "down_proj"] if config.gated else ["up_proj", "down_proj"]
    return [name for part in parts for name in parameters(f"{at}.{part}", config.mlp_bias)]


def norm_names(config: DecoderConfig, layer: int) -> list[str]:
    """The decoder's tensors of one block's two norms."""
    at, bias = f"model.layers.{layer}", config.norm == "layer"
    return [n for norm in ("input_layernorm", "post_attention_layernorm") for n in parameters(f"{at}.{norm}", bias)]


def outer_names(config: DecoderConfig) -> list[str]:
    """The decoder's tensors outside the blocks. A tied head is the embedding and has no line of its own."""
    bias = config.norm == "layer"
    names = ["model.embed_tokens.weight", *parameters("model.norm", bias)]
    if config.embedding_norm:
        names += parameters("model.embed_norm", bias)
    return names if config.tie_embeddings else [*names, "lm_head.weight"]


def paired_rows(config: DecoderConfig, first_row: int, heads: int) -> Tensor:
    """Rows of `heads` heads stored in neighbouring pairs (2i, 2i + 1), in the decoder's order: pairs (i, i + half).

    Picking them when reading, and putting them back when writing, makes the two ways to turn the same arithmetic.
    """
    rotary = config.rotary_dim or config.head_dim
    # Even rows first, then odd ones; rows without positions stay.
    turned = torch.arange(rotary).view(-1, 2).T.flatten()
    head = torch.cat((turned, torch.arange(rotary, config.head_dim)))
    return first_row + (torch.arange(heads)[:, None] * config.head_dim + head).flatten()


def same_names(names: Iterable[str]) -> list[Piece]:
    """Tensors that the checkpoint keeps under the decoder's own names."""
    return [Piece(name, name) for name in names]
