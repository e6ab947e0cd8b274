"""Baichuan and ChatGLM2 from their published equations: float64, one head and one token at a time, no shared code."""

import math

import numpy as np
from numpy.typing import NDArray
from published_checkpoints import Published, Tensors

Array = NDArray[np.float64]


def logits(model: Published, tokens: list[int]) -> Array:
    """[T, V] of one row of tokens."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in model.tensors.items()}
    of = _chatglm if model.config["model_type"] == "chatglm" else _baichuan
    return of(model.config, tensors, tokens)


def _rms(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def _swiglu(gate: Array, up: Array) -> Array:
    return gate / (1 + np.exp(-gate)) * up


def _slope(head: int, heads: int) -> float:
    """2^(-8 (i + 1) / n) for a power of two; for other counts the rest interleave the next power's slopes."""
    power = 2 ** math.floor(math.log2(heads))
    if head < power:
        return 2.0 ** (-8 * (head + 1) / power)
    return 2.0 ** (-8 * (2 * (head - power) + 1) / (2 * power))


def _attend(queries: list[Array], keys: list[Array], values: list[Array], slope: float) -> list[Array]:
    """One head: every query over all keys up to its own."""
    out = []
    for t, query in enumerate(queries):
        scores = [float(query @ keys[s]) / math.sqrt(len(query)) + slope * (s - t) for s in range(t + 1)]
        raised = [math.exp(score - max(scores)) for score in scores]
        out.append(sum((weight / sum(raised)) * values[s] for s, weight in enumerate(raised)))
    return out


def _turn_halves(x: Array, position: int) -> Array:
    """Baichuan-7B: dimension i turns with dimension i + d/2."""
    half = len(x) // 2
    out = x.copy()
    for i in range(half):
        angle = position * 10000.0 ** (-2 * i / len(x))
        out[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
        out[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
    return out


def _turn_neighbours(x: Array, position: int) -> Array:
    """ChatGLM2: dimension 2i turns with 2i + 1 in the first half of the head; the second half stays."""
    turning = len(x) // 2
    out = x.copy()
    for i in range(turning // 2):
        angle = position * 10000.0 ** (-2 * i / turning)
        a, b = x[2 * i], x[2 * i + 1]
        out[2 * i] = a * math.cos(angle) - b * math.sin(angle)
        out[2 * i + 1] = b * math.cos(angle) + a * math.sin(angle)
    return out


def _baichuan(config: dict, tensors: Tensors, tokens: list[int]) -> Array:
    heads, eps, width = config["num_attention_heads"], config["rms_norm_eps"], config["hidden_size"]
    rope, size = "max_position_embeddings" in config, width // heads
    x = tensors["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        w = {name.split(f"layers.{layer}.")[-1]: t for name, t in tensors.items() if f".layers.{layer}." in name}
        packed = _rms(x, w["input_layernorm.weight"], eps) @ w["self_attn.W_pack.weight"].T
        joined = np.zeros_like(x)
        for head in range(heads):
            at = slice(head * size, (head + 1) * size)
            q, k, v = (list(packed[:, part * width : (part + 1) * width][:, at]) for part in range(3))
            if rope:
                q, k = ([_turn_halves(row, t) for t, row in enumerate(rows)] for rows in (q, k))
            joined[:, at] = _attend(q, k, v, 0.0 if rope else _slope(head, heads))
        x = x + joined @ w["self_attn.o_proj.weight"].T
        normed = _rms(x, w["post_attention_layernorm.weight"], eps)
        gated = _swiglu(normed @ w["mlp.gate_proj.weight"].T, normed @ w["mlp.up_proj.weight"].T)
        x = x + gated @ w["mlp.down_proj.weight"].T
    head_weight = tensors["lm_head.weight"]
    if "z_loss_weight" in config:
        head_weight = head_weight / np.linalg.norm(head_weight, axis=1, keepdims=True)
    return _rms(x, tensors["model.norm.weight"], eps) @ head_weight.T


def _chatglm(config: dict, tensors: Tensors, tokens: list[int]) -> Array:
    heads, groups = config["num_attention_heads"], config["multi_query_group_num"]
    eps, inner = config["layernorm_epsilon"], config["ffn_hidden_size"]
    x = tensors["transformer.embedding.word_embeddings.weight"][tokens]
    for layer in range(config["num_layers"]):
        w = {name.split(f"layers.{layer}.")[-1]: t for name, t in tensors.items() if f".layers.{layer}." in name}
        fused = _rms(x, w["input_layernorm.weight"], eps) @ w["self_attention.query_key_value.weight"].T
        fused = fused + w["self_attention.query_key_value.bias"]
        pieces = np.split(fused, heads + 2 * groups, axis=1)
        keys = [[_turn_neighbours(row, t) for t, row in enumerate(piece)] for piece in pieces[heads : heads + groups]]
        joined = []
        for head in range(heads):
            queries = [_turn_neighbours(row, t) for t, row in enumerate(pieces[head])]
            group = head // (heads // groups)
            joined.append(np.array(_attend(queries, keys[group], list(pieces[heads + groups + group]), 0.0)))
        x = x + np.concatenate(joined, axis=1) @ w["self_attention.dense.weight"].T
        both = _rms(x, w["post_attention_layernorm.weight"], eps) @ w["mlp.dense_h_to_4h.weight"].T
        x = x + _swiglu(both[:, :inner], both[:, inner:]) @ w["mlp.dense_4h_to_h.weight"].T
    return (
        _rms(x, tensors["transformer.encoder.final_layernorm.weight"], eps)
        @ tensors["transformer.output_layer.weight"].T
    )
