"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) with decay on matrices only, Muon, and the rate's schedule.

Muon (Jordan et al. 2024) updates the matrices inside the blocks by their orthogonalised momentum, scaled to the size of
AdamW's updates (Liu et al. 2025, arXiv 2502.16982), so both take the same learning rate; all else stays with AdamW.
Matrices that are split over ranks are gathered, one stack at a time: an orthogonal matrix has no parts. Embedding, head
and norms may learn faster (`embedding_rate_ratio`), with either: small models gain by it (docs/log.md).
"""

import math
from collections.abc import Iterator
from itertools import groupby
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from inkstone.train.settings import TrainSettings

_QUINTIC = (3.4445, -4.775, 2.0315)
"""Coefficients of Muon's Newton-Schulz iteration (Jordan et al. 2024)."""

STACKED_ELEMENTS = 2**24
"""Of matrices that Muon multiplies in one call; the memory it takes for that is a few times as much."""


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon's update, bit for bit, also for stacks of matrices [E, O, D]: the weights of experts."""

    momentum, steps = 0.95, 5
    dtype = torch.bfloat16
    """Of the iteration's products; float32 where a CPU multiplies that faster (`settle`)."""

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shrink, rate = 1 - group["lr"] * group["weight_decay"], 0.2 * group["lr"]
            for matrices in _of_equal_shape([p for p in group["params"] if p.grad is not None]):
                momenta = [self._momentum(matrix) for matrix in matrices]
                updates = orthogonalised(torch.stack([_whole(one) for one in momenta]), self.steps)
                parts = [_part(update, one) for update, one in zip(updates, momenta, strict=True)]
                here = [_here(matrix) for matrix in matrices]
                torch._foreach_mul_(here, shrink)
                scale = -rate * math.sqrt(max(matrices[0].shape[-2:]))
                torch._foreach_add_(here, parts, alpha=scale)

    def _momentum(self, matrix: Tensor) -> Tensor:
        """Nesterov's, of the gradient, in the dtype of the products."""
        state, gradient = self.state[matrix], matrix.grad
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean = state["momentum_buffer"].lerp_(gradient, 1 - self.momentum)
        return gradient.lerp(mean, self.momentum).to(self.dtype)


def _here(tensor: Tensor) -> Tensor:
    """What this rank holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _whole(momentum: Tensor) -> Tensor:
    """The matrix, or this rank's experts, whose matrices are whole."""
    return momentum.full_tensor() if _splits_matrices(momentum) else _here(momentum)


def _part(update: Tensor, momentum: Tensor) -> Tensor:
    """Of `_whole`'s update, what belongs to this rank."""
    if not _splits_matrices(momentum):
        return update
    sizes, starts = compute_local_shape_and_global_offset(momentum.shape, momentum.device_mesh, momentum.placements)
    return update[tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))]


def _splits_matrices(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether ranks hold parts of matrices [..., O, D], not some of them whole."""
    return isinstance(tensor, DTensor) and any(
        getattr(placement, "dim", 0) >= tensor.dim() - 2
        for placement in tensor.placements
        if not placement.is_replicate()
    )


def _of_equal_shape(matrices: list[Tensor]) -> Iterator[list[Tensor]]:
    """Matrices to be multiplied in one call, which small ones need to fill a machine; large ones fill it alone."""

    def kind(matrix: Tensor) -> tuple[torch.Size, str]:
        return matrix.shape, str(getattr(matrix, "placements", ""))  # the same on all ranks, who gather together

    for _, same in groupby(sorted(matrices, key=kind), key=kind):
        alike = list(same)
        many = max(1, STACKED_ELEMENTS // alike[0].numel())
        yield from (alike[start : start + many] for start in range(0, len(alike), many))


def orthogonalised(update: Tensor, steps: int) -> Tensor:
    """The nearest orthogonal matrix, roughly, of each matrix [..., O, D]: singular values 0.5 to 1.5."""
    a, b, c = _QUINTIC
    tall = update.shape[-2] > update.shape[-1]
    x = (update.mT if tall else update).flatten(0, -3)
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).view_as(update)


class MuonAdamW(torch.optim.Optimizer):
    """Muon for some matrices and AdamW for the rest, behind the interface of one optimizer."""

    def __init__(self, matrices: list[nn.Parameter], rest: torch.optim.AdamW, settings: TrainSettings) -> None:
        self.adamw = rest
        self.muon = Muon(matrices, settings.learning_rate, settings.weight_decay)
        self.muon.state = self.state = rest.state  # one table of moments, as a checkpoint wants it
        self.param_groups = [*rest.param_groups, *self.muon.param_groups]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.adamw.step()
        self.muon.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.adamw.zero_grad(set_to_none)
        self.muon.zero_grad(set_to_none)


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """What the settings ask for; norms and other vectors are not decayed."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    inside = {id(p) for name, p in named.items() if "layers." in name and p.dim() >= 2}
    matrices = [p for p in named.values() if id(p) in inside] if settings.optimizer == "muon" else []
    weights = [p for p in named.values() if not (matrices and id(p) in inside)]
    # One update is one call on many tensors, which must lie on the same ranks.
    kinds = [
        (p.dim() >= 2, getattr(p, "device_mesh", None), 1.0 if id(p) in inside else settings.embedding_rate_ratio)
        for p in weights
    ]
    groups = [
        {
            "params": [p for p, own in zip(weights, kinds, strict=True) if own == kind],
            "weight_decay": settings.weight_decay if kind[0] else 0.0,
            "rate_ratio": kind[2],
        }
        for kind in sorted(dict.fromkeys(kinds), key=lambda kind: not kind[0])
    ]
    adamw = torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=1e-8,
        fused=True,
    )
    return MuonAdamW(matrices, adamw, settings) if matrices else adamw


def settle(optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> None:
    """Bring the moments to where their weights are, and Muon's products to the run's dtype.

    A checkpoint is read before the model moves to its device; a fused AdamW wants its step counts there too.
    """
    if isinstance(optimizer, MuonAdamW):
        optimizer.muon.dtype = dtype
    for weight, moments in optimizer.state.items():
        moments.update({key: moment.to(weight.device) for key, moment in moments.items()})


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """Rate of `step` (from 0) of `steps`: linear warm-up, then decay to `min_learning_rate_ratio` of the peak.

    Until it decays, "wsd" (warm-up, stable, decay; Hu et al. 2024, arXiv 2404.06395) does not depend on `steps`.
    """
    warmup = min(settings.warmup_steps, steps // 2)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    match settings.schedule:
        case "cosine":
            shape = (1 + math.cos(math.pi * done)) / 2
        case "linear":
            shape = 1 - done
        case "wsd":  # 1 - sqrt, which Hagele et al. (2024, arXiv 2405.18392) found best
            shape = 1 - math.sqrt(max(0.0, 1 - (1 - done) / settings.decay_share))
    floor = settings.min_learning_rate_ratio
    return settings.learning_rate * (floor + (1 - floor) * shape)
