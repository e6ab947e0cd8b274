"""Who sees whom in packed rows, said once for every attention path: as rules over indices, or as a bias made from them.

The rules take numbers of rows, heads, queries and keys that broadcast, as FlexAttention asks. Distances are between
positions inside a document, so packing does not change ALiBi or a sliding window. The first P keys may be a
prefix's: every document sees them, at positions -P to -1, whatever the window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Visibility:
    """The rules of a batch and its numbers of rows [B, 1, 1, 1] and heads [H, 1, 1]: one where all share the rules."""

    sees: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """Whether query `q` of row `b` may look at key `k`: not ahead, in its own document, inside the window."""
    score: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    """The score less slope x distance."""
    b: Tensor
    h: Tensor
    prefix: int = 0

    @classmethod
    def of(
        cls,
        positions_BT: Tensor,
        ids_BT: Tensor | None,
        slopes_H: Tensor | None,
        window: int | None,
        prefix: int = 0,
    ) -> Self:
        """Causal attention inside documents (`ids_BT` None: inside rows), with ALiBi and a window where given."""

        def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            at = (k - prefix).clamp(min=0) if prefix else k
            seen = at <= q
            if ids_BT is not None:
                seen = seen & (ids_BT[b, q] == ids_BT[b, at])
            if window is not None:
                seen = seen & (positions_BT[b, q] - positions_BT[b, at] < window)
            return seen | (k < prefix) if prefix else seen

        def score(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            if slopes_H is None:
                return score
            at = k - prefix
            place = torch.where(at < 0, at, positions_BT[b, at.clamp(min=0)]) if prefix else positions_BT[b, k]
            return score - slopes_H[h] * (positions_BT[b, q] - place)

        rows, heads = 1 if ids_BT is None else len(ids_BT), 1 if slopes_H is None else len(slopes_H)
        numbers = torch.arange(max(rows, heads), device=positions_BT.device)
        return cls(sees, score, numbers[:rows, None, None, None], numbers[:heads, None, None], prefix)

    def bias(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """[B or 1, H or 1, stop - start, P + stop] for queries from `start`: 0 or -slope x distance, or -inf."""
        k = torch.arange(self.prefix + stop, device=self.b.device)
        at = (self.b, self.h, k[start:stop, None], k)
        bias = torch.where(self.sees(*at), self.score(k.new_zeros((), dtype=dtype), *at).to(dtype), -torch.inf)
        return bias[(None,) * (4 - bias.dim())]  # where neither rows nor heads matter
