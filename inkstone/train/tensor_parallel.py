"""Tensor and expert parallelism: the ranks of one tensor group share their rows and split every layer among them.

    split_layers(model, ranks["tensor"])       # before FSDP; q, k, v, gate and up by rows, o and down by columns

Each rank has a part of the heads and of the MLP, and a sum over the group follows o and down (Shoeybi et al. 2019,
arXiv 1909.08053). A mixture's experts are dealt out whole: a rank computes the tokens that the router sent to its own,
and the same sum puts the answers together, so no token has to travel. Norms, router, embedding and head are on every
rank.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from inkstone.errors import InputError
from inkstone.model import Decoder
from inkstone.model.decoder.decoder import Block
from inkstone.model.decoder.experts import Experts, matmul_runs

_ROWS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_COLUMNS = ("self_attn.o_proj", "mlp.down_proj")


def split_layers(model: Decoder, group: DeviceMesh) -> None:
    """Give each rank of the group its part of every layer; in place. Raises InputError for parts that are not even."""
    size, config = group.size(), model.config
    counts = {"num_heads": config.num_heads, "num_kv_heads": config.num_kv_heads}
    counts |= {"num_experts": config.num_experts} if config.num_experts else {"MLP's width": config.intermediate_size}
    uneven = [f"{name} = {count}" for name, count in counts.items() if count % size]
    if uneven:
        raise InputError(f"tensor = {size} does not divide the model's {', '.join(uneven)}: choose another")
    model.held = config.heads_of(group.get_local_rank(), size)
    for block in model.model.layers:
        assert isinstance(block, Block)
        there = dict(block.named_modules())
        plan = {name: ColwiseParallel() for name in _ROWS if name in there}
        parallelize_module(block, group, {**plan, **{name: RowwiseParallel() for name in _COLUMNS if name in there}})
        if block.routed:
            _deal_experts(there["mlp.experts"], group)


def clip_split(model: nn.Module, limit: float, tensor: int, replicate: int) -> float:
    """`clip_grad_norm_` where parameters lie on different meshes; returns the norm before."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    parts = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
    squares = sum(
        (
            part.square().sum() / (1 if _is_split(whole) else tensor)
            for whole, part in zip(gradients, parts, strict=True)
        ),
        torch.zeros((), device=parts[0].device),
    )
    dist.all_reduce(squares)
    norm = (squares / replicate).sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for part in parts:
        part.mul_(scale)
    return float(norm)


def _is_split(tensor: Tensor) -> bool:
    """Whether tensor ranks hold different parts of it."""
    if not isinstance(tensor, DTensor) or "tensor" not in (tensor.device_mesh.mesh_dim_names or ()):
        return False
    return tensor.placements[(tensor.device_mesh.mesh_dim_names or ()).index("tensor")].is_shard()


def _deal_experts(module: nn.Module, group: DeviceMesh) -> None:
    assert isinstance(module, Experts)
    experts = module
    for name, stored in list(experts.named_parameters()):
        setattr(experts, name, nn.Parameter(distribute_tensor(stored.detach(), group, [Shard(0)])))
    own = experts.num_experts // group.size()
    first = own * group.get_local_rank()

    def product(x_MD: Tensor, weights_EOD: Tensor, ends_E: Tensor) -> Tensor:
        """The rows of this rank's experts, zeros elsewhere; after the last product the sum over the group."""
        assert isinstance(weights_EOD, DTensor)
        enters = weights_EOD is experts.gate_up_proj
        if enters:  # every rank learns only from its own rows: what comes back is added up
            shared = DTensor.from_local(x_MD, group, [Replicate()], run_check=False)
            x_MD = shared.to_local(grad_placements=[Partial()])
        start = int(ends_E[first - 1]) if first else 0
        ends = ends_E[first : first + own] - start
        mine_MO = matmul_runs(x_MD[start : start + int(ends[-1])], weights_EOD.to_local(), ends)
        out_MO = F.pad(mine_MO, (0, 0, start, len(x_MD) - start - len(mine_MO)))
        if enters:
            return out_MO
        parts = DTensor.from_local(out_MO, group, [Partial()], run_check=False)
        return parts.redistribute(placements=[Replicate()]).to_local()

    experts.product = product
