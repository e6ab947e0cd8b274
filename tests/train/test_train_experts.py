"""Training of mixtures of experts: the load-balancing loss joins the loss as a sum, and it does balance."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_train_loss import plain_loss
from train_samples import SHAPE, SampleRows, tiny_settings

from inkstone.model import Decoder, DecoderConfig, PackedContext
from inkstone.model.decoder.decoder import initialise
from inkstone.model.decoder.experts import balance_loss
from inkstone.progress import Silent
from inkstone.train import Batch, train
from inkstone.train.loop import heldout_loss, next_token_objective
from inkstone.train.loss import chunk_gradient

EXPERTS = replace(SHAPE, num_experts=4, experts_per_token=1, router_aux_loss=0.1)


def fresh(config: DecoderConfig) -> Decoder:
    model = Decoder(config)
    initialise(model, torch.Generator().manual_seed(0))
    return model


def crowded(aux: float) -> Decoder:
    """A mixture whose routers are so sure from the start that a few experts get most tokens."""
    model = fresh(replace(EXPERTS, router_aux_loss=aux))
    for block in model.model.layers:
        block.mlp.gate.weight.data[2:] *= 0.1
        block.mlp.gate.weight.data *= 50
    return model


@torch.no_grad()
def imbalance(model: Decoder) -> float:
    """The balance loss of a sample: 1 when all experts share the tokens evenly."""
    tokens = Batch.stack([SampleRows().row(0, index) for index in range(11)]).tokens
    _, routing = model.hidden_and_routing(tokens)
    return float(balance_loss(routing, 1))


def test_the_objective_is_cross_entropy_plus_the_balance_loss_of_each_supervised_token() -> None:
    model = fresh(EXPERTS)
    batch = Batch.stack([SampleRows().row(0, index) for index in range(3)])
    context = PackedContext.documents(batch.positions, batch.document_ids)
    hidden, routing = model.hidden_and_routing(batch.tokens, context)
    plain = plain_loss(model.lm_head(hidden), batch.tokens, batch.weights)
    expected = plain + 0.1 * batch.supervised * balance_loss(routing, 1)
    loss = next_token_objective(model, batch, chunk_gradient)
    torch.testing.assert_close(loss, expected)
    parameters = list(model.parameters())
    ours, oracle = torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)
    for one, other in zip(ours, oracle, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_held_out_loss_is_cross_entropy_alone() -> None:
    rows, settings = SampleRows(), tiny_settings()
    with_aux, without = fresh(EXPERTS), fresh(replace(EXPERTS, router_aux_loss=0.0))
    assert heldout_loss(with_aux, rows, settings) == heldout_loss(without, rows, settings)


def test_the_balance_loss_spreads_tokens_that_training_alone_leaves_crowded(tmp_path: Path) -> None:
    figures = []
    for aux in (0.0, 1.0):
        model = crowded(aux)
        train(model, SampleRows(), tiny_settings(max_steps=100), tmp_path / str(aux), Silent())
        figures.append(imbalance(model))
    assert figures[1] < 1.1 < 1.3 < figures[0], figures


KINDS = {
    "experts": EXPERTS,
    "alibi": replace(SHAPE, position="alibi", num_kv_heads=2),
    "sliding window": replace(SHAPE, sliding_window=5),
    "normalised head": replace(SHAPE, normalised_head=True, tie_embeddings=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_decoder_learns(kind: str, tmp_path: Path) -> None:
    model = fresh(KINDS[kind])
    before = heldout_loss(model, SampleRows(), tiny_settings())
    train(model, SampleRows(), tiny_settings(max_steps=30), tmp_path, Silent())
    assert heldout_loss(model, SampleRows(), tiny_settings()) < before - 0.1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["experts", "alibi"])
def test_compiled_training_of_any_kind_ends_near_the_uncompiled_one(kind: str, tmp_path: Path) -> None:
    losses = []
    for compile in ("off", "on"):
        model = fresh(KINDS[kind])
        losses.append(train(model, SampleRows(), tiny_settings(compile=compile), tmp_path / compile, Silent()).loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
