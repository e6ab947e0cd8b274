"""A model's linear maps packed in place, by rounding: what `--quantize` and a packed base for adapters use.

    pack_model(model, "int4")      # "int8": one scale per row; "int4": groups of 128 columns; "nf4": as QLoRA

Embedding, head, router and norms keep their 16 bits.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from inkstone.errors import InputError
from inkstone.model.decoder.decoder import Decoder, Linear
from inkstone.model.decoder.experts import Experts, matmul_runs
from inkstone.model.packed.grouped import round_to_nearest
from inkstone.model.packed.linear import PackedExperts, PackedLinear, PackedWeight, Part, Prepacked, packed_runs
from inkstone.model.packed.nf4 import quantise_nf4

Kind = Literal["int8", "int4", "nf4"]
_TOGETHER = {"self_attn.k_proj": "self_attn.q_proj", "self_attn.v_proj": "self_attn.q_proj"} | {
    "mlp.up_proj": "mlp.gate_proj"
}
"""Maps of one input, and the one that they are multiplied with."""
_GROUPS = (128, 64, 32, 16)


def pack_model(model: Decoder, kind: Kind) -> None:
    """Replace the weights of the blocks, one by one: each is forgotten before the next is packed."""
    for block in model.model.layers:
        for name, module in list(block.named_modules()):
            if isinstance(module, Linear):
                bias = None if module.bias is None else module.bias.detach()
                replace_module(block, name, PackedLinear(pack_weight(module.weight.detach(), kind), bias))
            elif isinstance(module, Experts):
                for part in ("gate_up_proj", "down_proj"):
                    weights = getattr(module, part).detach()
                    put_experts(module, part, [[pack_weight(weight, kind)] for weight in weights])


def prepack_model(model: Decoder) -> None:
    """Put q with k and v, and gate with up, in one product where weights are bfloat16, and all of a CPU's into oneDNN's
    order; no number changes, and no gradient will flow.

    Where a CPU's copies would take more than half of the memory that is free, weights stay the mapped file's: the
    system reads from disk what does not fit, so a model may be larger than the memory.
    """
    on_cpu, together = model.device.type == "cpu", {*_TOGETHER, *_TOGETHER.values()}
    found = [
        (owner, name, module)
        for owner in (*model.model.layers, model)
        for name, module in ([("lm_head", model.lm_head)] if owner is model else owner.named_modules())
        if type(module) is Linear and module.weight.dtype == torch.bfloat16 and (on_cpu or name in together)
    ]
    if on_cpu and sum(module.weight.nbytes for _, _, module in found) > free_bytes() / 2:
        return
    alike: dict[tuple[nn.Module, str], list[tuple[str, Linear]]] = {}
    for owner, name, module in found:
        alike.setdefault((owner, _TOGETHER.get(name, name)), []).append((name, module))
    found.clear()  # so that a GPU forgets each as it is copied
    for owner, first in list(alike):
        modules = alike.pop((owner, first))
        whole = Prepacked(torch.cat([module.weight.detach() for _, module in modules]))
        ends = list(itertools.accumulate(module.out_features for _, module in modules))
        for (name, module), stop in zip(modules, ends, strict=True):
            weight = Part(whole, slice(stop - module.out_features, stop)) if len(modules) > 1 else whole
            bias = None if module.bias is None else module.bias.detach()
            replace_module(owner, name, PackedLinear(weight, bias))


def free_bytes() -> float:
    """Memory that this machine can still give, pages of files included; unbounded where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), float("inf"))


def pack_weight(weight_NK: Tensor, kind: Kind) -> PackedWeight:
    """One weight, rounded. Raises InputError where no group size divides its columns."""
    if kind == "nf4":
        return quantise_nf4(weight_NK)
    columns = weight_NK.shape[1]
    if kind == "int8":
        return round_to_nearest(weight_NK, 8, columns)
    group = next((size for size in _GROUPS if columns % size == 0), None)
    if group is None:
        raise InputError(f"int4 needs rows of a multiple of {_GROUPS[-1]} columns, this model has {columns}: use int8")
    return round_to_nearest(weight_NK, 4, group)


def put_experts(experts: Experts, part: str, packed: Sequence[Sequence[PackedWeight]]) -> None:
    """Packed experts in the place of the parameter `part`."""
    delattr(experts, part)
    setattr(experts, part, PackedExperts(packed))
    experts.product = packed_runs


def replace_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where `root` has `name`."""
    owner, _, last = name.rpartition(".")
    setattr(root.get_submodule(owner), last, module)


def put_packed(model: Decoder, packed: Mapping[str, Sequence[Sequence[PackedWeight]]]) -> None:
    """Weights as a checkpoint stores them, by our names, in the places of the model's own."""
    for name, stored in packed.items():
        owner, _, last = name.rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(module, Experts):
            put_experts(module, last, stored)
        elif isinstance(module, nn.Linear):
            replace_module(model, owner, PackedLinear(stored[0][0], module.bias))
        else:
            raise InputError(f"{name} is quantised, which is not read: only linear maps and experts are")


def packed_maps(model: nn.Module) -> int:
    """How many weights are packed."""
    return sum(isinstance(module, PackedLinear | PackedExperts) for module in model.modules())


def unpacked(module: PackedLinear, dtype: torch.dtype) -> Linear:
    """A plain map with the packed one's values."""
    linear = Linear(1, 1)
    linear.in_features, linear.out_features = module.in_features, module.out_features
    linear.weight = nn.Parameter(module.packed.dequantise(dtype))
    linear.register_parameter("bias", module.bias)
    return linear


@torch.no_grad()
def unpack_model(model: Decoder) -> None:
    """Plain weights again, with the packed ones' values, in the model's dtype."""
    dtype = model.model.embed_tokens.weight.dtype
    for name, module in list(model.named_modules()):
        if isinstance(module, PackedLinear):
            replace_module(model, name, unpacked(module, dtype))
        elif isinstance(module, PackedExperts):
            weights = [torch.cat([part.dequantise(dtype) for part in parts]) for parts in module.parts()]
            owner, _, last = name.rpartition(".")
            experts = model.get_submodule(owner)
            delattr(experts, last)
            setattr(experts, last, nn.Parameter(torch.stack(weights)))
            experts.product = matmul_runs  # type: ignore[assignment]
