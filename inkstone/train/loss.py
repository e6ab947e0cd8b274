"""Cross entropy of the next token without ever holding the full logits.

Hidden states are projected in chunks of positions; each chunk's gradient is made in the forward pass, while its logits
are in cache, so the head costs three matrix products per chunk and no recomputation. Positions with zero weight
(padding, user turns, the first token of a document) are dropped before the projection.

The result is a sum, never a mean: the loop divides by the step's global number of supervised tokens, so that
micro-batches, accumulation and ranks cannot change the loss.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

CHUNK = 512
"""Positions per chunk: 512 x 8192 float32 logits are 16 MiB, which a CPU keeps in cache."""

ChunkGradient = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def chunk_gradient(logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted loss sum of a chunk and its gradient with respect to the logits (softmax - one hot), in their dtype."""
    wide = logits_NV.float()
    log_z_N = wide.logsumexp(-1)
    loss = ((log_z_N - wide.gather(1, targets_N[:, None])[:, 0]) * weights_N).sum()
    columns = torch.arange(logits_NV.shape[1], device=logits_NV.device)
    one_hot_NV = (columns == targets_N[:, None]).float()
    gradient = ((wide - log_z_N[:, None]).exp() - one_hot_NV) * weights_N[:, None]
    return loss, gradient.to(logits_NV.dtype)


@cache
def _compiled_chunk_gradient() -> ChunkGradient:
    return torch.compile(chunk_gradient, dynamic=False)


def next_token_loss(
    hidden_BTD: Tensor,
    head_weight_VD: Tensor,
    tokens_BT: Tensor,
    weights_BT: Tensor,
    compiled: bool = False,
) -> Tensor:
    """Sum over positions of weight x -log p(token | the tokens before it in its row).

    `weights_BT[b, t]` belongs to the token at t; column 0 is never predicted. `compiled` takes the compiled form of
    `chunk_gradient`.
    """
    targets = tokens_BT[:, 1:].reshape(-1)
    weights = weights_BT[:, 1:].reshape(-1)
    keep = weights.nonzero()[:, 0]
    gradient_of = _compiled_chunk_gradient() if compiled else chunk_gradient
    hidden_ND = hidden_BTD[:, :-1].reshape(-1, hidden_BTD.shape[-1])[keep]
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden_ND, head_weight_VD, targets[keep], weights[keep], gradient_of)
    return loss


def token_logprobs(hidden_ND: Tensor, head_weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """log p(target | hidden) of N positions, float32 [N], differentiable, without the full logits [N, V].

    What preferences, rewards and policies weigh. Logits are made again in the backward pass, which saves their memory.
    """
    logprobs: Tensor = _ChunkedLogprobs.apply(hidden_ND, head_weight_VD, targets_N)
    return logprobs


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
        head = head_VD.to(hidden_ND.dtype)
        logprobs = torch.empty(len(hidden_ND), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, len(hidden_ND), CHUNK):
            chunk = slice(start, start + CHUNK)
            logits = (hidden_ND[chunk] @ head.T).float()
            logprobs[chunk] = logits.gather(1, targets_N[chunk, None])[:, 0] - logits.logsumexp(-1)
        ctx.save_for_backward(hidden_ND, head_VD, targets_N)
        return logprobs

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_ND, head_VD, targets_N = ctx.saved_tensors  # type: ignore[attr-defined]
        head = head_VD.to(hidden_ND.dtype)
        hidden_gradient = torch.empty_like(hidden_ND)
        head_gradient = torch.zeros_like(head_VD, dtype=torch.float32)
        for start in range(0, len(hidden_ND), CHUNK):
            chunk = slice(start, start + CHUNK)
            # chunk_gradient is that of -weight x log p.
            _, gradient = chunk_gradient(hidden_ND[chunk] @ head.T, targets_N[chunk], -grads[0][chunk])
            hidden_gradient[chunk] = gradient @ head
            head_gradient += gradient.T @ hidden_ND[chunk]
        return hidden_gradient, head_gradient.to(head_VD.dtype), None


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor, gradient_of: ChunkGradient
    ) -> Tensor:
        head = head_VD.to(hidden_ND.dtype)
        hidden_gradient = torch.empty_like(hidden_ND)
        head_gradient = torch.zeros_like(head_VD, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, len(hidden_ND), CHUNK):
            chunk = slice(start, min(start + CHUNK, len(hidden_ND)))
            hidden, targets, weights, length = _pad_chunk(hidden_ND[chunk], targets_N[chunk], weights_N[chunk])
            loss, logits_gradient = gradient_of(hidden @ head.T, targets, weights)
            total += loss
            hidden_gradient[chunk] = (logits_gradient @ head)[:length]
            head_gradient += logits_gradient.T @ hidden
        ctx.save_for_backward(hidden_gradient, head_gradient.to(head_VD.dtype))
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_gradient, head_gradient = ctx.saved_tensors  # type: ignore[attr-defined]
        return hidden_gradient * grads[0].to(hidden_gradient.dtype), head_gradient * grads[0], None, None, None


def _pad_chunk(hidden: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Fill the last chunk up with zero-weight rows, so that a compiled gradient sees one shape only."""
    length = len(hidden)
    missing = CHUNK - length
    if missing:
        hidden = torch.cat((hidden, hidden.new_zeros(missing, hidden.shape[1])))
        targets = torch.cat((targets, targets.new_zeros(missing)))
        weights = torch.cat((weights, weights.new_zeros(missing)))
    return hidden, targets, weights, length
