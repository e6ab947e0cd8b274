"""Muon moves the matrices inside the blocks by nearly orthogonal steps, and leaves everything else to AdamW."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn
from train_samples import SHAPE, run, tiny_model, tiny_settings

from inkstone.model import Decoder
from inkstone.train.optimizer import Muon, build_optimizer


def test_muon_steps_are_nearly_orthogonal_and_as_large_as_those_of_adamw() -> None:
    models = {}
    for kind in ("adamw", "muon"):
        model = models[kind] = tiny_model()
        optimizer = build_optimizer(model, tiny_settings(optimizer=kind, weight_decay=0.0))
        draws = torch.Generator().manual_seed(1)
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=draws)
        optimizer.step()
    start, others = dict(tiny_model().named_parameters()), dict(models["adamw"].named_parameters())
    for name, weight in models["muon"].named_parameters():
        step = weight.detach() - start[name].detach()
        if "layers." in name and weight.dim() == 2:
            lengths = torch.linalg.svdvals(step) / (1e-2 * 0.2 * max(step.shape) ** 0.5)
            assert lengths.min() > 0.3 and lengths.max() < 1.4, name
            assert float(step.square().mean().sqrt()) == pytest.approx(1e-2 * 0.2, rel=0.3)
        else:
            assert torch.equal(weight, others[name]), name


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_muon_equals_that_of_torch_on_matrices(shape: tuple[int, int]) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = (
        Muon([ours], 1e-2, 0.1),
        torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    draws = torch.Generator().manual_seed(1)
    for _ in range(4):
        ours.grad = torch.randn(shape, generator=draws)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(ours, theirs)


def test_muon_moves_each_expert_as_if_it_were_alone_and_skips_none() -> None:
    model = Decoder(replace(SHAPE, num_experts=4, experts_per_token=1))
    optimizer = build_optimizer(model, tiny_settings(optimizer="muon"))
    stacks = {name: p for name, p in model.named_parameters() if p.dim() == 3}
    taken = {id(p) for group in optimizer.muon.param_groups for p in group["params"]}  # type: ignore[attr-defined]
    assert stacks and {id(p) for p in stacks.values()} <= taken
    stack = nn.Parameter(torch.randn(4, 12, 8))
    alone = [nn.Parameter(expert.detach().clone()) for expert in stack]
    stack.grad = torch.randn(4, 12, 8)
    for expert, gradient in zip(alone, stack.grad, strict=True):
        expert.grad = gradient.clone()
    for weights in ([stack], *([one] for one in alone)):  # each alone: equal shapes would be multiplied together
        Muon(weights, 1e-2, 0.1).step()
    torch.testing.assert_close(stack.detach(), torch.stack(alone).detach(), atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_embedding_head_and_norms_may_learn_faster_than_the_blocks(
    optimizer: Literal["adamw", "muon"], tmp_path: Path
) -> None:
    moved = {}
    for ratio in (1.0, 3.0):
        settings = tiny_settings(
            optimizer=optimizer, embedding_rate_ratio=ratio, max_steps=1, warmup_steps=0, weight_decay=0.0
        )
        model, start = run(tmp_path / f"{ratio}", settings)[0], dict(tiny_model().named_parameters())
        moved[ratio] = {name: (p - start[name]).detach() for name, p in model.named_parameters()}
    for name, step in moved[3.0].items():
        inside = "layers." in name and step.dim() == 2
        torch.testing.assert_close(step, moved[1.0][name] * (1.0 if inside else 3.0), atol=1e-6, rtol=1e-4)
