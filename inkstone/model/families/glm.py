"""GLM-4 9B (transformers' `glm`): Llama's names, positions on a part of each head in neighbouring pairs, gate and up
in one tensor."""

from collections.abc import Collection, Mapping
from typing import Any

from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.families.layout import (
    Piece,
    attention_names,
    norm_names,
    outer_names,
    paired_rows,
    same_names,
)
from inkstone.model.families.llama import IGNORED
from inkstone.model.families.reading import ConfigReader, read_rope, write_shape

__all__ = ["IGNORED", "layout", "read_config", "write_config"]


def read_config(values: Mapping[str, Any], where: str) -> DecoderConfig:
    """A glm config.json, as transformers 4 and 5 write it."""
    read = ConfigReader(values, where)
    read.expect("hidden_act", "silu")
    heads, hidden = read.whole("num_attention_heads"), read.whole("hidden_size")
    positions = read.whole("max_position_embeddings", default=131072)
    theta, scaling = read_rope(read, 10000.0, positions)
    head_dim = read.whole("head_dim", default=128)
    parameters = values.get("rope_parameters")
    part = ConfigReader({**values, **(parameters if isinstance(parameters, Mapping) else {})}, where, read.problems)
    return read.finish(
        DecoderConfig(
            vocab_size=read.whole("vocab_size"),
            hidden_size=hidden,
            intermediate_size=read.whole("intermediate_size"),
            num_layers=read.whole("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=read.whole("num_key_value_heads", default=2),
            head_dim=head_dim,
            max_positions=positions,
            rope_theta=theta,
            norm_eps=read.number("rms_norm_eps", default=1.5625e-7),
            tie_embeddings=read.flag("tie_word_embeddings", False),
            rotary_dim=int(head_dim * part.number("partial_rotary_factor", default=0.5)),
            rope_scaling=scaling,
            qkv_bias=read.flag("attention_bias", True),
        )
    )


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """The keys of transformers 4 and 5 side by side."""
    values = write_shape(config)
    part = (config.rotary_dim or config.head_dim) / config.head_dim
    values["rope_parameters"]["partial_rotary_factor"] = part
    head = {"architectures": ["GlmForCausalLM"], "model_type": "glm"}
    return {**head, **values, "partial_rotary_factor": part, "attention_bias": config.qkv_bias}


def layout(config: DecoderConfig, names: Collection[str]) -> list[Piece]:
    """Rows of q and k in the decoder's order; `gate_up_proj` is [gate; up] on rows."""
    pieces = same_names(outer_names(config))
    heads, width = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}, config.intermediate_size
    for layer in range(config.num_layers):
        for name in attention_names(config, layer):
            turning = heads.get(name.split(".")[-2])
            pieces.append(Piece(name, name, theirs_rows=paired_rows(config, 0, turning) if turning else None))
        mlp = f"model.layers.{layer}.mlp"
        pieces += [
            *same_names([*norm_names(config, layer), f"{mlp}.down_proj.weight"]),
            Piece(f"{mlp}.gate_proj.weight", f"{mlp}.gate_up_proj.weight", theirs_rows=slice(0, width)),
            Piece(f"{mlp}.up_proj.weight", f"{mlp}.gate_up_proj.weight", theirs_rows=slice(width, 2 * width)),
        ]
    return pieces
