"""LLaMA 1-3, Mistral, Baichuan-7B saved as llama: tensor names are the decoder's own."""

from collections.abc import Collection, Mapping
from typing import Any

from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.families.layout import Piece, attention_names, mlp_names, norm_names, outer_names, same_names
from inkstone.model.families.reading import ConfigReader, read_rope, write_shape


def read_config(values: Mapping[str, Any], where: str) -> DecoderConfig:
    """A llama or mistral config.json; where Mistral's defaults differ from Llama's, they are Mistral's."""
    read = ConfigReader(values, where)
    mistral = values.get("model_type") == "mistral"
    read.expect("hidden_act", "silu")
    heads = read.whole("num_attention_heads")
    hidden = read.whole("hidden_size")
    positions = read.whole("max_position_embeddings", default=131072 if mistral else 2048)
    theta, scaling = read_rope(read, 10000.0, positions)
    attention_bias = not mistral and read.flag("attention_bias", False)
    return read.finish(
        DecoderConfig(
            vocab_size=read.whole("vocab_size"),
            hidden_size=hidden,
            intermediate_size=read.whole("intermediate_size"),
            num_layers=read.whole("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=read.whole("num_key_value_heads", default=8 if mistral else heads),
            head_dim=read.whole("head_dim", default=hidden // heads),
            max_positions=positions,
            rope_theta=theta,
            norm_eps=read.number("rms_norm_eps", default=1e-6),
            tie_embeddings=read.flag("tie_word_embeddings", False),
            rope_scaling=scaling,
            sliding_window=_sliding_window(read) if mistral else None,
            qkv_bias=attention_bias,
            out_bias=attention_bias,
            mlp_bias=not mistral and read.flag("mlp_bias", False),
        )
    )


def _sliding_window(read: ConfigReader) -> int | None:
    """Mistral's first release leaves the key out of nothing: absent means 4096, null means none."""
    return read.optional("sliding_window") if "sliding_window" in read.values else 4096


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """Readable by transformers 4 and 5. A sliding window is Mistral's, everything else Llama's."""
    values = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **write_shape(config),
    }
    if config.sliding_window is not None:
        mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
        return {**values, **mistral, "sliding_window": config.sliding_window}
    return {**values, "attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}


def layout(config: DecoderConfig, names: Collection[str]) -> list[Piece]:
    """Every tensor under its own name."""
    blocks = [
        name
        for layer in range(config.num_layers)
        for name in (*norm_names(config, layer), *attention_names(config, layer), *mlp_names(config, layer))
    ]
    return same_names([*outer_names(config), *blocks])


IGNORED = (r"\.rotary_emb\.inv_freq$", r"\.self_attn\.(masked_)?bias$", r"^lm_head\.weight$")
