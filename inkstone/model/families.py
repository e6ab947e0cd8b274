"""Families: how each one's config.json maps to a `DecoderConfig`, and back for the ones we write.

A family is data and pure functions; nothing outside this file asks which family a model is. Today: llama, whose tensor
names are the decoder's own. A config that asks for arithmetic the decoder does not have is refused, never approximated.
"""

from collections.abc import Mapping
from typing import Any

from inkstone.errors import InputError
from inkstone.model.config import DecoderConfig

_LLAMA_EXPECTED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


def config_from_json(values: Mapping[str, Any], where: str) -> DecoderConfig:
    """Read a family's config.json. Raises InputError naming every key that asks for something we cannot compute."""
    family = values.get("model_type")
    if family != "llama":
        raise InputError(f'{where}: model_type "{family}" is not supported; supported: llama')
    problems = [
        f"{where}: {key} = {values[key]!r} is not supported; expected {expected!r}"
        for key, expected in _LLAMA_EXPECTED.items()
        if values.get(key, expected) != expected
    ]
    # transformers 5 keeps the rotary settings in `rope_parameters`; earlier releases in two keys.
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type != "default":
        problems.append(f'{where}: rope type "{rope_type}" is not supported; expected "default"')
    required = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    problems += [f"{where}: {key} is missing" for key in required if key not in values]
    if problems:
        raise InputError(problems)
    heads = int(values["num_attention_heads"])
    config = DecoderConfig(
        vocab_size=int(values["vocab_size"]),
        hidden_size=int(values["hidden_size"]),
        intermediate_size=int(values["intermediate_size"]),
        num_layers=int(values["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=int(values.get("num_key_value_heads") or heads),
        head_dim=int(values.get("head_dim") or values["hidden_size"] // heads),
        max_positions=int(values.get("max_position_embeddings", 2048)),
        rope_theta=float(rope.get("rope_theta", values.get("rope_theta", 10000.0))),
        norm_eps=float(values.get("rms_norm_eps", 1e-6)),
        tie_embeddings=bool(values.get("tie_word_embeddings", False)),
    )
    if config.problems():
        raise InputError([f"{where}: {problem}" for problem in config.problems()])
    return config


def config_to_json(
    config: DecoderConfig, dtype: str, bos_id: int | None, eos_id: int | None, pad_id: int | None
) -> dict[str, Any]:
    """The llama config.json of `config`, readable by transformers 4 and 5."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
        "torch_dtype": dtype,
        "use_cache": True,
    }
