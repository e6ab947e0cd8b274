"""Qwen2 and Qwen2.5 (biases on q, k and v), Qwen3 (norms on q and k) and Qwen3-MoE; tensor names are the decoder's own.

Experts are stored one by one, as published, or stacked, as the decoder keeps them.
"""

from collections.abc import Collection, Mapping
from typing import Any

from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.families import llama
from inkstone.model.families.layout import Piece, attention_names, norm_names, outer_names, same_names
from inkstone.model.families.mixtral import experts_apart
from inkstone.model.families.reading import ConfigReader, read_aux_loss, read_rope, write_shape

_CLASSES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}


def read_config(values: Mapping[str, Any], where: str) -> DecoderConfig:
    """A config.json of model_type qwen2, qwen3 or qwen3_moe."""
    read = ConfigReader(values, where)
    second, mixture = values.get("model_type") == "qwen2", values.get("model_type") == "qwen3_moe"
    read.expect("hidden_act", "silu")
    if mixture and (values.get("decoder_sparse_step") not in (None, 1) or values.get("mlp_only_layers")):
        read.problem("decoder_sparse_step or mlp_only_layers leaves layers without experts; every layer must have them")
    heads, hidden = read.whole("num_attention_heads"), read.whole("hidden_size")
    positions = read.whole("max_position_embeddings", default=32768)
    theta, scaling = read_rope(read, 10000.0, positions)
    bias = not second and read.flag("attention_bias", False)
    layers = read.whole("num_hidden_layers")
    experts = {
        "num_experts": read.whole("num_experts", "num_local_experts", default=128),
        "experts_per_token": read.whole("num_experts_per_tok", default=8),
        "normalised_shares": read.flag("norm_topk_prob", False),
        "router_aux_loss": read_aux_loss(read),
    }
    return read.finish(
        DecoderConfig(
            vocab_size=read.whole("vocab_size"),
            hidden_size=hidden,
            intermediate_size=read.whole("moe_intermediate_size" if mixture else "intermediate_size"),
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=read.whole("num_key_value_heads", default=4 if mixture else heads),
            head_dim=read.whole("head_dim", default=128 if values["model_type"] == "qwen3" else hidden // heads),
            max_positions=positions,
            rope_theta=theta,
            norm_eps=read.number("rms_norm_eps", default=1e-6),
            tie_embeddings=read.flag("tie_word_embeddings", False),
            rope_scaling=scaling,
            sliding_window=_sliding_window(read, layers),
            qk_norm=not second,
            qkv_bias=second or bias,
            out_bias=bias,
            **(experts if mixture else {}),  # type: ignore[arg-type]
        )
    )


def _sliding_window(read: ConfigReader, layers: int) -> int | None:
    """The window of all layers; a window of some layers only (the first `max_window_layers` have none) is refused."""
    if not read.flag("use_sliding_window", False):
        return None
    whole = 0 if read.values["model_type"] == "qwen3_moe" else read.values.get("max_window_layers", 28)
    kinds = read.values.get("layer_types")
    slides = [kind == "sliding_attention" for kind in kinds] if kinds else [at >= whole for at in range(layers)]
    if any(slides) and not all(slides):
        read.problem("use_sliding_window gives only some layers a window; all or none must have it")
    if not any(slides):
        return None
    return read.optional("sliding_window") if "sliding_window" in read.values else 4096


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """The keys of the published models; which of the three it is follows from the shape."""
    kind = "qwen3_moe" if config.num_experts else "qwen3" if config.qk_norm else "qwen2"
    experts = {
        "moe_intermediate_size": config.intermediate_size,
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.experts_per_token,
        "norm_topk_prob": config.normalised_shares,
        "router_aux_loss_coef": config.router_aux_loss,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    return {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        **write_shape(config),
        "use_sliding_window": config.sliding_window is not None,
        "sliding_window": config.sliding_window,
        "max_window_layers": 0 if config.sliding_window else config.num_layers,
        **({} if kind == "qwen2" else {"attention_bias": config.out_bias}),
        **(experts if config.num_experts else {}),
    }


def layout(config: DecoderConfig, names: Collection[str]) -> list[Piece]:
    """Every tensor under its own name; experts one by one, unless `names` has them stacked."""
    if not config.num_experts or "model.layers.0.mlp.experts.gate_up_proj" in names:
        return llama.layout(config, names)
    pieces = same_names(outer_names(config))
    for layer in range(config.num_layers):
        pieces += same_names([*norm_names(config, layer), *attention_names(config, layer)])
        pieces += experts_apart(config, layer, f"model.layers.{layer}.mlp", ("gate_proj", "up_proj", "down_proj"))
    return pieces


IGNORED = llama.IGNORED
