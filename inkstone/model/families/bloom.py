"""BLOOM and Huozi 1/2: ALiBi, LayerNorm with biases, a norm after the embedding, tanh GELU, tied head.

q, k and v are fused head by head: head 0's q, k and v rows, then head 1's. Published files name tensors with and
without the prefix `transformer.`.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch

from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.families.layout import Piece
from inkstone.model.families.reading import ConfigReader

_BLOCK = {
    "input_layernorm": "input_layernorm",
    "self_attn.o_proj": "self_attention.dense",
    "post_attention_layernorm": "post_attention_layernorm",
    "mlp.up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}


def read_config(values: Mapping[str, Any], where: str) -> DecoderConfig:
    """A bloom config.json, in its old keys (n_embed, num_attention_heads) or its new ones."""
    read = ConfigReader(values, where)
    read.expect("apply_residual_connection_post_layernorm", False)
    heads, hidden = read.whole("n_head", "num_attention_heads"), read.whole("n_embed", "hidden_size")
    return read.finish(
        DecoderConfig(
            vocab_size=read.whole("vocab_size"),
            hidden_size=hidden,
            intermediate_size=read.whole("n_inner", default=4 * hidden),
            num_layers=read.whole("n_layer", "num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=hidden // heads,
            max_positions=read.whole("seq_length", default=2048),
            norm_eps=read.number("layer_norm_epsilon", default=1e-5),
            tie_embeddings=read.flag("tie_word_embeddings", True),
            norm="layer",
            embedding_norm=True,
            position="alibi",
            qkv_bias=True,
            out_bias=True,
            mlp_bias=True,
            gated=False,
            activation="gelu_tanh",
        )
    )


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """The keys of the published models; transformers reads no other MLP width than 4 x hidden_size."""
    return {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "seq_length": config.max_positions,
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "initializer_range": 0.02,
        "pretraining_tp": 1,
        "slow_but_exact": False,
        "use_cache": True,
    }


def layout(config: DecoderConfig, names: Collection[str]) -> list[Piece]:
    """Rows of q, k and v are picked out of `query_key_value` head by head."""
    bare = "word_embeddings.weight" in names
    trunk = "" if bare else "transformer."
    pieces = [Piece("model.embed_tokens.weight", f"{trunk}word_embeddings.weight")]
    if not config.tie_embeddings:
        pieces.append(Piece("lm_head.weight", "lm_head.weight"))
    rows = torch.arange(3 * config.num_heads * config.head_dim).view(config.num_heads, 3, config.head_dim)
    part_rows = {part: rows[:, place].flatten() for place, part in enumerate("qkv")}
    for kind in ("weight", "bias"):
        pieces.append(Piece(f"model.embed_norm.{kind}", f"{trunk}word_embeddings_layernorm.{kind}"))
        pieces.append(Piece(f"model.norm.{kind}", f"{trunk}ln_f.{kind}"))
        for layer in range(config.num_layers):
            ours, theirs = f"model.layers.{layer}", f"{trunk}h.{layer}"
            pieces += [Piece(f"{ours}.{a}.{kind}", f"{theirs}.{b}.{kind}") for a, b in _BLOCK.items()]
            fused = f"{theirs}.self_attention.query_key_value.{kind}"
            for part, chosen in part_rows.items():
                pieces.append(Piece(f"{ours}.self_attn.{part}_proj.{kind}", fused, theirs_rows=chosen))
    return pieces


IGNORED = (r"\.self_attention\.(masked_)?bias$", r"^lm_head\.weight$")
