"""Muon moves the matrices inside the blocks by nearly orthogonal steps, and leaves everything else to AdamW."""

import pytest
import torch
from train_samples import tiny_model, tiny_settings

from inkstone.train.optimizer import build_optimizer


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
