"""Mixtral, Chinese-Mixtral, Huozi 3: Llama with a router and experts in place of the MLP.

Experts are stored one by one (w1 gate, w3 up, w2 down), as published, or stacked, as the decoder keeps them.
"""

from collections.abc import Collection, Mapping
from typing import Any

from inkstone.model.decoder.config import DecoderConfig
from inkstone.model.families.layout import Piece, attention_names, mlp_names, norm_names, outer_names, same_names
from inkstone.model.families.reading import ConfigReader, read_aux_loss, read_rope, write_shape


def read_config(values: Mapping[str, Any], where: str) -> DecoderConfig:
    """A mixtral config.json."""
    read = ConfigReader(values, where)
    read.expect("hidden_act", "silu")
    read.expect("router_jitter_noise", 0, 0.0)
    heads, hidden = read.whole("num_attention_heads"), read.whole("hidden_size")
    positions = read.whole("max_position_embeddings", default=131072)
    theta, scaling = read_rope(read, 1e6, positions)
    return read.finish(
        DecoderConfig(
            vocab_size=read.whole("vocab_size"),
            hidden_size=hidden,
            intermediate_size=read.whole("intermediate_size"),
            num_layers=read.whole("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=read.whole("num_key_value_heads", default=8),
            head_dim=read.whole("head_dim", default=hidden // heads),
            max_positions=positions,
            rope_theta=theta,
            norm_eps=read.number("rms_norm_eps", default=1e-5),
            tie_embeddings=read.flag("tie_word_embeddings", False),
            rope_scaling=scaling,
            sliding_window=read.optional("sliding_window"),
            num_experts=read.whole("num_local_experts", "num_experts", default=8),
            experts_per_token=read.whole("num_experts_per_tok", default=2),
            router_aux_loss=read_aux_loss(read),
        )
    )


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """Readable by transformers 4 and 5."""
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        **write_shape(config),
        "sliding_window": config.sliding_window,
        "num_local_experts": config.num_experts,
        "num_experts_per_tok": config.experts_per_token,
        "router_aux_loss_coef": config.router_aux_loss,
        "output_router_logits": False,
    }


def layout(config: DecoderConfig, names: Collection[str]) -> list[Piece]:
    """Expert by expert, unless `names` has the stacked tensors."""
    pieces = same_names(outer_names(config))
    for layer in range(config.num_layers):
        pieces += same_names([*norm_names(config, layer), *attention_names(config, layer)])
        if f"model.layers.{layer}.mlp.experts.gate_up_proj" in names:
            pieces += same_names(mlp_names(config, layer))
        else:
            block = f"model.layers.{layer}"
            moe = f"{block}.mlp" if f"{block}.mlp.gate.weight" in names else f"{block}.block_sparse_moe"
            pieces += experts_apart(config, layer, moe, ("w1", "w3", "w2"))
    return pieces


def experts_apart(config: DecoderConfig, layer: int, moe: str, parts: tuple[str, str, str]) -> list[Piece]:
    """Router and experts of a layer, stored one by one under `moe`; `parts` are the names of gate, up and down."""
    block, (gate, up, down) = f"model.layers.{layer}", parts
    experts, width = f"{block}.mlp.experts", config.intermediate_size
    pieces = [Piece(f"{block}.mlp.gate.weight", f"{moe}.gate.weight")]
    for expert in range(config.num_experts):
        theirs = f"{moe}.experts.{expert}"
        pieces += [
            Piece(f"{experts}.gate_up_proj", f"{theirs}.{gate}.weight", (expert, slice(0, width))),
            Piece(f"{experts}.gate_up_proj", f"{theirs}.{up}.weight", (expert, slice(width, 2 * width))),
            Piece(f"{experts}.down_proj", f"{theirs}.{down}.weight", (expert,)),
        ]
    return pieces


IGNORED = (r"\.rotary_emb\.inv_freq$", r"^lm_head\.weight$")
