"""Several ranks, one step: each rank runs its share of the step's rows, gradients are summed over all of them.

Started by torchrun (RANK, WORLD_SIZE in the environment); alone otherwise. Because the loss is divided by the step's
global token count before the backward pass, summing gradients is all there is to do.
"""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class World:
    """Which rank this process is, of how many."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0


def join_world() -> World:
    """Join the process group torchrun describes; the world of one where there is none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return World(dist.get_rank(), size)


def sum_gradients(model: nn.Module, world: World) -> None:
    """Replace every gradient by its sum over the ranks."""
    if world.size == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def sum_numbers(numbers: list[float], world: World) -> list[float]:
    """Each number's sum over the ranks."""
    if world.size == 1:
        return numbers
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return [float(x) for x in total]


def wait_for_all(world: World) -> None:
    """Return when every rank has come here."""
    if world.size > 1:
        dist.barrier()
