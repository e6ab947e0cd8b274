"""llama.cpp's architectures: which keys say a shape, and under which names the tensors lie.

A table of pieces serves both directions, as for a family. The architectures `llama` and `baichuan` keep the rows of
queries and keys in neighbouring pairs (`paired_rows`), `chatglm` and `bloom` keep their families' fused projections.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch

from inkstone.errors import InputError
from inkstone.model.decoder.config import DecoderConfig, RopeScaling
from inkstone.model.decoder.position import rotary_angles
from inkstone.model.families.layout import Piece, paired_rows

Keys = dict[str, Any]
ARCHITECTURES = ("llama", "baichuan", "bloom", "chatglm", "qwen2", "qwen3")
_BAICHUAN_ALIBI_LAYERS = 40
"""llama.cpp takes a Baichuan of 40 layers for the 13B and gives it ALiBi; any other turns rotary positions."""
_LLAMA3 = (8192, 1.0, 4.0)
"""Original positions and borders of Llama 3's scaling, which GGUF keeps only as the factors they give."""
FACTORS = "rope_freqs.weight"


def read_config(
    keys: Mapping[str, Any], names: Collection[str], factors: torch.Tensor | None, where: str
) -> DecoderConfig:
    """The shape that a file's keys say. Raises InputError for what the decoder does not have."""
    arch = keys.get("general.architecture")
    if arch not in ARCHITECTURES:
        raise InputError(f"{where} has the architecture {arch!r}, which is not read: {', '.join(ARCHITECTURES)} are")

    def said(name: str, default: Any = None) -> Any:
        found = keys.get(f"{arch}.{name}", default)
        if found is None:
            raise InputError(f"{where} has no key {arch}.{name}")
        return found

    def whole(name: str, default: int | None = None) -> int:
        found = said(name, default)
        if isinstance(found, bool) or not isinstance(found, int):
            raise InputError(f"{where}: {arch}.{name} = {found!r} is no whole number")
        return found

    layers, hidden, heads = whole("block_count"), whole("embedding_length"), whole("attention.head_count")
    if heads < 1:
        raise InputError(f"{where}: {arch}.attention.head_count = {heads} is none")
    alibi = arch == "bloom" or (arch == "baichuan" and layers == _BAICHUAN_ALIBI_LAYERS)
    head_dim = whole("attention.key_length", hidden // heads)
    rotary = whole("rope.dimension_count", head_dim)
    config = DecoderConfig(
        vocab_size=whole("vocab_size", len(keys.get("tokenizer.ggml.tokens", ())) or None),
        hidden_size=hidden,
        intermediate_size=whole("feed_forward_length"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=whole("attention.head_count_kv", heads),
        head_dim=head_dim,
        max_positions=whole("context_length"),
        rope_theta=float(said("rope.freq_base", 10000.0)),
        norm_eps=float(said("attention.layer_norm_epsilon" if arch == "bloom" else "attention.layer_norm_rms_epsilon")),
        tie_embeddings="output.weight" not in names,
        norm="layer" if arch == "bloom" else "rms",
        embedding_norm=arch == "bloom",
        position="alibi" if alibi else "rope",
        rotary_dim=None if alibi or rotary == head_dim else rotary,
        rope_scaling=None if alibi else _scaling(keys, arch, factors, where),
        qk_norm="blk.0.attn_q_norm.weight" in names,
        qkv_bias="blk.0.attn_q.bias" in names or "blk.0.attn_qkv.bias" in names,
        out_bias="blk.0.attn_output.bias" in names,
        mlp_bias="blk.0.ffn_down.bias" in names,
        gated=arch != "bloom",
        activation="gelu_tanh" if arch == "bloom" else "silu",
        num_experts=whole("expert_count", 0),
        experts_per_token=whole("expert_used_count", 2) or 2,
    )
    problems = config.problems()
    if factors is not None and config.rope_scaling is None:
        problems.append(f"{FACTORS} scales rotary positions in a way that is not Llama 3's")
    elif config.rope_scaling and factors is not None and not _same_factors(config, factors):
        problems.append(f"{FACTORS} are not the factors of Llama 3's scaling")
    if problems:
        raise InputError([f"{where}: {problem}" for problem in problems])
    return config


def _scaling(keys: Mapping[str, Any], arch: str, factors: torch.Tensor | None, where: str) -> RopeScaling | None:
    kind = keys.get(f"{arch}.rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise InputError(f"{where}: rotary scaling {kind!r} is not read")
    if factors is not None:
        original, low, high = _LLAMA3
        return RopeScaling("llama3", float(factors.max()), original, low, high)
    if kind == "none":
        return None
    return RopeScaling(
        "linear", float(keys.get(f"{arch}.rope.scaling.factor", 1.0)), int(keys[f"{arch}.context_length"])
    )


def rope_factors(config: DecoderConfig) -> torch.Tensor:
    """What each rotary frequency is divided by, float32 [rotary_dim / 2]."""
    one = torch.ones(1, 1)
    turned = [
        torch.atan2(sin, cos)
        for cos, sin in (rotary_angles(shape, one) for shape in (replace(config, rope_scaling=None), config))
    ]
    return (turned[0] / turned[1]).flatten()


def _same_factors(config: DecoderConfig, factors: torch.Tensor) -> bool:
    ours = rope_factors(config)
    return ours.shape == factors.shape and torch.allclose(ours, factors, rtol=1e-3)


def architecture_of(config: DecoderConfig) -> str:
    """Under which name llama.cpp runs this shape. Raises InputError where it has none, or would compute another."""
    scaling = config.rope_scaling
    problem = ""
    if config.norm == "layer":
        arch = "bloom"
        if config.position != "alibi" or config.gated or not (config.qkv_bias and config.out_bias and config.mlp_bias):
            problem = "its LayerNorm is not BLOOM's, and llama.cpp has no architecture of this shape"
    elif config.position == "alibi":
        arch = "baichuan"
        if config.num_layers != _BAICHUAN_ALIBI_LAYERS or config.qkv_bias or config.num_experts:
            problem = (
                f"llama.cpp gives ALiBi only to a Baichuan of {_BAICHUAN_ALIBI_LAYERS} layers, and would turn this one"
            )
    elif config.rotary_dim not in (None, config.head_dim):
        arch = "chatglm"
        if config.tie_embeddings or config.rotary_dim != config.head_dim // 2 or config.out_bias or config.mlp_bias:
            problem = "llama.cpp has no architecture that turns this part of each head"
    elif config.qk_norm:
        arch = "qwen3"
        problem = "llama.cpp's qwen3 has no experts here" if config.num_experts or config.qkv_bias else ""
    else:
        arch = (
            "qwen2" if config.qkv_bias and not (config.out_bias or config.mlp_bias or config.num_experts) else "llama"
        )
        problem = "llama.cpp divides the shares of the chosen experts" if not config.normalised_shares else ""
    if config.head_dim * config.num_heads != config.hidden_size and arch in ("bloom", "baichuan", "chatglm"):
        problem = f"llama.cpp's {arch} has heads of hidden_size / num_heads"
    if scaling and not (scaling.kind == "linear" or (scaling.kind == "llama3" and _llama3_as_published(scaling))):
        problem = f"llama.cpp does not compute this rope_scaling ({scaling.kind}) as the model was made"
    if problem:
        raise InputError(f"no GGUF of this model: {problem}. inkstone convert MODEL DIRECTORY keeps it whole")
    return arch


def _llama3_as_published(scaling: RopeScaling) -> bool:
    return (scaling.original_positions, scaling.low_frequency_factor, scaling.high_frequency_factor) == _LLAMA3


def shape_keys(config: DecoderConfig, arch: str) -> Keys:
    """The keys that say the shape. Where a window would be ignored, the context is no longer than the window."""
    values: Keys = {
        "vocab_size": config.vocab_size,
        "context_length": min(config.max_positions, config.sliding_window or config.max_positions),
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.layer_norm_epsilon" if arch == "bloom" else "attention.layer_norm_rms_epsilon": config.norm_eps,
    }
    if config.position == "rope":
        values |= {"rope.dimension_count": config.rotary_dim or config.head_dim, "rope.freq_base": config.rope_theta}
    elif arch == "baichuan":
        values["rope.dimension_count"] = config.head_dim
    if arch in ("llama", "qwen2", "qwen3"):
        values |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if config.num_experts:
        values |= {"expert_count": config.num_experts, "expert_used_count": config.experts_per_token}
    if config.rope_scaling and config.rope_scaling.kind == "linear":
        values |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_scaling.factor}
    return {f"{arch}.{name}": value for name, value in values.items()}


def layout(config: DecoderConfig, arch: str) -> list[Piece]:
    """The table of weights. What GGUF keeps as [E, N, K] is here [E x N, K]."""
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "model.embed_norm": "token_embd_norm"}
    if not config.tie_embeddings:
        outer["lm_head"] = "output"
    if not config.embedding_norm:
        del outer["model.embed_norm"]
    pieces = []
    for ours, theirs in outer.items():
        norm_bias = config.norm == "layer" and "norm" in ours
        pieces += [Piece(f"{ours}.{kind}", f"{theirs}.{kind}") for kind in _kinds(norm_bias)]
    attention = _fused if arch in ("bloom", "chatglm") else _apart
    for layer in range(config.num_layers):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        for norm, name in (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")):
            pieces += [
                Piece(f"{ours}.{norm}.{kind}", f"{theirs}.{name}.{kind}") for kind in _kinds(config.norm == "layer")
            ]
        pieces += attention(config, arch, ours, theirs)
        for kind in _kinds(config.out_bias):
            pieces.append(Piece(f"{ours}.self_attn.o_proj.{kind}", f"{theirs}.attn_output.{kind}"))
        pieces += _experts(config, ours, theirs) if config.num_experts else _mlp(config, arch, ours, theirs)
    return pieces


def _kinds(bias: bool) -> tuple[str, ...]:
    return ("weight", "bias") if bias else ("weight",)


def _apart(config: DecoderConfig, arch: str, ours: str, theirs: str) -> list[Piece]:
    pieces = []
    paired = arch in ("llama", "baichuan") and config.position == "rope"
    for part, heads in (("q", config.num_heads), ("k", config.num_kv_heads), ("v", config.num_kv_heads)):
        rows = paired_rows(config, 0, heads) if paired and part != "v" else None
        for kind in _kinds(config.qkv_bias):
            pieces.append(
                Piece(f"{ours}.self_attn.{part}_proj.{kind}", f"{theirs}.attn_{part}.{kind}", theirs_rows=rows)
            )
        if config.qk_norm and part != "v":
            pieces.append(Piece(f"{ours}.self_attn.{part}_norm.weight", f"{theirs}.attn_{part}_norm.weight"))
    return pieces


def _fused(config: DecoderConfig, arch: str, ours: str, theirs: str) -> list[Piece]:
    """[all q; all k; all v]; ChatGLM's in neighbouring pairs."""
    queries, groups = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    rows: dict[str, Any] = {"q": slice(0, queries), "k": slice(queries, queries + groups)}
    if arch == "chatglm":
        rows = {"q": paired_rows(config, 0, config.num_heads), "k": paired_rows(config, queries, config.num_kv_heads)}
    rows["v"] = slice(queries + groups, queries + 2 * groups)
    return [
        Piece(f"{ours}.self_attn.{part}_proj.{kind}", f"{theirs}.attn_qkv.{kind}", theirs_rows=at)
        for kind in _kinds(config.qkv_bias)
        for part, at in rows.items()
    ]


def _mlp(config: DecoderConfig, arch: str, ours: str, theirs: str) -> list[Piece]:
    if arch == "chatglm":
        width, both = config.intermediate_size, f"{theirs}.ffn_up.weight"
        return [
            Piece(f"{ours}.mlp.gate_proj.weight", both, theirs_rows=slice(0, width)),
            Piece(f"{ours}.mlp.up_proj.weight", both, theirs_rows=slice(width, 2 * width)),
            Piece(f"{ours}.mlp.down_proj.weight", f"{theirs}.ffn_down.weight"),
        ]
    parts = ("gate", "up", "down") if config.gated else ("up", "down")
    return [
        Piece(f"{ours}.mlp.{part}_proj.{kind}", f"{theirs}.ffn_{part}.{kind}")
        for part in parts
        for kind in _kinds(config.mlp_bias)
    ]


def _experts(config: DecoderConfig, ours: str, theirs: str) -> list[Piece]:
    pieces = [Piece(f"{ours}.mlp.gate.weight", f"{theirs}.ffn_gate_inp.weight")]
    width, hidden = config.intermediate_size, config.hidden_size
    places = {
        "gate": ("gate_up_proj", 0, width),
        "up": ("gate_up_proj", width, width),
        "down": ("down_proj", 0, hidden),
    }
    for part, (name, first, rows) in places.items():
        pieces += [
            Piece(
                f"{ours}.mlp.experts.{name}",
                f"{theirs}.ffn_{part}_exps.weight",
                ours_at=(expert, slice(first, first + rows)),
                theirs_rows=slice(expert * rows, (expert + 1) * rows),
            )
            for expert in range(config.num_experts)
        ]
    return pieces
