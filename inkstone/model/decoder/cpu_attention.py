"""Masked attention for training on CPU: explicit products of the tiles that can be seen, as one opaque operator.

PyTorch's CPU flash kernel walks tiles with scalar mask handling and has a slow backward; at training lengths (up to
about a thousand tokens) five matrix products and two softmax passes are two to three times faster, because oneDNN runs
the products on the matrix units. A tile is `TILE` queries of one row with all heads, and the keys from the first that
any of them sees: what is ahead and other documents before cost nothing, and its scores stay in the cache. Keys may be
more than queries: those of a prefix come first, and everybody sees them.
Being opaque keeps torch.compile from replacing the tuned softmax. The probabilities of all tiles lie end to end in one
tensor, about half of [B, H, T, T] per layer; `PackedContext` uses the flash kernel beyond `EXPLICIT_LENGTH`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

TILE = 128


def first_keys(bias: Tensor) -> Tensor:
    """The first key that each tile of queries sees, [B or 1, tiles], of a bias [B or 1, H or 1, T, P + T]."""
    seen = bias.amax(1) > -torch.inf
    return torch.stack([tile.any(1).int().argmax(-1) for tile in seen.split(TILE, dim=1)], 1)


@torch.library.custom_op("inkstone::masked_attention", mutates_args=())
def masked_attention(
    q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, bias: Tensor, first: Tensor
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(d) + bias) v, [B, H, T, d], and the probabilities of the tiles that backward needs.

    `bias` [B or 1, H or 1, T, P + T] closes what is ahead; `first` is its `first_keys`.
    """
    out, kept = torch.empty_like(q_BHTd), _room(q_BHTd, k_BHTd)
    for row, queries, keys, probabilities in _tiles(q_BHTd, k_BHTd, first, kept):
        bias_tile = bias[row % len(bias), :, queries, keys].expand_as(probabilities)
        k_HKd, scale = k_BHTd[row, :, keys], q_BHTd.shape[-1] ** -0.5
        scores = torch.baddbmm(bias_tile, q_BHTd[row, :, queries], k_HKd.transpose(1, 2), alpha=scale)
        torch.softmax(scores, -1, out=probabilities)
        out[row, :, queries] = probabilities @ v_BHTd[row, :, keys]
    return out, kept


def _room(q_BHTd: Tensor, k_BHTd: Tensor) -> Tensor:
    """For the probabilities of all tiles, where every tile sees from the first key on."""
    rows, heads, length, _ = q_BHTd.shape
    ends = [min(start + TILE, length) for start in range(0, length, TILE)]
    before = k_BHTd.shape[2] - length
    each = sum((before + end) * (end - start) for start, end in zip([0, *ends], ends, strict=False))
    return q_BHTd.new_empty(rows * heads * each)


def _tiles(q_BHTd: Tensor, k_BHTd: Tensor, first: Tensor, kept: Tensor) -> Iterator[tuple[int, slice, slice, Tensor]]:
    """Of each tile: its row, queries and keys, and the place of its probabilities [H, queries, keys] in `kept`."""
    rows, heads, length, _ = q_BHTd.shape
    starts, used = first.tolist(), 0
    for row in range(rows):
        for tile, start in enumerate(range(0, length, TILE)):
            stop = min(start + TILE, length)
            keys = slice(starts[row % len(starts)][tile], k_BHTd.shape[2] - length + stop)
            size = heads * (stop - start) * (keys.stop - keys.start)
            yield row, slice(start, stop), keys, kept[used : used + size].view(heads, stop - start, -1)
            used += size


@masked_attention.register_fake
def _(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, bias: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q_BHTd), _room(q_BHTd, k_BHTd)


@torch.library.custom_op("inkstone::masked_attention_backward", mutates_args=())
def _masked_attention_backward(
    gradient_BHTd: Tensor, q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, first: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    scale = q_BHTd.shape[-1] ** -0.5
    q_gradient, k_gradient, v_gradient = torch.empty_like(q_BHTd), torch.zeros_like(k_BHTd), torch.zeros_like(v_BHTd)
    for row, queries, keys, probabilities in _tiles(q_BHTd, k_BHTd, first, kept):
        gradient, k_HKd, v_HKd = gradient_BHTd[row, :, queries], k_BHTd[row, :, keys], v_BHTd[row, :, keys]
        v_gradient[row, :, keys].baddbmm_(probabilities.transpose(1, 2), gradient)
        of_scores = torch._softmax_backward_data(
            gradient @ v_HKd.transpose(1, 2), probabilities, -1, probabilities.dtype
        )
        q_gradient[row, :, queries] = (of_scores @ k_HKd) * scale
        k_gradient[row, :, keys].baddbmm_(of_scores.transpose(1, 2), q_BHTd[row, :, queries], alpha=scale)
    return q_gradient, k_gradient, v_gradient


@_masked_attention_backward.register_fake
def _(gradient_BHTd: Tensor, q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
    return torch.empty_like(q_BHTd), torch.empty_like(k_BHTd), torch.empty_like(v_BHTd)


def _save_for_backward(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, _, first = inputs
    ctx.save_for_backward(q, k, v, first, output[1])


def _backward(ctx: Any, gradient_BHTd: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
    return (*_masked_attention_backward(gradient_BHTd, *ctx.saved_tensors), None, None)


masked_attention.register_autograd(_backward, setup_context=_save_for_backward)
