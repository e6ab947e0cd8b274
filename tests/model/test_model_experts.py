"""Mixtures of experts: every token reaches its experts, whatever the router does."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import tiny_model, tokens
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint

from inkstone.model.decoder import experts as experts_module
from inkstone.model.decoder.experts import can_group, matmul_runs, route


def by_hand(model: torch.nn.Module, x_ND: torch.Tensor) -> torch.Tensor:
    """Each token alone through its experts, by their numbers."""
    mlp = model.model.layers[0].mlp  # type: ignore[union-attr]
    out = []
    for x in x_ND:
        logits = mlp.gate.weight @ x
        order = sorted(range(len(logits)), key=lambda e: (-float(logits[e]), e))[: mlp.experts_per_token]
        shares = torch.stack([logits[e] for e in order]).softmax(0)
        each = []
        for expert in order:
            gate, up = (mlp.experts.gate_up_proj[expert] @ x).chunk(2)
            each.append(mlp.experts.down_proj[expert] @ (F.silu(gate) * up))
        out.append(sum(share * y for share, y in zip(shares, each, strict=True)))
    return torch.stack(out)


def states(count: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(count, 32, generator=torch.Generator().manual_seed(seed))


ROUTERS = {
    "as it falls": lambda weight: weight,
    "all tokens to one expert": lambda weight: torch.cat((weight[:1] * 0 + 9, weight[1:] * 0)),
    "an expert that gets no token": lambda weight: torch.cat((weight[:2] * 0 - 9, weight[2:])),
    "every logit the same": torch.zeros_like,
}


@torch.no_grad()
@pytest.mark.parametrize("per_token", [1, 2, 4])
@pytest.mark.parametrize("router", ROUTERS)
def test_each_token_gets_its_experts_sum_whatever_the_router_does(router: str, per_token: int) -> None:
    model = tiny_model(num_experts=4, experts_per_token=per_token)
    mlp = model.model.layers[0].mlp
    mlp.gate.weight.copy_(ROUTERS[router](mlp.gate.weight))
    x = states(37).abs()  # positive, so that a router row of nines wins for every token
    torch.testing.assert_close(mlp(x[None])[0][0], by_hand(model, x), atol=1e-4, rtol=1e-5)


def test_equal_logits_go_to_the_lower_numbers_with_equal_shares() -> None:
    shares, chosen = route(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 2.0, 2.0]]), 2)
    assert chosen.tolist() == [[0, 1], [1, 2]] and torch.equal(shares, torch.full((2, 2), 0.5))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=3, max_size=3), st.sampled_from([torch.float32, torch.bfloat16]))
def test_the_grouped_product_and_its_gradients_equal_expert_by_expert(counts: list[int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(sum(counts))
    x = torch.randn(sum(counts), 16, generator=generator).to(dtype).requires_grad_()
    weights = torch.randn(3, 24, 16, generator=generator).to(dtype).requires_grad_()
    ends = torch.tensor(counts).cumsum(0).to(torch.int32)
    assert can_group(x, weights) == (sum(counts) > 0)
    results = []
    for product in (matmul_runs, experts_module._matmul_one_by_one):
        out = product(x, weights, ends)
        gradients = torch.autograd.grad(out, (x, weights), torch.ones_like(out).contiguous())
        results.append((out.detach(), *gradients))
    for grouped, plain in zip(*results, strict=True):
        torch.testing.assert_close(grouped, plain)


def test_widths_that_the_grouped_product_refuses_are_computed_expert_by_expert() -> None:
    x, weights = torch.randn(6, 30), torch.randn(2, 10, 30)
    assert not can_group(x, weights)
    expected = torch.cat((x[:4] @ weights[0].T, x[4:] @ weights[1].T))
    torch.testing.assert_close(matmul_runs(x, weights, torch.tensor([4, 6], dtype=torch.int32)), expected)


@torch.no_grad()
def test_router_logits_of_every_layer_come_with_the_hidden_states() -> None:
    model, row = tiny_model(num_experts=4), tokens(2, 11)
    hidden, routing = model.hidden_and_routing(row)
    assert torch.equal(hidden, model.hidden(row)) and tiny_model().hidden_and_routing(row)[1] == []
    assert [tuple(logits.shape) for logits in routing] == [(22, 4)] * 2


def test_activation_checkpointing_gives_one_entry_per_layer_and_equal_gradients() -> None:
    model, row = tiny_model(num_experts=4, num_layers=3), tokens(2, 11)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            for block in model.model.layers:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        hidden, routing = model.hidden_and_routing(row)
        loss = hidden.square().sum() + sum(logits.square().sum() for logits in routing)
        gradients.append(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))
        assert [tuple(logits.shape) for logits in routing] == [(22, 4)] * 3
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain is recomputed is None or torch.equal(plain, recomputed)


def test_all_layers_with_experts_are_one_compiled_graph() -> None:
    model, counter = tiny_model(num_experts=4, num_layers=10), CompileCounter()
    model.compute_dtype = torch.bfloat16
    torch.compiler.reset()
    for block in model.model.layers:
        block.compile(backend=counter, dynamic=False)
    for seed in range(2):
        model.hidden_and_routing(tokens(2, 11, seed=seed))
    assert counter.frame_count == 1
