"""Small checkpoints of the families that transformers does not carry, in their published names, shapes and config keys.

Written by hand from the published conventions, without the package's own tables. Weights are a fixed arithmetic of
(name, index), so that golden figures stay valid whatever the libraries' random generators do.
"""

import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[np.float32]]


def uniform(name: str, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    """Numbers in (-scale, scale) from a hash of the name and each element's index (splitmix64's finaliser)."""
    x = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 20)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return ((x >> np.uint64(40)).astype(np.float64) / 2**23 - 1).astype(np.float32).reshape(shape) * np.float32(scale)


def matrix(name: str, rows: int, columns: int) -> NDArray[np.float32]:
    return uniform(name, (rows, columns), 1.7 * columns**-0.5)


def norm(name: str, size: int) -> NDArray[np.float32]:
    return 1 + uniform(name, (size,), 0.3)


@dataclass(frozen=True)
class Published:
    """config.json and the stored tensors."""

    config: dict[str, Any]
    tensors: Tensors


def baichuan(layers: int, heads: int, head_dim: int, rope: bool, second: bool, vocabulary: int = 96) -> Published:
    """Baichuan-7B (rope), Baichuan-13B (not rope), Baichuan 2 (second)."""
    width, inner = heads * head_dim, 2 * heads * head_dim - 32
    tensors: Tensors = {
        "model.embed_tokens.weight": uniform("embed", (vocabulary, width), 1.0),
        "model.norm.weight": norm("norm", width),
        "lm_head.weight": matrix("lm_head", vocabulary, width) * 4,
    }
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for name, shape in {
            "self_attn.W_pack": (3 * width, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }.items():
            tensors[f"{at}.{name}.weight"] = matrix(f"{at}.{name}", *shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}.{name}.weight"] = norm(f"{at}.{name}", width)
    config = {
        "architectures": ["BaichuanForCausalLM" if second or not rope else "BaiChuanForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"},
        "model_type": "baichuan",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "vocab_size": vocabulary,
        **({"max_position_embeddings": 4096} if rope else {"model_max_length": 4096}),
        **({"model_max_length": 4096, "z_loss_weight": 0} if second else {}),
    }
    return Published(config, tensors)


def chatglm(layers: int, heads: int, groups: int, head_dim: int, vocabulary: int = 96) -> Published:
    """ChatGLM2 and Zhuzhi, with the buffer and the second head that Zhuzhi's index lists."""
    width, inner = heads * head_dim, 2 * heads * head_dim - 32
    fused = (heads + 2 * groups) * head_dim
    tensors: Tensors = {
        "transformer.embedding.word_embeddings.weight": uniform("embed", (vocabulary, width), 1.0),
        "transformer.encoder.final_layernorm.weight": norm("norm", width),
        "transformer.output_layer.weight": matrix("lm_head", vocabulary, width) * 4,
        "transformer.rotary_pos_emb.inv_freq": 1e4
        ** -(np.arange(0, head_dim // 2, 2, dtype=np.float32) * 2 / head_dim),
    }
    for layer in range(layers):
        at = f"transformer.encoder.layers.{layer}"
        for name, shape in {
            "self_attention.query_key_value": (fused, width),
            "self_attention.dense": (width, width),
            "mlp.dense_h_to_4h": (2 * inner, width),
            "mlp.dense_4h_to_h": (width, inner),
        }.items():
            tensors[f"{at}.{name}.weight"] = matrix(f"{at}.{name}", *shape)
        bias = f"{at}.self_attention.query_key_value.bias"
        tensors[bias] = uniform(bias, (fused,), 0.5)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}.{name}.weight"] = norm(f"{at}.{name}", width)
    tensors["lm_head.weight"] = tensors["transformer.output_layer.weight"]
    config = {
        "architectures": ["ChatGLMForConditionalGeneration"],
        "model_type": "chatglm",
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "ffn_hidden_size": inner,
        "hidden_size": width,
        "kv_channels": head_dim,
        "layernorm_epsilon": 1e-05,
        "multi_query_attention": True,
        "multi_query_group_num": groups,
        "num_attention_heads": heads,
        "num_layers": layers,
        "original_rope": True,
        "padded_vocab_size": vocabulary,
        "post_layer_norm": True,
        "quantization_bit": 0,
        "rmsnorm": True,
        "seq_length": 32768,
        "tie_word_embeddings": False,
        "vocab_size": vocabulary,
    }
    return Published(config, tensors)


SMALL = {
    "Baichuan-7B": baichuan(2, 4, 16, rope=True, second=False),
    "Baichuan-13B": baichuan(3, 10, 8, rope=False, second=False),
    "Baichuan2-7B": baichuan(2, 4, 16, rope=True, second=True),
    "Baichuan2-13B": baichuan(2, 5, 16, rope=False, second=True),
    "ChatGLM2-6B": chatglm(3, 6, 2, 16),
}
# What the original configuration classes write by default, where it changes what the weights mean.
_TWO = SMALL["ChatGLM2-6B"]
_EXTENDED = baichuan(2, 4, 16, rope=True, second=True, vocabulary=100)
DEFAULTS = {
    # multi_query_attention false, with no number of groups: the rows of each head are [q; k; v].
    "ChatGLM2, rows by head": replace(
        (by_head := chatglm(2, 4, 4, 16)),
        config={key: value for key, value in by_head.config.items() if not key.startswith("multi_query")},
    ),
    "ChatGLM2, groups for every head": by_head,
    # tie_word_embeddings true beside an output layer, which is what is used.
    "ChatGLM2, said to be tied": replace(_TWO, config={**_TWO.config, "tie_word_embeddings": True}),
    # A vocabulary of its own, and no key that only a Baichuan 2 has.
    "Baichuan2-7B, extended": replace(
        _EXTENDED, config={key: value for key, value in _EXTENDED.config.items() if key != "z_loss_weight"}
    ),
}
# llama.cpp tells Baichuan's two kinds of positions apart by depth alone.
DEEP = {
    "Baichuan-7B": lambda: baichuan(32, 8, 16, rope=True, second=False),
    "Baichuan-13B": lambda: baichuan(40, 40, 4, rope=False, second=False),
    "Baichuan2-7B": lambda: baichuan(32, 8, 16, rope=True, second=True),
    "Baichuan2-13B": lambda: baichuan(40, 10, 16, rope=False, second=True),
    "ChatGLM2-6B": lambda: chatglm(28, 8, 2, 16),
}
