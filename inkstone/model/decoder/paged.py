"""One new token of each of R rows over a pool of blocks, in shapes that depend on no data: what a CUDA graph can hold.

    for block, context in zip(layers, step_layers(pool, table_RM, positions_R, slopes_H, window)):
        x_R1D, _ = block(x_R1D, angles, context)

Row r has its tokens 0 to positions[r] in the blocks table[r]; entries behind those are never looked at. Nothing here
asks the device for a number. On a GPU a Triton kernel reads the pool in place (`paged_kernel.py`); elsewhere blocks are
gathered and torch's attention is asked, which says what the kernel must give.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from inkstone.model.decoder.attention import position_bias
from inkstone.model.decoder.cached import BLOCK, BlockPool

SPLITS = 8
"""Parts of a row's keys that a GPU reads at once."""


@dataclass(frozen=True)
class StepLayer:
    """The context of one layer: keys and values [slots, K, d], and what all layers share."""

    keys_SKd: Tensor
    values_SKd: Tensor
    slots_R: Tensor
    table_RM: Tensor
    positions_R: Tensor
    slopes_H: Tensor | None
    window: int | None

    def attend(
        self, layer: int, q_RH1d: Tensor, k_RK1d: Tensor, v_RK1d: Tensor, prefix_2KPd: Tensor | None = None
    ) -> Tensor:
        """[R, H, 1, d]. `layer` is not looked at, so that one compiled block serves all layers."""
        self.keys_SKd[self.slots_R], self.values_SKd[self.slots_R] = k_RK1d[:, :, 0], v_RK1d[:, :, 0]
        of_splits_RHPd, weights_RHP = paged_attention(
            q_RH1d[:, :, 0], self.keys_SKd, self.values_SKd, self.table_RM, self.positions_R, self.slopes_H, self.window
        )
        out_RHd = (of_splits_RHPd * weights_RHP.softmax(-1)[..., None]).sum(2)
        return out_RHd.to(q_RH1d.dtype)[:, :, None]


def step_layers(
    pool: BlockPool, table_RM: Tensor, positions_R: Tensor, slopes_H: Tensor | None, window: int | None
) -> Iterator[StepLayer]:
    """The contexts of all layers; tables (int32) and positions are tensors that others fill before each step."""
    blocks_R = table_RM.gather(1, (positions_R // BLOCK)[:, None])[:, 0]
    shared = (blocks_R * BLOCK + positions_R % BLOCK, table_RM, positions_R, slopes_H, window)
    for keys, values in zip(pool.keys, pool.values, strict=True):
        layer = StepLayer(keys.flatten(0, 1), values.flatten(0, 1), *shared)
        for sized_by_pool, axis in ((layer.keys_SKd, 0), (layer.values_SKd, 0), (table_RM, 1)):
            torch._dynamo.maybe_mark_dynamic(sized_by_pool, axis)
        yield layer


@torch.library.custom_op("inkstone::paged_attention", mutates_args=())
def paged_attention(
    q_RHd: Tensor, keys_SKd: Tensor, values_SKd: Tensor, table_RM: Tensor, positions_R: Tensor,
    slopes_H: Tensor | None, window: int | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """In float32, attention inside each part of a row's keys [R, H, P, d] and the log of the part's weight [R, H, P].

    Opaque to torch.compile, which would gather the blocks in memory.
    """
    if q_RHd.is_cuda:
        from inkstone.model.decoder.paged_kernel import attend_in_place  # Triton comes with torch for CUDA only

        return attend_in_place(q_RHd, keys_SKd, values_SKd, table_RM, positions_R, slopes_H, window, SPLITS)
    inside_B = torch.arange(BLOCK, device=q_RHd.device)
    slots_RS = (table_RM[..., None] * BLOCK + inside_B).flatten(1)
    k_RKSd, v_RKSd = (kept[slots_RS].transpose(1, 2) for kept in (keys_SKd, values_SKd))
    distance_R1S = positions_R[:, None, None] - torch.arange(slots_RS.shape[1], device=q_RHd.device)
    bias = position_bias(distance_R1S, slopes_H, window).to(q_RHd.dtype)
    grouped = q_RHd.shape[1] != k_RKSd.shape[1]
    out = F.scaled_dot_product_attention(q_RHd[:, :, None], k_RKSd, v_RKSd, bias, enable_gqa=grouped)
    return out.float(), out.new_zeros(out.shape[:3], dtype=torch.float32)


@paged_attention.register_fake
def _(q_RHd: Tensor, *_: Tensor | int | None) -> tuple[Tensor, Tensor]:
    rows, heads, size = q_RHd.shape
    splits = SPLITS if q_RHd.is_cuda else 1
    of_splits = q_RHd.new_empty((rows, heads, splits, size), dtype=torch.float32)
    return of_splits, of_splits.new_empty((rows, heads, splits))
