"""Whole numbers of 4 or 8 bits with a scale and a zero for each group of columns: what GPTQ, AWQ, compressed-tensors
and round-to-nearest all store, in one form in memory.

    packed = Grouped(codes_NK, scales_NG, zeros_NG, bits=4, group=128)     # w = scale x (code - zero)
    packed = round_to_nearest(weight_NK, bits=4, group=128)

Rows stay apart in every tensor, so that a family's fused projections are taken apart packed. With act-order, columns
are kept in the order of their groups and the input is put into that order.
"""

import torch
from torch import Tensor, nn

FEW_ROWS = {4: 32, 8: 8}
"""By bits: up to as many rows of input torch's kernel beats dequantising and a bf16 product (docs/quantize.md)."""


class Grouped(nn.Module):
    """A weight [N, K]; `codes` are two 4-bit columns per byte, the first in the low half, or int8, 128 less."""

    def __init__(
        self,
        codes_NK: Tensor,
        scales_NG: Tensor,
        zeros_NG: Tensor,
        bits: int,
        group: int,
        order_K: Tensor | None = None,
    ) -> None:
        """`codes_NK` are unpacked, in the order `order_K` of the columns where it is given."""
        super().__init__()
        self.shape, self.bits, self.group = (codes_NK.shape[0], codes_NK.shape[1]), bits, group
        codes = codes_NK.to(torch.uint8)
        if bits == 4:
            codes = nn.functional.pad(codes, (0, codes.shape[1] % 2))
            codes = codes[:, ::2] | codes[:, 1::2] << 4
        else:
            codes = (codes ^ 128).view(torch.int8)  # as torch's kernel wants them
        self.codes: Tensor
        self.scales: Tensor
        self.zeros: Tensor
        self.order: Tensor | None
        self.register_buffer("codes", codes.contiguous(), persistent=False)
        self.register_buffer("scales", scales_NG.contiguous(), persistent=False)
        self.register_buffer("zeros", _narrow(zeros_NG).contiguous(), persistent=False)
        self.register_buffer("order", order_K, persistent=False)
        self._kernel: tuple[Tensor, Tensor] | None = None
        self._signed = bits == 8 and group == self.shape[1] and order_K is None and bool((zeros_NG == 128).all())

    @property
    def device(self) -> torch.device:
        return self.codes.device

    def unpacked(self) -> Tensor:
        """Codes [N, K], uint8."""
        if self.bits == 8:
            return self.codes.view(torch.uint8) ^ 128
        return torch.stack((self.codes & 15, self.codes >> 4), dim=-1).flatten(1)[:, : self.shape[1]]

    def dequantise(self, dtype: torch.dtype) -> Tensor:
        """The weight [N, K], its columns in their own order."""
        rows, columns = self.shape
        if columns % self.group == 0:
            codes = self.unpacked().view(rows, -1, self.group).float()
            weight = (codes.sub_(self.zeros[..., None]) * self.scales[..., None].float()).to(dtype).view(rows, columns)
        else:
            each = torch.arange(columns, device=self.device) // self.group
            weight = ((self.unpacked() - self.zeros[:, each]) * self.scales[:, each].float()).to(dtype)
        if self.order is None:
            return weight
        out = torch.empty_like(weight)
        out[:, self.order] = weight
        return out

    def take(self, rows: slice | Tensor) -> "Grouped":
        """Some rows, in this order."""
        return Grouped(self.unpacked()[rows], self.scales[rows], self.zeros[rows], self.bits, self.group, self.order)

    def product(self, x: Tensor) -> Tensor | None:
        """x W^T without the dequantised weight, for bfloat16 on a CPU; None where that does not apply."""
        count = x.numel() // self.shape[1]
        if self._signed and x.device.type == "cpu" and x.dtype == torch.bfloat16:
            scales = self.scales[:, 0].to(x.dtype)
            if count > FEW_ROWS[8]:
                return nn.functional.linear(x, self.codes.to(x.dtype)) * scales
            few: Tensor = torch.ops.aten._weight_int8pack_mm(x.reshape(count, -1), self.codes, scales)
            return few.view(*x.shape[:-1], self.shape[0])
        if count > FEW_ROWS[4] or not self._has_kernel(x):
            return None
        if self._kernel is None:
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(self.unpacked().int(), 1)
            scales = self.scales.float()
            both = torch.stack((scales, (8 - self.zeros) * scales), dim=-1).transpose(0, 1)
            self._kernel = (packed, both.contiguous().to(torch.bfloat16))
        rows = x.reshape(count, -1)
        rows = rows if self.order is None else rows[:, self.order]
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows.contiguous(), self._kernel[0], self.group, self._kernel[1]
        )
        return out.view(*x.shape[:-1], self.shape[0])

    def _has_kernel(self, x: Tensor) -> bool:
        fits = self.bits == 4 and self.group in (32, 64, 128, 256) and self.shape[1] % self.group == 0
        return fits and self.shape[0] % 16 == 0 and x.device.type == "cpu" and x.dtype == torch.bfloat16


def _narrow(zeros: Tensor) -> Tensor:
    """Whole numbers in 16 bits; a zero that lies between codes (GGUF) stays as it is."""
    whole = zeros.to(torch.int16)
    return whole if torch.equal(whole.to(zeros.dtype), zeros) else zeros


def round_to_nearest(weight_NK: Tensor, bits: int, group: int, symmetric: bool = True) -> Grouped:
    """Every number to its nearest code; scales are kept in 16 bits. `group` must divide K."""
    groups = weight_NK.float().view(weight_NK.shape[0], -1, group)
    scales, zeros = scales_of(groups, bits, symmetric)
    codes = (groups / scales[..., None]).round_().add_(zeros[..., None]).clamp_(0, 2**bits - 1)
    return Grouped(codes.view(weight_NK.shape), scales.half(), zeros, bits, group)


def scales_of(groups: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero over the last dimension, the scale rounded to 16 bits: who rounds codes must use what is kept."""
    most = 2**bits - 1
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    scales = ((high - low) / most).half().float()
    scales = scales.where(scales > 0, torch.ones_like(scales))
    zeros = torch.full_like(scales, 2 ** (bits - 1)) if symmetric else (-low / scales).round().clamp(0, most)
    return scales, zeros
