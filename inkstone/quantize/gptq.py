"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded one after the other, and what rounding one changed
in the layer's output is made up for by the columns still to come.

    hessian = Hessian(columns); hessian.add(inputs_MK)
    packed = gptq(weight_NK, hessian, bits=4, group=128)

`U` is the upper Cholesky factor of the inverse Hessian: row i says how column i's error spreads.
"""

import torch
from torch import Tensor

from inkstone.model.packed.grouped import Grouped, scales_of

_BLOCK = 128


class Hessian:
    """The mean of 2 x x^T over inputs, in float32, and how loud each column is."""

    def __init__(self, columns: int) -> None:
        self.sum, self.magnitude = torch.zeros(columns, columns), torch.zeros(columns)
        self.tokens = 0

    def add(self, x_MK: Tensor) -> None:
        flat = x_MK.reshape(-1, self.sum.shape[0]).float()
        self.sum.addmm_(flat.T, flat)
        self.magnitude += flat.abs().sum(0)
        self.tokens += len(flat)

    def mean(self) -> Tensor:
        return self.sum * (2 / max(1, self.tokens))

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
    most = 2**bits - 1
    codes_KN = torch.empty_like(weight_KN, dtype=torch.uint8)
    scales: list[Tensor] = []
    zeros: list[Tensor] = []
    size = group if group < _BLOCK else _BLOCK
    for start in range(0, columns, size):
        stop = min(start + size, columns)
        errors = torch.empty(stop - start, weight_KN.shape[1])
        for column in range(start, stop):
            if column % group == 0:
                # From weights that already carry the errors of earlier groups.
                found = scales_of(weight_KN[column : column + group].T, bits, symmetric)
                scales.append(found[0])
                zeros.append(found[1])
            row = weight_KN[column]
            code = (row / scales[-1]).round_().add_(zeros[-1]).clamp_(0, most)
            codes_KN[column] = code
            error = (row - (code - zeros[-1]) * scales[-1]) / upper[column, column]
            weight_KN[column:stop].addr_(upper[column, column:stop], error, alpha=-1)
            errors[column - start] = error
        weight_KN[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    return Grouped(codes_KN.T, torch.stack(scales, 1).half(), torch.stack(zeros, 1), bits, group, order)


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
