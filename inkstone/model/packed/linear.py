"""A linear map and a layer's experts over packed weights.

    module = PackedLinear(quantise_nf4(weight), bias)      # computes in its input's dtype, like the decoder's Linear
    experts.gate_up_proj, experts.product = PackedExperts(...), packed_runs

Few rows go through a kernel that reads the packed weight where torch has one; otherwise the weight is dequantised for
the product and forgotten. Gradients reach the input, never the weight: backward dequantises once more instead of
keeping a copy, so that a low-rank adapter trains over a packed base in the packed base's memory.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkstone.model.cpu_speed import bfloat16_speedup
from inkstone.model.packed.as_stored import Stored
from inkstone.model.packed.grouped import Grouped
from inkstone.model.packed.nf4 import Nf4

_MANY_ROWS = 192
"""From here on the numbers of a CPU that is slow in bfloat16 are multiplied in float32: making them wide pays."""


class Prepacked(nn.Module):
    """A plain weight [N, K], on a CPU in oneDNN's own order: the same numbers, read faster for few rows."""

    blocked: Tensor

    def __init__(self, weight_NK: Tensor) -> None:
        super().__init__()
        self.shape = (weight_NK.shape[0], weight_NK.shape[1])
        self.on_cpu = weight_NK.device.type == "cpu"
        if self.on_cpu:
            self.blocked = torch.ops.mkldnn._reorder_linear_weight(weight_NK, 1)
        else:
            self.register_buffer("blocked", weight_NK, persistent=False)
        self.known: tuple[Tensor, Tensor] | None = None
        """An input and what came of it, while some of its `Part`s are still to be asked."""

    def dequantise(self, dtype: torch.dtype) -> Tensor:
        weight: Tensor = self.blocked.to_dense()
        return weight.to(dtype)

    def take(self, rows: slice | Tensor) -> "Prepacked":
        return Prepacked(self.dequantise(torch.bfloat16)[rows].contiguous())

    def product(self, x: Tensor) -> Tensor | None:
        if x.dtype != torch.bfloat16:
            return None
        if not self.on_cpu:
            return F.linear(x, self.blocked)
        if x.numel() >= _MANY_ROWS * self.shape[1] and bfloat16_speedup() < 1:
            return F.linear(x.float(), self.dequantise(torch.float32)).to(x.dtype)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.blocked, None, "none", [], "")
        return out


class Part(nn.Module):
    """Some rows of a weight whose other parts multiply the same input: the first that is asked computes for all."""

    def __init__(self, whole: Prepacked, rows: slice) -> None:
        super().__init__()
        self.whole, self.rows = whole, rows
        self.shape: tuple[int, int] = (rows.stop - rows.start, whole.shape[1])

    def dequantise(self, dtype: torch.dtype) -> Tensor:
        return self.whole.dequantise(dtype)[self.rows]

    def take(self, rows: slice | Tensor) -> Prepacked:
        return Prepacked(self.dequantise(torch.bfloat16)[rows].contiguous())

    def product(self, x: Tensor) -> Tensor | None:
        known = self.whole.known
        if known is None or known[0] is not x:
            out = self.whole.product(x)
            if out is None:
                return None
            known = (x, out)
        # The last part forgets, so that nothing of a long prompt stays.
        self.whole.known = None if self.rows.stop == self.whole.shape[0] else known
        return known[1][..., self.rows]


PackedWeight = Nf4 | Grouped | Prepacked | Part | Stored
"""A weight [N, K] with `shape`, `dequantise(dtype)`, `take(rows)` and `product(x)`."""


class PackedLinear(nn.Module):
    """x to x W^T + bias, W packed."""

    def __init__(self, packed: PackedWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.packed = packed
        self.out_features, self.in_features = packed.shape[0], packed.shape[1]
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The weight [N, K] in float32, dequantised now; it has no gradient."""
        return self.packed.dequantise(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if isinstance(self.packed, Stored) and self.packed.unpack is None:
            return F.linear(x, self.packed.dequantise(x.dtype), bias)  # rounded once, as the decoder's own map
        out = packed_product(x, self.packed)
        return out if bias is None else out + bias


class PackedExperts(nn.Module):
    """One projection of all experts: for each expert the parts that lie below each other (gate, up)."""

    def __init__(self, experts: Sequence[Sequence[PackedWeight]]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.ModuleList(parts) for parts in experts)

    def parts(self) -> list[list[PackedWeight]]:
        """Expert by expert, as they were given."""
        return cast("list[list[PackedWeight]]", [list(cast(nn.ModuleList, parts)) for parts in self.experts])


def packed_product(x: Tensor, packed: PackedWeight) -> Tensor:
    """x W^T in x's dtype, differentiable in x."""
    if torch.is_grad_enabled() and x.requires_grad:
        out: Tensor = _Product.apply(x, packed)
        return out
    fast = packed.product(x)
    return F.linear(x, packed.dequantise(x.dtype)) if fast is None else fast


def packed_runs(x_MD: Tensor, projection: PackedExperts, ends_E: Tensor) -> Tensor:
    """As the decoder's `matmul_runs`, expert by expert; an expert without tokens costs nothing."""
    ends = ends_E.tolist()
    found = zip([0, *ends], ends, projection.parts(), strict=False)
    chosen = [(slice(start, end), parts) for start, end, parts in found if end > start]
    stored = [part for _, parts in chosen for part in parts if isinstance(part, Stored)]
    if stored and stored[0].lane:
        stored[0].lane.line_up(stored)
    return torch.cat([torch.cat([packed_product(x_MD[run], one) for one in parts], -1) for run, parts in chosen])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: PackedWeight) -> Tensor:
        ctx.packed = packed
        return F.linear(x, packed.dequantise(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.packed.dequantise(grads[0].dtype), None
