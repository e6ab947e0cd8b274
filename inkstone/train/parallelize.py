"""Spread a model over the ranks of a mesh: layers over tensor ranks, then everything with FSDP2. The order of a start:

    model = empty(config, mesh)            # on the meta device, sharded, then memory for this rank's parts only
    fill(model, directory)                 # or initialise(model, generator): a rank reads only its boxes
    optimizer = build_optimizer(...)       # over this rank's parts
    load_checkpoint(...)                   # into them

Gradients are summed over all data ranks, never averaged: the loss is divided by the step's units before. Everything
that touches weights in a forward runs inside `Decoder.compute`, the one method around which FSDP gathers them.
"""

from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from inkstone.errors import InputError
from inkstone.model import Decoder, DecoderConfig, load_model
from inkstone.model.files.adapter import own_prefix
from inkstone.model.files.weights import open_weights
from inkstone.train.mesh import Mesh
from inkstone.train.tensor_parallel import split_layers


def empty(config: DecoderConfig, mesh: Mesh, device: str = "cpu") -> Decoder:
    """A decoder whose parameters are this rank's parts, with memory that nobody has written yet."""
    with torch.device("meta"):
        model = Decoder(config)
    parallelize(model, mesh, device)
    model.to_empty(device=device)
    if config.tie_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


def parallelize(model: Decoder, mesh: Mesh, device: str = "cpu") -> None:
    """Split layers over `mesh.tensor` ranks, then shard blocks and the rest over `mesh.shard`, copied; in place."""
    if mesh.whole:
        return
    sizes = {"replicate": mesh.replicate, "shard": mesh.shard, "tensor": mesh.tensor}
    sizes = {name: size for name, size in sizes.items() if size > 1 or name == "shard"}
    ranks = init_device_mesh(device.partition(":")[0], tuple(sizes.values()), mesh_dim_names=tuple(sizes))
    if mesh.tensor > 1:
        split_layers(model, ranks["tensor"])
    if mesh.data_size == 1:
        return
    data = ranks["replicate", "shard"] if mesh.replicate > 1 else ranks["shard"]
    for block in model.model.layers:
        fully_shard(block, mesh=data)
    fully_shard(model, mesh=data)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(model, "compute")


def fill(model: Decoder, directory: Path) -> None:
    """Read this rank's boxes of every tensor of a model directory. Raises InputError for NaN and broken directories."""
    weights = open_weights(directory)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            local = weight.to_local() if isinstance(weight, DTensor) else weight
            if local.numel():
                local.copy_(weights.read(name, _box(weight), local.dtype))


def open_model(directory: Path, mesh: Mesh) -> Decoder:
    """The model of a directory to train on, in float32: whole, or this rank's part of it."""
    if mesh.whole:
        return load_model(directory, torch.float32)
    if own_prefix(directory):
        raise InputError(f"{directory} has a prefix, which is not split: set shard and tensor to 1")
    model = empty(open_weights(directory).config, mesh)
    fill(model, directory)
    return model


def _box(weight: torch.Tensor) -> tuple[range, ...]:
    """Where in the whole tensor this rank's part lies."""
    if not isinstance(weight, DTensor):
        return tuple(range(size) for size in weight.shape)
    sizes, starts = compute_local_shape_and_global_offset(weight.shape, weight.device_mesh, weight.placements)
    return tuple(range(start, start + size) for start, size in zip(starts, sizes, strict=True))


def gathered(model: Decoder, mesh: Mesh) -> Decoder:
    """The whole model on the CPU of the first rank, to be written; every rank calls it, others get theirs back."""
    if mesh.whole:
        return model
    with torch.device("meta"):
        whole = Decoder(model.config)
    for name, weight in model.named_parameters():
        full = weight.full_tensor() if isinstance(weight, DTensor) else weight
        if mesh.first:
            owner, _, last = name.rpartition(".")
            setattr(whole.get_submodule(owner), last, nn.Parameter(full.detach().cpu()))
    if model.config.tie_embeddings:
        whole.lm_head.weight = whole.model.embed_tokens.weight
    return whole if mesh.first else model
