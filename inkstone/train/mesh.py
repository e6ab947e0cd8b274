"""Which ranks share what: each rank runs its share of the step's rows, gradients are summed over the data ranks.

Started by torchrun (RANK, WORLD_SIZE in the environment); alone otherwise. Because the loss is divided by the step's
global token count before the backward pass, summing gradients is all there is to do.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from torch import nn

from inkstone.errors import InputError


@dataclass(frozen=True)
class Mesh:
    """How the processes of a run are laid out, and which of them this one is.

    `replicate` x `shard` ranks hold different rows (data parallel; weights are split over `shard`); `tensor` ranks
    share the rows of one data rank and split each layer, or its experts.
    """

    rank: int = 0
    replicate: int = 1
    shard: int = 1
    tensor: int = 1

    @property
    def size(self) -> int:
        return self.replicate * self.shard * self.tensor

    @property
    def whole(self) -> bool:
        """Whether each process has all weights."""
        return self.shard == self.tensor == 1

    @property
    def data_size(self) -> int:
        """Number of ranks that see different rows."""
        return self.replicate * self.shard

    @property
    def data_rank(self) -> int:
        """Which share of the rows is this rank's; ranks of one tensor group are neighbours."""
        return self.rank // self.tensor

    @property
    def first(self) -> bool:
        return self.rank == 0


ALONE = Mesh()
"""The mesh of one process."""


def join_mesh(shard: int = 1, tensor: int = 1) -> Mesh:
    """Join the process group torchrun describes; the mesh of one where there is none.

    `shard` x `tensor` ranks hold one copy of the weights together. Raises InputError when they do not divide the
    processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size % (shard * tensor):
        asked = " x ".join(f"{name} = {count}" for name, count in (("shard", shard), ("tensor", tensor)) if count > 1)
        raise InputError(f"{asked} does not divide the {size} processes: set it to a divisor, or start more")
    if size == 1:
        return ALONE
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Mesh(dist.get_rank(), size // (shard * tensor), shard, tensor)


def sum_gradients(model: nn.Module, mesh: Mesh) -> None:
    """Replace every gradient by its sum over the ranks; where weights are sharded, the backward pass has done it."""
    if mesh.size == 1 or not mesh.whole:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def sum_numbers(numbers: list[float], mesh: Mesh) -> list[float]:
    """Each number's sum over the ranks that have different rows."""
    if mesh.size == 1:
        return numbers
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return [float(x) / mesh.tensor for x in total]


def wait_for_all(mesh: Mesh, group: dist.ProcessGroup | None = None) -> None:
    """Return when every rank has come here; `group` is `aside`'s, or the one of all."""
    if mesh.size > 1:
        dist.barrier(group)


def aside(mesh: Mesh) -> dist.ProcessGroup | None:
    """A group for what ranks tell each other while they train, on the CPU; None alone. Every rank calls it."""
    return dist.new_group(backend="gloo") if mesh.size > 1 else None


_PATIENCE = timedelta(days=30)
"""How long a rank waits at the border of stages: the first may curate for days."""


@cache
def _border() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


def announce(message: str, mesh: Mesh) -> str:
    """What the first rank says, on every rank; ranks wait for it as long as it takes."""
    if mesh.size == 1:
        return message
    size = torch.tensor([len(message.encode())])
    dist.broadcast(size, 0, _border())
    text = torch.frombuffer(bytearray(message.encode().ljust(int(size), b"\0")[: int(size)]), dtype=torch.uint8)
    dist.broadcast(text, 0, _border())
    return bytes(text.tolist()).decode()
