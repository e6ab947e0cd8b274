"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) with decay on matrices only, and the learning rate's schedule."""

import math

import torch
from torch import nn

from inkstone.train.settings import TrainSettings


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """One fused AdamW; norms and other vectors are not decayed."""
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in weights if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=1e-8,
        fused=True,
    )


def move_moments(optimizer: torch.optim.Optimizer) -> None:
    """Bring the moments to where their weights are: a checkpoint is read before the model moves to its device.

    A fused AdamW wants its step counts there too.
    """
    for weight, moments in optimizer.state.items():
        moments.update({key: moment.to(weight.device) for key, moment in moments.items()})


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """Rate of `step` (from 0) of `steps`: linear warm-up, then decay to `min_learning_rate_ratio` of the peak."""
    warmup = min(settings.warmup_steps, steps // 2)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    shape = (1 + math.cos(math.pi * done)) / 2 if settings.schedule == "cosine" else 1 - done
    floor = settings.min_learning_rate_ratio
    return settings.learning_rate * (floor + (1 - floor) * shape)
