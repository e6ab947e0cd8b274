"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded one after the other, and what rounding one changed
in the layer's output is made up for by the columns still to come.

    hessian = Hessian(columns); hessian.add(inputs_MK)
    packed = gptq(weight_NK, hessian, bits=4, group=128)

`U` is the upper Cholesky factor of the inverse Hessian: row i says how column i's error spreads.
"""

import math

import torch
from torch import Tensor

from inkstone.model.packed.grouped import Grouped, scales_of

_BLOCK, _TILE = 32, 256


class Hessian:
    """The mean of 2 x x^T over inputs, in float32, and how loud each column is."""

    def __init__(self, columns: int) -> None:
        self.sum, self.magnitude = torch.zeros(columns, columns), torch.zeros(columns)
        self.tokens = 0

    def add(self, x_MK: Tensor) -> None:
        flat = x_MK.reshape(-1, self.sum.shape[0]).float()
        for start in range(0, len(self.sum), _TILE):  # it is symmetric: the tiles below the diagonal are not computed
            self.sum[start : start + _TILE, start:].addmm_(flat[:, start : start + _TILE].T, flat[:, start:])
        self.magnitude += flat.abs().sum(0)
        self.tokens += len(flat)

    def mean(self) -> Tensor:
        return (self.sum.triu() + self.sum.triu(1).T) * (2 / max(1, self.tokens))

    def loudness(self) -> Tensor:
        """The mean magnitude [K]."""
        return self.magnitude / max(1, self.tokens)

    def scale(self, scale_K: Tensor) -> None:
        """As if the inputs had been divided by `scale_K`."""
        self.sum.div_(scale_K[:, None] * scale_K)
        self.magnitude.div_(scale_K)


@torch.no_grad()
def gptq(
    weight_NK: Tensor,
    hessian: Hessian,
    bits: int,
    group: int,
    symmetric: bool = True,
    act_order: bool = False,
    damp: float = 0.05,
) -> Grouped:
    """The weight rounded for these inputs. Rows do not depend on each other: maps of the same input may be stacked."""
    columns, matrix = weight_NK.shape[1], hessian.mean()
    weight_KN = weight_NK.float().T.contiguous()
    dead = matrix.diagonal() == 0
    matrix.diagonal()[dead] = 1
    weight_KN[dead] = 0
    order = None
    if act_order:
        order = matrix.diagonal().argsort(descending=True, stable=True)
        weight_KN, matrix = weight_KN[order], matrix[order][:, order]
    upper = _upper(matrix, damp)
    diagonal, most = upper.diagonal().tolist(), 2**bits - 1
    codes_KN = torch.empty_like(weight_KN)
    scales: list[Tensor] = []
    zeros: list[Tensor] = []
    # Blocks end where groups do: a group's scale is found from weights that carry all errors before it.
    size = _BLOCK if group == columns else math.gcd(group, _BLOCK)
    for start in range(0, columns, size):
        stop = min(start + size, columns)
        if start % group == 0:
            scale_N, zero_N = scales_of(weight_KN[start : start + group].T, bits, symmetric)
            scales.append(scale_N)
            zeros.append(zero_N)
            low_N, high_N = -zero_N, most - zero_N
        block, inside = weight_KN[start:stop], upper[start:stop, start:stop]
        errors = torch.empty_like(block)
        for at, (row_N, code_N, error_N) in enumerate(zip(block, codes_KN[start:stop], errors, strict=True)):
            torch.div(row_N, scale_N, out=code_N).round_().clamp_(low_N, high_N)
            torch.addcmul(row_N, code_N, scale_N, value=-1, out=error_N).div_(diagonal[start + at])
            block[at + 1 :].addr_(inside[at, at + 1 :], error_N, alpha=-1)
        weight_KN[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    zeros_GN = torch.stack(zeros)
    codes_KN.view(len(zeros), -1, len(weight_NK)).add_(zeros_GN[:, None])
    return Grouped(codes_KN.T, torch.stack(scales, 1).half(), zeros_GN.T, bits, group, order)


def _upper(matrix: Tensor, damp: float) -> Tensor:
    """The factor, with more damping where the matrix is too near to singular."""
    mean = float(matrix.diagonal().mean())
    while True:
        damped = matrix.clone()
        damped.diagonal().add_(damp * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return upper
        damp *= 2
