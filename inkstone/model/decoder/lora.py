"""Adapters: low-rank ones beside frozen linear maps (Hu et al. 2021, arXiv 2106.09685), with rsLoRA's scale and DoRA.

    names = attach_lora(model, LoraShape(rank=16, alpha=32), torch.Generator().manual_seed(1))
    with adapter_off(model): ...       # the base model, to the last bit
    merge_lora(model)                  # the products added to the weights; the model is a plain one again
    attach_prefix(model, draw_prefix(...))       # or keys and values before every document (`prefix.py`)

Scales and updates are those of PEFT, whose directories `files/adapter.py` reads and writes.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkstone.errors import InputError
from inkstone.model.decoder.decoder import Decoder, Linear
from inkstone.model.decoder.prefix import Prefix
from inkstone.model.packed.linear import PackedLinear

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear maps of a block, as Hugging Face Llama calls them."""


@dataclass(frozen=True)
class LoraShape:
    """Which maps get an adapter and of what size."""

    rank: int
    alpha: float
    targets: tuple[str, ...] = LINEARS
    """By the last part of their names, or the whole name of one."""
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    also: tuple[str, ...] = ()
    """Whole modules that are trained and kept too: embed_tokens, lm_head."""

    @property
    def scale(self) -> float:
        """What the product is multiplied with: alpha / r, or alpha / sqrt(r) (Kalajdzievski 2023, arXiv 2312.03732)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class LoraLinear(nn.Module):
    """base(x) + scale x B A dropout(x). With DoRA (Liu et al. 2024, arXiv 2402.09353) each row of the sum is given the
    length `magnitude`, and that length alone is learned freely."""

    def __init__(self, base: Linear | PackedLinear, shape: LoraShape, device: torch.device) -> None:
        super().__init__()
        self.base, self.shape, self.enabled = base, shape, True
        self.lora_A = nn.Parameter(torch.zeros(shape.rank, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, shape.rank, device=device))
        if shape.dora:
            self.magnitude = nn.Parameter(torch.linalg.vector_norm(base.weight.detach().float(), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x)
        if not self.enabled:
            return out
        dropped = F.dropout(x, self.shape.dropout, self.training)
        added = F.linear(F.linear(dropped, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype)) * self.shape.scale
        if not self.shape.dora:
            return out + added
        ratio = (self.magnitude / self._length().detach()).to(x.dtype)
        bias = self.base.bias
        plain = out if bias is None else out - bias.to(x.dtype)
        return out + (ratio - 1) * plain + ratio * added

    def _length(self) -> Tensor:
        return torch.linalg.vector_norm(self._sum(), dim=1)

    def _sum(self) -> Tensor:
        return self.base.weight.float() + self.shape.scale * (self.lora_B @ self.lora_A)

    @torch.no_grad()
    def merged(self) -> Tensor:
        """The weight [O, D] that does the same, in float32."""
        total = self._sum()
        return total * (self.magnitude / self._length())[:, None] if self.shape.dora else total


def attach_lora(model: Decoder, shape: LoraShape, generator: torch.Generator) -> list[str]:
    """Freeze the model and put adapters on its targets: A uniform as PEFT's, B zero. Returns the adapted names.

    Raises InputError for a target that no block has.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, Linear | PackedLinear)}
    found = {n: module for n, module in linears.items() if {n, n.rpartition(".")[2]} & {*shape.targets}}
    missing = [target for target in shape.targets if not any(f".{name}".endswith(f".{target}") for name in found)]
    if missing and (set(shape.targets) != set(LINEARS) or not found):
        has = [name for name in LINEARS if any(one.endswith(f".{name}") for one in linears)]
        raise InputError(f"lora targets {', '.join(missing)} match nothing: this model has {', '.join(has)}")
    model.requires_grad_(False)
    for name, module in found.items():
        adapted = LoraLinear(module, shape, model.device)
        bound = 1 / math.sqrt(adapted.lora_A.shape[1])
        drawn = torch.rand(adapted.lora_A.shape, generator=generator) * 2 * bound - bound
        adapted.lora_A.data.copy_(drawn)
        _replace(model, name, adapted)
    for name, weight in model.named_parameters():
        if name.split(".")[-2] in shape.also:
            weight.requires_grad_(True)
    return list(found)


def attach_prefix(model: Decoder, prefix: Prefix) -> None:
    """Freeze the model and put a prefix before every document. Raises InputError for a model that has one."""
    if model.model.prefix:
        raise InputError("the base has a prefix of its own, and a model takes one: start from the base of that prefix")
    model.requires_grad_(False)
    model.model.prefix = prefix


def lora_modules(model: Decoder) -> dict[str, LoraLinear]:
    """The adapted maps by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


@contextmanager
def adapter_off(model: Decoder) -> Iterator[None]:
    """Within it the model computes as if it had no adapter."""
    modules: list[LoraLinear | Prefix] = [*lora_modules(model).values()]
    if model.model.prefix and not model.model.prefix.of_base:
        modules.append(model.model.prefix)
    for module in modules:
        module.enabled = False
    try:
        yield
    finally:
        for module in modules:
            module.enabled = True


def merge_lora(model: Decoder) -> None:
    """Add the adapters to the weights, in float32, and take them off."""
    for name, module in lora_modules(model).items():
        if isinstance(module.base, PackedLinear):
            raise InputError(f"{name} is packed: an adapter is merged into plain weights, never into packed ones")
        module.base.weight = nn.Parameter(module.merged().to(module.base.weight.dtype))
        _replace(model, name, module.base)
    model.requires_grad_(True)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, module)
