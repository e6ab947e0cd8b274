"""ChatGLM2-6B and Zhuzhi-6B: rotary positions on half of each head, in neighbouring pairs; fused projections.

The decoder turns pairs (i, i + half); ChatGLM turns pairs (2i, 2i + 1): see `paired_rows`.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.families.layout import Piece, paired_rows
from inkstone.model.families.reading import ConfigReader

_ARITHMETIC = {
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
    "fp32_residual_connection": False,
    "original_rope": True,
    "post_layer_norm": True,
    "rmsnorm": True,
}


def read_config(values: Mapping[str, Any], where: str) -> DecoderConfig:
    """A ChatGLM2 config.json; the first ChatGLM, which shares its model_type, is refused by name.

    `tie_word_embeddings` is not read: the original has an output layer of its own whatever its config says.
    """
    read = ConfigReader(values, where)
    if "inner_hidden_size" in values or "position_encoding_2d" in values:
        read.problem("this is the first ChatGLM-6B, another architecture; ChatGLM2 and Zhuzhi are supported")
    for key, expected in {**_ARITHMETIC, "rope_ratio": 1, "quantization_bit": 0}.items():
        read.expect(key, expected)
    heads, hidden = read.whole("num_attention_heads"), read.whole("hidden_size")
    head_dim = read.whole("kv_channels", default=hidden // heads)
    groups = read.whole("multi_query_group_num", default=1) if read.flag("multi_query_attention", False) else heads
    return read.finish(
        DecoderConfig(
            vocab_size=read.whole("padded_vocab_size", "vocab_size"),
            hidden_size=hidden,
            intermediate_size=read.whole("ffn_hidden_size"),
            num_layers=read.whole("num_layers", "num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=groups,
            head_dim=head_dim,
            max_positions=read.whole("seq_length", default=2048),
            norm_eps=read.number("layernorm_epsilon", default=1e-5),
            rotary_dim=head_dim // 2,
            qkv_bias=read.flag("add_qkv_bias", False),
        )
    )


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """The original keys, as vLLM and llama.cpp's converter read them."""
    return {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        **_ARITHMETIC,
        "add_qkv_bias": config.qkv_bias,
        "apply_query_key_layer_scaling": True,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "ffn_hidden_size": config.intermediate_size,
        "hidden_dropout": 0.0,
        "hidden_size": config.hidden_size,
        "kv_channels": config.head_dim,
        "layernorm_epsilon": config.norm_eps,
        # False would mean another order of rows (`layout_by_head`).
        "multi_query_attention": True,
        "multi_query_group_num": config.num_kv_heads,
        "num_attention_heads": config.num_heads,
        "num_layers": config.num_layers,
        "padded_vocab_size": config.vocab_size,
        "vocab_size": config.vocab_size,
        "seq_length": config.max_positions,
        "tie_word_embeddings": False,
        "use_cache": True,
    }


def layout(config: DecoderConfig, names: Collection[str]) -> list[Piece]:
    """`query_key_value` is [all q; group k; group v], `dense_h_to_4h` is [gate; up]."""
    queries, groups = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return _pieces(
        config,
        {
            "q": paired_rows(config, 0, config.num_heads),
            "k": paired_rows(config, queries, config.num_kv_heads),
            "v": slice(queries + groups, queries + 2 * groups),
        },
    )


def layout_by_head(config: DecoderConfig, names: Collection[str]) -> list[Piece]:
    """With `multi_query_attention` false, the default of the original's class, each head has its own [q; k; v]."""
    size = config.head_dim
    rows = torch.arange(config.num_heads)[:, None] * 3 * size + paired_rows(config, 0, 1)
    values = torch.arange(config.num_heads)[:, None] * 3 * size + 2 * size + torch.arange(size)
    return _pieces(config, {"q": rows.flatten(), "k": rows.flatten() + size, "v": values.flatten()})


def _pieces(config: DecoderConfig, part_rows: Mapping[str, Tensor | slice]) -> list[Piece]:
    pieces = [
        Piece("model.embed_tokens.weight", "transformer.embedding.word_embeddings.weight"),
        Piece("model.norm.weight", "transformer.encoder.final_layernorm.weight"),
        Piece("lm_head.weight", "transformer.output_layer.weight"),
    ]
    width = config.intermediate_size
    for layer in range(config.num_layers):
        ours, theirs = f"model.layers.{layer}", f"transformer.encoder.layers.{layer}"
        for kind in ("weight", "bias") if config.qkv_bias else ("weight",):
            fused = f"{theirs}.self_attention.query_key_value.{kind}"
            for part, rows in part_rows.items():
                pieces.append(Piece(f"{ours}.self_attn.{part}_proj.{kind}", fused, theirs_rows=rows))
        fused = f"{theirs}.mlp.dense_h_to_4h.weight"
        pieces += [
            Piece(f"{ours}.input_layernorm.weight", f"{theirs}.input_layernorm.weight"),
            Piece(f"{ours}.post_attention_layernorm.weight", f"{theirs}.post_attention_layernorm.weight"),
            Piece(f"{ours}.self_attn.o_proj.weight", f"{theirs}.self_attention.dense.weight"),
            Piece(f"{ours}.mlp.gate_proj.weight", fused, theirs_rows=slice(0, width)),
            Piece(f"{ours}.mlp.up_proj.weight", fused, theirs_rows=slice(width, 2 * width)),
            Piece(f"{ours}.mlp.down_proj.weight", f"{theirs}.mlp.dense_4h_to_h.weight"),
        ]
    return pieces


IGNORED = (r"rotary_pos_emb\.inv_freq$", r"^lm_head\.weight$")
