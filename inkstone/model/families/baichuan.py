"""Baichuan-7B (RoPE), Baichuan-13B (ALiBi) and Baichuan 2 (the same two, with a normalised output head).

Names are Llama's, except that q, k and v are stacked in `W_pack`. The published configurations do not say which
positions a model has; what they do say differs: only the models with RoPE have `max_position_embeddings`.
"""

from collections.abc import Collection, Mapping
from typing import Any

from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.families.layout import Piece, mlp_names, norm_names, outer_names, same_names
from inkstone.model.families.reading import ConfigReader

_BAICHUAN2_VOCABULARY = 125696


def read_config(values: Mapping[str, Any], where: str) -> DecoderConfig:
    """A baichuan config.json. A Baichuan 2 is known by its vocabulary, by a key of its training, or by our own key.

    Of those with RoPE also by the spelling: the first one's class is BaiChuanForCausalLM, the second's is Baichuan...
    """
    read = ConfigReader(values, where)
    read.expect("hidden_act", "silu")
    rope = values.get("max_position_embeddings") is not None and values.get("hidden_size") != 5120
    heads, hidden = read.whole("num_attention_heads"), read.whole("hidden_size")
    vocabulary = read.whole("vocab_size")
    named_second = rope and "BaichuanForCausalLM" in (values.get("architectures") or ())
    second = vocabulary == _BAICHUAN2_VOCABULARY or "z_loss_weight" in values or named_second
    return read.finish(
        DecoderConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=read.whole("intermediate_size"),
            num_layers=read.whole("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=hidden // heads,
            max_positions=read.whole("max_position_embeddings", "model_max_length", default=4096),
            norm_eps=read.number("rms_norm_eps", default=1e-6),
            tie_embeddings=read.flag("tie_word_embeddings", False),
            position="rope" if rope else "alibi",
            normalised_head=read.flag("normalised_head", second),
        )
    )


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """The original keys, as vLLM and llama.cpp's converter read them."""
    rope = config.position == "rope"
    return {
        "architectures": ["BaichuanForCausalLM" if config.normalised_head or not rope else "BaiChuanForCausalLM"],
        "model_type": "baichuan",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        **({"max_position_embeddings": config.max_positions} if rope else {}),
        "model_max_length": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "normalised_head": config.normalised_head,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "use_cache": True,
    }


def layout(config: DecoderConfig, names: Collection[str]) -> list[Piece]:
    """`W_pack` is [q; k; v] on rows."""
    pieces = same_names(outer_names(config))
    width = config.num_heads * config.head_dim
    for layer in range(config.num_layers):
        at = f"model.layers.{layer}.self_attn"
        for place, part in enumerate("qkv"):
            rows = slice(place * width, (place + 1) * width)
            pieces.append(Piece(f"{at}.{part}_proj.weight", f"{at}.W_pack.weight", theirs_rows=rows))
        pieces += same_names([f"{at}.o_proj.weight", *norm_names(config, layer), *mlp_names(config, layer)])
    return pieces


IGNORED = (
    r"\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$",
    r"^model\.future_mask$",
    r"\.alibi_mask$",
    r"^lm_head\.weight$",
)
