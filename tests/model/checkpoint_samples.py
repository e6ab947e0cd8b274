"""Small random checkpoints of every family, in the names and layout in which they were published.

`sample(name)` is (config.json, tensors), the tensors drawn for the shapes that the family's table asks for; whether
the table itself is right is for the oracles in the other tests to say.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from inkstone.model.families import family_of
from inkstone.model.files.pieces import by_theirs, their_shape
from inkstone.model.files.weights import decoder_shapes

Tensors = dict[str, torch.Tensor]
_LLAMA = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
}  # fmt: skip
_CHATGLM = {
    "model_type": "chatglm", "padded_vocab_size": 96, "vocab_size": 96, "hidden_size": 32, "ffn_hidden_size": 48,
    "num_layers": 2, "num_attention_heads": 4, "kv_channels": 8, "multi_query_attention": True,
    "multi_query_group_num": 2, "seq_length": 64, "layernorm_epsilon": 1e-5, "add_qkv_bias": True,
    "add_bias_linear": False, "rmsnorm": True, "original_rope": True, "post_layer_norm": True, "eos_token_id": 2,
    "pad_token_id": 0, "tie_word_embeddings": False, "torch_dtype": "float32",
}  # fmt: skip
_MIXTRAL = {
    **_LLAMA, "model_type": "mixtral", "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2,
    "max_position_embeddings": 64, "rope_theta": 1e6, "sliding_window": None,
}  # fmt: skip
_BLOOM = {
    "model_type": "bloom", "vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4, "seq_length": 64,
    "layer_norm_epsilon": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_LLAMA, "model_type": "llama", "num_key_value_heads": 2, "max_position_embeddings": 64},
    "baichuan-7b": {**_LLAMA, "model_type": "baichuan", "max_position_embeddings": 64},
    "baichuan-13b": {**_LLAMA, "model_type": "baichuan", "model_max_length": 64},
    "bloom": _BLOOM,
    "mixtral": _MIXTRAL,
    "chatglm": _CHATGLM,
}


def tensors_of(config: dict[str, Any], names: tuple[str, ...] = (), seed: int = 0) -> Tensors:
    """Random tensors for every name of the family's table; `names` chooses a published variant, as when reading."""
    family = family_of(config, "sample")
    shape = family.read_config(config, "sample")
    table, ours = by_theirs(family.layout(shape, names)), decoder_shapes(shape)
    generator = torch.Generator().manual_seed(seed)
    return {theirs: torch.randn(their_shape(rows, ours), generator=generator) for theirs, rows in table.items()}


def write(directory: Path, config: dict[str, Any], tensors: Tensors, shards: int = 1) -> Path:
    """A directory as published: one file, or shards with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory
    names = sorted(tensors)
    weight_map = {
        name: f"model-{number % shards + 1:05d}-of-{shards:05d}.safetensors" for number, name in enumerate(names)
    }
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def sample(directory: Path, name: str, shards: int = 1, **changes: object) -> Path:
    config = {**CONFIGS[name], **changes}
    return write(directory, config, tensors_of(config), shards)
