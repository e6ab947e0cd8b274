"""Masked attention for training on CPU: explicit batched products, as one opaque operator.

PyTorch's CPU flash kernel walks tiles with scalar mask handling and has a slow backward; at training lengths (up to
about a thousand tokens) five batched matrix products and two softmax passes are two to three times faster, because
oneDNN runs the products on the matrix units. Being opaque keeps torch.compile from replacing the tuned softmax.
Memory is one [B, H, T, T] tensor of probabilities per layer; `PackedContext` uses the flash kernel beyond that.
"""

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("inkstone::masked_attention", mutates_args=())
def masked_attention(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, bias_B1TT: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(d) + bias) v, [B, H, T, d], and the probabilities that backward needs: [B, H, T, T] (with a
    prefix, more keys than queries)."""
    scores = (q_BHTd * q_BHTd.shape[-1] ** -0.5) @ k_BHTd.transpose(-1, -2)
    scores += bias_B1TT
    torch.softmax(scores, -1, out=scores)
    return scores @ v_BHTd, scores


@masked_attention.register_fake
def _(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, bias_B1TT: Tensor) -> tuple[Tensor, Tensor]:
    return q_BHTd.new_empty(q_BHTd.shape), q_BHTd.new_empty(*q_BHTd.shape[:3], k_BHTd.shape[2])


@torch.library.custom_op("inkstone::masked_attention_backward", mutates_args=())
def _masked_attention_backward(
    gradient_BHTd: Tensor, q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, probabilities: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    scale = q_BHTd.shape[-1] ** -0.5
    v_gradient = probabilities.transpose(-1, -2) @ gradient_BHTd
    scores_gradient = gradient_BHTd @ v_BHTd.transpose(-1, -2)
    scores_gradient = torch._softmax_backward_data(scores_gradient, probabilities, -1, probabilities.dtype)
    q_gradient = (scores_gradient @ k_BHTd) * scale
    k_gradient = (scores_gradient.transpose(-1, -2) @ q_BHTd) * scale
    return q_gradient, k_gradient, v_gradient


@_masked_attention_backward.register_fake
def _(gradient_BHTd: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (x.new_empty(x.shape) for x in inputs[:3])
    return q, k, v


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], output[1])


def _backward(ctx: Any, gradient_BHTd: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    return (*_masked_attention_backward(gradient_BHTd, *ctx.saved_tensors), None)


masked_attention.register_autograd(_backward, setup_context=_save_for_backward)
