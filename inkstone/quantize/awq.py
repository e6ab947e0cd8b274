"""AWQ (Lin et al. 2023, arXiv 2306.00978): columns that matter are made larger before rounding, and what feeds them is
made smaller by as much, so the model computes the same and its loud columns lose less.

    folded = scale_block(block, hessians, how)      # in place; what changed besides the weights to be rounded
    packed = clipped(weight_NK, hessian, how, group)

Who feeds whom: a norm feeds q, k, v and gate, up (with the router); v feeds o where heads match; up feeds down where
the MLP is gated. The loss of a scale is measured on the maps' own outputs through the Hessian of their inputs,
tr(E H E^T), which is exact and needs no activations kept.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from inkstone.model.decoder.decoder import Block
from inkstone.model.packed.grouped import Grouped, round_to_nearest
from inkstone.quantize.gptq import Hessian
from inkstone.quantize.settings import Quantization

Named = dict[str, torch.nn.Parameter]
Folded = dict[str, Tensor]
"""Parameters beside the rounded ones that changed, by the block's names."""
_RATIOS = 20
"""Exponents that are tried, from 0 (no scale) below 1."""
_SHRINKS = 10
"""Shares of a group's largest magnitude that are tried as its end, from 1 down to a half."""


@torch.no_grad()
def scale_block(block: Block, hessians: dict[str, list[Hessian]], how: Quantization) -> Folded:
    """Scale the block's maps for their inputs; `hessians` follow. Returns the other parameters that changed."""
    named, folded = dict(block.named_parameters()), Folded()
    qkv = [named[f"self_attn.{part}_proj.weight"] for part in "qkv"]
    _fold_norm("input_layernorm", named, qkv, hessians["self_attn.q_proj"], how, folded)
    out = named["self_attn.o_proj.weight"]
    if len(qkv[2]) == out.shape[1] and "self_attn.v_proj.bias" not in named:
        _fold_rows(qkv[2], out, hessians["self_attn.o_proj"], how)
    if block.routed:
        _fold_experts(named, hessians, how, folded)
        return folded
    up, down = named["mlp.up_proj.weight"], named["mlp.down_proj.weight"]
    gate = named.get("mlp.gate_proj.weight")
    inputs, first = ([up], "mlp.up_proj") if gate is None else ([gate, up], "mlp.gate_proj")
    _fold_norm("post_attention_layernorm", named, inputs, hessians[first], how, folded)
    if gate is not None and "mlp.up_proj.bias" not in named:
        _fold_rows(up, down, hessians["mlp.down_proj"], how)
    return folded


def clipped(weight_NK: Tensor, hessian: Hessian, how: Quantization, group: int) -> Grouped:
    """Rounded to nearest, each group's ends drawn in where that loses less of what the group puts out."""
    rows, columns = weight_NK.shape
    groups = weight_NK.float().view(rows, -1, group)
    matrix = hessian.mean()
    blocks = torch.stack([matrix[at : at + group, at : at + group] for at in range(0, columns, group)])
    best, least = groups, torch.full(groups.shape[:2], float("inf"))
    for step in range(_SHRINKS):
        end = groups.abs().amax(-1, keepdim=True) * (1 - 0.5 * step / _SHRINKS)
        tried = groups.clamp(-end, end)
        rounded = round_to_nearest(tried.reshape(rows, columns), how.bits, group, how.symmetric)
        error = rounded.dequantise(torch.float32).view_as(groups) - groups
        lost = (torch.einsum("ngk,gkl->ngl", error, blocks) * error).sum(-1)
        best = torch.where((lost < least)[..., None], tried, best)
        least = torch.minimum(lost, least)
    return round_to_nearest(best.reshape(rows, columns), how.bits, group, how.symmetric)


def _best_scale(weights: Sequence[Tensor], hessians: Sequence[Hessian], how: Quantization) -> Tensor:
    """The scale [K] with the least loss over these maps of one input; a map has its own Hessian, or all have one."""
    columns = weights[0].shape[1]
    group = how.group_of(columns, "a scaled map")
    loud_K = torch.stack([hessian.loudness() for hessian in hessians]).mean(0)
    heavy_K = torch.cat([_relative(weight, group) for weight in weights]).mean(0)
    matrices = [hessian.mean() for hessian in hessians]
    best, least = torch.ones(columns), float("inf")
    for step in range(_RATIOS):
        ratio = step / _RATIOS
        scale_K = (loud_K**ratio / (heavy_K ** (1 - ratio) + 1e-4)).clamp(min=1e-4) if step else torch.ones(columns)
        scale_K = scale_K / (scale_K.max() * scale_K.min()).sqrt()
        lost = 0.0
        for number, weight in enumerate(weights):
            rounded = round_to_nearest(weight.float() * scale_K, how.bits, group, how.symmetric)
            error = rounded.dequantise(torch.float32) / scale_K - weight.float()
            lost += float(((error @ matrices[min(number, len(matrices) - 1)]) * error).sum())
        if lost < least:
            best, least = scale_K, lost
    return best


def _relative(weight: Tensor, group: int) -> Tensor:
    """Magnitudes [N, K] over the largest of their group."""
    groups = weight.float().abs().view(weight.shape[0], -1, group)
    return (groups / groups.amax(-1, keepdim=True).clamp(min=1e-9)).view(weight.shape)


def _fold_norm(
    norm: str, named: Named, maps: Sequence[Tensor], hessians: list[Hessian], how: Quantization, folded: Folded
) -> None:
    """What a norm puts out is made smaller, the maps that read it larger; maps may be stacked by expert."""
    seen = [hessian for hessian in hessians if hessian.tokens]
    flat = [one for weight in maps for one in (weight if weight.dim() == 3 else [weight])]
    known = flat if len(hessians) == 1 else [one for one, hessian in zip(flat, hessians, strict=True) if hessian.tokens]
    scale_K = _best_scale(known, seen, how)
    for weight in maps:
        weight.mul_(scale_K)
    for hessian in hessians:
        hessian.scale(scale_K)
    for name in (f"{norm}.weight", f"{norm}.bias"):
        if name in named:
            folded[name] = named[name].div_(scale_K).detach()
    if norm == "post_attention_layernorm" and "mlp.gate.weight" in named:  # the router reads the same
        folded["mlp.gate.weight"] = named["mlp.gate.weight"].mul_(scale_K).detach()


def _fold_rows(before_KN: Tensor, after_NK: Tensor, hessians: list[Hessian], how: Quantization) -> None:
    """The rows of one map are made smaller, the columns of the one after it larger."""
    scale_K = _best_scale([after_NK], hessians, how)
    before_KN.div_(scale_K[:, None])
    after_NK.mul_(scale_K)
    hessians[0].scale(scale_K)


def _fold_experts(named: Named, hessians: dict[str, list[Hessian]], how: Quantization, folded: Folded) -> None:
    """One scale for what all experts and the router read; one for each expert's last map."""
    first, down = named["mlp.experts.gate_up_proj"], named["mlp.experts.down_proj"]
    _fold_norm("post_attention_layernorm", named, [first], hessians["mlp.experts.gate_up_proj"], how, folded)
    for expert, hessian in enumerate(hessians["mlp.experts.down_proj"]):
        if hessian.tokens:
            _fold_rows(first[expert, first.shape[1] // 2 :], down[expert], [hessian], how)
