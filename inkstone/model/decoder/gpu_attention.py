"""Attention on a GPU without a T x T mask: flash attention of variable lengths, and FlexAttention.

`varlen` and `flex` make once per forward what all layers share and give back `attend(q, k, v)`. What they make has few
different shapes, because torch.compile makes a program for each. Both interfaces of torch still move: only this file
knows them.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from inkstone.model.decoder.visibility import Visibility

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

HEAD_DIMS = range(16, 257, 8)
"""Sizes of a head that both kernels take."""


def varlen(starts: Tensor, longest: int, length: int) -> Attend:
    """Causal attention inside documents of rows of `length` tokens laid end to end (see `PackedContext`).

    `starts` is filled up with empty documents and `longest` rounded up, each to a power of two.
    """
    entries = 1 << (len(starts) - 1).bit_length()
    filled = torch.cat((starts, starts[-1:].expand(entries - len(starts)))).to(torch.int32)
    return partial(_varlen, filled, min(1 << (longest - 1).bit_length(), length))


def _varlen(starts: Tensor, longest: int, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHTd, k_BKTd, v_BKTd))
    grouped: dict[str, Any] = {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}
    out: Any = varlen_attn(q, k, v, starts, starts, longest, longest, window_size=(-1, 0), **grouped)
    return out.view(len(q_BHTd), -1, *out.shape[1:]).transpose(1, 2)


def flex(seen: Visibility, length: int) -> Attend:
    """Attention by `seen`'s rules, which skips blocks of 128 x 128 that nobody sees."""
    make_mask, attention = _flex_kernels(seen.b.is_cuda)
    mask = make_mask(seen.sees, len(seen.b), None, length, seen.prefix + length, device=seen.b.device)
    return partial(attention, score_mod=seen.score, block_mask=mask, enable_gqa=True)


@cache
def _flex_kernels(compiled: bool) -> tuple[Any, ...]:
    """(make block mask, attention). Uncompiled ones hold the whole T x T: for tests, on a CPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    made = (create_block_mask, flex_attention)
    return tuple(torch.compile(kernel, dynamic=False) for kernel in made) if compiled else made
