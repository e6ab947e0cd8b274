"""NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314): bitsandbytes' numbers, bit for bit.

    packed = quantise_nf4(weight_NK)
    packed.dequantise(torch.bfloat16)

Blocks of 64 neighbouring numbers share their largest magnitude; each number is one of 16 levels that hold equally many
numbers of a normal distribution. The magnitudes, less their mean, are themselves kept in 8 bits by blocks of 256.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from inkstone.errors import InputError

BLOCK, NESTED_BLOCK = 64, 256
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The 16 levels as published."""


class Nf4(nn.Module):
    """A weight [N, K] in NF4. `codes` has two numbers per byte, the first in the high half."""

    def __init__(
        self,
        codes: Tensor,
        absmax: Tensor,
        shape: Sequence[int],
        nested: tuple[Tensor, Tensor, float] | None = None,
        levels: Tensor | None = None,
        block: int = BLOCK,
    ) -> None:
        """`absmax` is float32, or 8 bits with `nested` = (levels [256], magnitudes by 256 blocks, mean)."""
        super().__init__()
        self.shape, self.block = (int(shape[0]), int(shape[1])), block
        self.codes: Tensor
        self.absmax: Tensor
        self.levels: Tensor
        self.register_buffer("codes", codes.reshape(-1), persistent=False)
        self.register_buffer("absmax", absmax.reshape(-1), persistent=False)
        self.register_buffer("levels", torch.tensor(LEVELS) if levels is None else levels, persistent=False)
        self.nested_levels: Tensor | None
        self.nested_absmax: Tensor | None
        self.register_buffer("nested_levels", nested[0] if nested else None, persistent=False)
        self.register_buffer("nested_absmax", nested[1] if nested else None, persistent=False)
        self.offset = nested[2] if nested else 0.0

    @property
    def device(self) -> torch.device:
        return self.codes.device

    def magnitudes(self) -> Tensor:
        """The largest magnitude of each block, float32."""
        if self.nested_levels is None or self.nested_absmax is None:
            return self.absmax
        each = self.nested_absmax.repeat_interleave(NESTED_BLOCK)[: len(self.absmax)]
        return self.nested_levels[self.absmax.int()] * each + self.offset

    def dequantise(self, dtype: torch.dtype) -> Tensor:
        """The weight [N, K]."""
        pairs = torch.cartesian_prod(self.levels, self.levels)
        flat = pairs.index_select(0, self.codes.int()).view(-1)
        count = self.shape[0] * self.shape[1]
        if count % self.block:
            scale = self.magnitudes().repeat_interleave(self.block)[:count]
            return (flat[:count] * scale).to(dtype).view(self.shape)
        return (flat.view(-1, self.block) * self.magnitudes()[:, None]).to(dtype).view(self.shape)

    def product(self, x: Tensor) -> Tensor | None:
        """There is no kernel of stock torch that multiplies without dequantising."""
        return None

    def take(self, rows: slice | Tensor) -> "Nf4":
        """Some rows, in this order. Raises InputError where blocks reach over the ends of rows."""
        if self.shape[1] % self.block:
            raise InputError(
                f"NF4 blocks of {self.block} reach over rows of {self.shape[1]}: rows cannot be told apart"
            )
        codes, absmax = self.codes.view(self.shape[0], -1)[rows], self.magnitudes().view(self.shape[0], -1)[rows]
        return Nf4(codes, absmax, (len(codes), self.shape[1]), levels=self.levels, block=self.block)


def quantise_nf4(weight_NK: Tensor) -> Nf4:
    """Round to the nearest level, magnitudes doubly quantised."""
    codes, absmax = _nearest(weight_NK.float().reshape(-1), torch.tensor(LEVELS, device=weight_NK.device), BLOCK)
    if len(codes) % 2:
        codes = torch.cat((codes, codes.new_full((1,), 7)))
    offset = absmax.mean()
    levels = dynamic_levels().to(weight_NK.device)
    absmax_codes, nested_absmax = _nearest(absmax - offset, levels, NESTED_BLOCK)
    nested = (levels, nested_absmax, float(offset))
    return Nf4(codes[::2] << 4 | codes[1::2], absmax_codes, weight_NK.shape, nested)


def dynamic_levels() -> Tensor:
    """256 levels whose precision falls with their magnitude (Dettmers 2016, arXiv 1511.04561): what bitsandbytes'
    dynamic map is, seven powers of ten with 1, 2, 4 ... 64 levels each, both signs, 0 and 1."""
    found = [0.0, 1.0]
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1, dtype=torch.float32)
        middles = (10 ** (power - 6)) * ((edges[:-1] + edges[1:]) / 2.0)
        found += [*middles.tolist(), *(-middles).tolist()]
    return torch.tensor(sorted(found), dtype=torch.float32)


def _nearest(flat: Tensor, levels: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Each number's level and each block's largest magnitude."""
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % block)).view(-1, block)
    absmax = padded.abs().amax(1)
    scaled = (padded * (1.0 / absmax.clamp(min=1e-38))[:, None]).clamp(-1, 1).view(-1)[: len(flat)]
    middles = (levels[:-1] + levels[1:]) / 2
    return torch.bucketize(scaled, middles, out_int32=True).to(torch.uint8), absmax
