"""The Triton kernel of `paged.py`: a row's keys are read where they lie, in parts that a GPU works at side by side.

A program takes the H / K query heads that share a key head of a row, and one part of the keys. Products run in the
numbers' own type (float32 without tf32), sums and softmax in float32. It runs on a CPU with TRITON_INTERPRET=1.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from inkstone.model.decoder.cached import BLOCK


def attend_in_place(
    q_RHd: Tensor, keys_SKd: Tensor, values_SKd: Tensor, table_RM: Tensor, positions_R: Tensor,
    slopes_H: Tensor | None, window: int | None, splits: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `paged_attention`, of `splits` parts; a part without keys weighs nothing."""
    (rows, heads, size), kv_heads = q_RHd.shape, keys_SKd.shape[1]
    out = q_RHd.new_empty((rows, heads, splits, size), dtype=torch.float32)
    weights = out.new_empty((rows, heads, splits))
    padded = max(16, triton.next_power_of_2(size))
    _attend_part[(rows, kv_heads, splits)](
        q_RHd.contiguous(), keys_SKd, values_SKd, table_RM, positions_R, weights if slopes_H is None else slopes_H,
        out, weights, size**-0.5, table_RM.stride(0), keys_SKd.stride(0), keys_SKd.stride(1),
        HEADS=heads // kv_heads, PADDED_HEADS=max(16, triton.next_power_of_2(heads // kv_heads)),
        SIZE=size, PADDED_SIZE=padded, BLOCK=BLOCK, TILE=64 if padded * q_RHd.element_size() <= 256 else 32,
        SPLITS=splits, ALIBI=slopes_H is not None, WINDOW=window or 0, num_stages=2,
    )  # fmt: skip
    return out, weights


@triton.jit
def _attend_part(
    queries: tl.tensor, keys: tl.tensor, values: tl.tensor, table: tl.tensor, positions: tl.tensor, slopes: tl.tensor,
    out: tl.tensor, weights: tl.tensor, scale: tl.tensor, table_row: tl.tensor, slot_size: tl.tensor,
    head_size: tl.tensor, HEADS: tl.constexpr, PADDED_HEADS: tl.constexpr, SIZE: tl.constexpr,
    PADDED_SIZE: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, ALIBI: tl.constexpr,
    WINDOW: tl.constexpr,
) -> None:  # fmt: skip
    row, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group, place, tile = tl.arange(0, PADDED_HEADS), tl.arange(0, PADDED_SIZE), tl.arange(0, TILE)
    head = (row * tl.num_programs(1) + kv_head) * HEADS + group
    of_group, of_size = group < HEADS, place < SIZE
    both = of_group[:, None] & of_size[None, :]
    q = tl.load(queries + head[:, None] * SIZE + place[None, :], mask=both, other=0.0)
    position = tl.load(positions + row).to(tl.int32)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(position + 1 - WINDOW, 0)
    share = tl.cdiv(tl.cdiv(position + 1 - first, TILE), SPLITS) * TILE
    start = first + split * share
    stop = tl.minimum(start + share, position + 1)
    most = tl.full([PADDED_HEADS], float("-inf"), tl.float32)
    total = tl.zeros([PADDED_HEADS], tl.float32)
    mean = tl.zeros([PADDED_HEADS, PADDED_SIZE], tl.float32)
    if ALIBI:
        slope = tl.load(slopes + kv_head * HEADS + group, mask=of_group, other=0.0)
    for begin in range(start, stop, TILE):
        at = begin + tile
        inside = at < stop
        block = tl.load(table + row * table_row + at // BLOCK, mask=inside, other=0)
        slot = block.to(tl.int64) * BLOCK + at % BLOCK
        where = slot[:, None] * slot_size + kv_head * head_size + place[None, :]
        k = tl.load(keys + where, mask=inside[:, None] & of_size[None, :], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if ALIBI:
            scores -= slope[:, None] * (position - at)[None, :]
        scores = tl.where(inside[None, :], scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        shares, kept = tl.exp(scores - higher[:, None]), tl.exp(most - higher)
        total = total * kept + tl.sum(shares, 1)
        v = tl.load(values + where, mask=inside[:, None] & of_size[None, :], other=0.0)
        mean = mean * kept[:, None] + tl.dot(shares.to(v.dtype), v, input_precision="ieee")
        most = higher
    mean = mean / tl.maximum(total, 1e-38)[:, None]
    tl.store(out + (head * SPLITS + split)[:, None] * SIZE + place[None, :], mean, mask=both)
    tl.store(weights + head * SPLITS + split, most + tl.log(total), mask=of_group)
