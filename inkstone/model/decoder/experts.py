"""Mixture of experts: a router sends each token to its k best experts, and nothing is ever dropped.

Tokens are sorted by expert and each expert multiplies its own run of them, as one grouped matrix product where torch
has it, else expert by expert with the same numbers. There is no capacity: an expert may get no token or all of them.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from inkstone.model.decoder.config import DecoderConfig

ExpertProduct = Callable[[Tensor, Any, Tensor], Tensor]
"""(x [M, D], one projection of all experts, ends [E]) to [M, O], as `matmul_runs`. How the projection is kept is known
only here: who quantises or offloads it puts another module in the parameter's place and passes its own product."""


class Experts(nn.Module):
    """The weights of all experts: gate and up stacked on rows, [E, 2I, D], and down, [E, D, I]."""

    def __init__(self, config: DecoderConfig, product: ExpertProduct) -> None:
        super().__init__()
        self.product, self.num_experts = product, config.num_experts
        hidden, width = config.hidden_size, config.intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(config.num_experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(config.num_experts, hidden, width))

    def forward(self, x_ND: Tensor, share_Nk: Tensor, chosen_Nk: Tensor) -> Tensor:
        """sum over a token's k experts of share x expert(token), [N, D]."""
        per_token = chosen_Nk.shape[1]
        flat = chosen_Nk.flatten()
        order = flat.argsort(stable=True)
        ends_E = (flat[:, None] == torch.arange(self.num_experts, device=flat.device)).sum(0).cumsum(0).to(torch.int32)
        gate, up = self.product(x_ND[order // per_token], self.gate_up_proj, ends_E).chunk(2, dim=-1)
        out = self.product(F.silu(gate) * up, self.down_proj, ends_E)
        # Back in the order of (token, choice), the sum over choices is the same on every run and device.
        out_NkD = out[order.argsort()].view(*chosen_Nk.shape, -1)
        return (out_NkD * share_Nk[..., None].to(out.dtype)).sum(1)


class MixtureMLP(nn.Module):
    """Router and experts in the place of a block's MLP (Jiang et al. 2024, arXiv 2401.04088)."""

    def __init__(self, config: DecoderConfig, product: ExpertProduct) -> None:
        super().__init__()
        self.experts_per_token, self.normalised_shares = config.experts_per_token, config.normalised_shares
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = Experts(config, product)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """The output [B, T, D] and the router's logits [N, E], for the load-balancing loss."""
        x_ND = x_BTD.flatten(0, 1)
        logits_NE = F.linear(x_ND, self.gate.weight.to(x_ND.dtype))
        shares_and_experts = route(logits_NE, self.experts_per_token, self.normalised_shares)
        return self.experts(x_ND, *shares_and_experts).view_as(x_BTD), logits_NE


def route(logits_NE: Tensor, per_token: int, normalised: bool = True) -> tuple[Tensor, Tensor]:
    """Shares [N, k] and experts [N, k]: the k largest logits, ties to the lower number.

    Shares are a softmax over the chosen logits and sum to 1; with `normalised` false it is over all experts' logits.
    """
    best, chosen_NE = logits_NE.float().sort(dim=-1, descending=True, stable=True)
    shares = best[:, :per_token].softmax(-1) if normalised else best.softmax(-1)[:, :per_token]
    return shares, chosen_NE[:, :per_token]


def matmul_runs(x_MD: Tensor, weights_EOD: Tensor, ends_E: Tensor) -> Tensor:
    """Row m of x times its expert's weight transposed, [M, O]; expert e has the rows up to ends_E[e].

    It computes in x's dtype.
    """
    weights_EOD = weights_EOD.to(x_MD.dtype)
    if can_group(x_MD, weights_EOD):
        return F.grouped_mm(x_MD, weights_EOD.transpose(-2, -1), offs=ends_E)
    return _matmul_one_by_one(x_MD, weights_EOD, ends_E)


def can_group(x_MD: Tensor, weights_EOD: Tensor) -> bool:
    """Whether torch's grouped product takes these: rows of 16 bytes; on a GPU and in compiled code bfloat16 only."""
    size, half = x_MD.element_size(), x_MD.dtype == torch.bfloat16
    aligned = x_MD.shape[1] * size % 16 == 0 and weights_EOD.shape[1] * size % 16 == 0
    known = half if x_MD.device.type == "cuda" else x_MD.device.type == "cpu" and (half or not is_compiling())
    return aligned and known and len(x_MD) > 0


@torch.compiler.disable
def _matmul_one_by_one(x_MD: Tensor, weights_EOD: Tensor, ends_E: Tensor) -> Tensor:
    ends = ends_E.tolist()
    starts = [0, *ends[:-1]]
    runs = [F.linear(x_MD[a:b], weight) for a, b, weight in zip(starts, ends, weights_EOD, strict=True)]
    return torch.cat(runs)
