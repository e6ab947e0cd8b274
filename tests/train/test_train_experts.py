"""Training of mixtures of experts: the load-balancing loss joins the loss as a sum, and it does balance."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_loss import plain_loss
from train_samples import SHAPE, SampleRows, tiny_settings

from inkstone.model import Decoder, DecoderConfig
from inkstone.model.decoder.decoder import initialise
from inkstone.progress import Silent
from inkstone.train import Batch, InOrder, NextToken, heldout_loss, train
from inkstone.train.objective import SENT, balance_loss

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


def sample(rows: int = 11) -> Batch:
    return Batch.stack([SampleRows().row(0, index) for index in range(rows)])


@torch.no_grad()
def imbalance(model: Decoder) -> float:
    """The balance loss of a sample under its own shares: 1 when all experts share the tokens evenly."""
    batch = sample()
    _, routing = model.hidden_and_routing(batch.tokens, batch.context())
    _, sent_E = balance_loss(routing, 1, batch.weights, None)
    return float(balance_loss(routing, 1, batch.weights, sent_E)[0]) / batch.supervised


def test_the_balance_loss_is_that_of_transformers_where_every_position_counts() -> None:
    """transformers counts the batch's own shares; ours are told the shares, and given these they are equal."""
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    routing = [torch.randn(24, 4, generator=torch.Generator().manual_seed(layer)) for layer in range(3)]
    for per_token in (1, 2):
        weights_BT = torch.ones(1, 25)  # 24 positions, each predicts the next token
        padded = [torch.cat((logits, torch.randn(1, 4))) for logits in routing]
        _, sent_E = balance_loss(padded, per_token, weights_BT, None)
        ours, _ = balance_loss(padded, per_token, weights_BT, sent_E)
        theirs = mixtral.load_balancing_loss_func(tuple(routing), 4, per_token)
        torch.testing.assert_close(ours / 24, theirs)


def test_the_objective_is_cross_entropy_plus_the_balance_loss_and_says_who_was_sent_where() -> None:
    model, batch = fresh(EXPERTS), sample(3)
    hidden, routing = model.hidden_and_routing(batch.tokens, batch.context())
    last = {SENT: torch.tensor([5.0, 1.0, 1.0, 3.0])}
    balance, sent_E = balance_loss(routing, 1, batch.weights, last[SENT])
    expected = plain_loss(model.lm_head(hidden), batch.tokens, batch.weights) + 0.1 * balance
    outcome = NextToken()(model, batch, last)
    torch.testing.assert_close(outcome.loss, expected)
    assert torch.equal(outcome.figures[SENT], sent_E)
    assert float(sent_E.sum()) == pytest.approx(2 * batch.supervised)  # two layers
    parameters = list(model.parameters())
    ours, oracle = torch.autograd.grad(outcome.loss, parameters), torch.autograd.grad(expected, parameters)
    for one, other in zip(ours, oracle, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_loss_of_a_mixture_does_not_depend_on_micro_batches(tmp_path: Path) -> None:
    """With shares counted in each micro-batch it was 254.361 whole and 254.364 in four."""
    models, losses = [], []
    for micro in (64, 32, 16):
        models.append(crowded(1.0))
        settings = tiny_settings(micro_batch_tokens=micro, max_steps=6)
        losses.append(train(models[-1], InOrder(SampleRows()), settings, tmp_path / str(micro), Silent()).loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6) and losses[2] == pytest.approx(losses[0], rel=1e-6)
    for one, other in zip(models[0].parameters(), models[2].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_experts_recompute_to_the_same_weights(tmp_path: Path) -> None:
    models = [crowded(1.0), crowded(1.0)]
    for model, again in zip(models, (False, True), strict=True):
        settings = tiny_settings(max_steps=4, recompute=again)
        train(model, InOrder(SampleRows()), settings, tmp_path / str(again), Silent())
    assert all(torch.equal(one, other) for one, other in zip(*(m.parameters() for m in models), strict=True))


def test_padding_does_not_count_in_the_balance() -> None:
    model, batch = fresh(EXPERTS), sample(2)
    padded = Batch.stack(
        [
            row._replace(weights=np.where(np.arange(16) < 10, row.weights, 0).astype(np.float32))
            for row in (SampleRows().row(0, index) for index in range(2))
        ]
    )
    other = replace(padded, tokens=torch.where(torch.arange(16) < 10, batch.tokens, (batch.tokens + 7) % 53))
    one, two = (NextToken()(model, batch, {}) for batch in (padded, other))
    torch.testing.assert_close(one.loss, two.loss)
    assert torch.equal(one.figures[SENT], two.figures[SENT])


def test_held_out_loss_is_cross_entropy_alone() -> None:
    rows, settings = SampleRows(), tiny_settings()
    with_aux, without = fresh(EXPERTS), fresh(replace(EXPERTS, router_aux_loss=0.0))
    assert heldout_loss(with_aux, rows, settings) == heldout_loss(without, rows, settings)


def test_the_balance_loss_spreads_tokens_that_training_alone_leaves_crowded(tmp_path: Path) -> None:
    figures = []
    for aux in (0.0, 1.0):
        model = crowded(aux)
        train(model, InOrder(SampleRows()), tiny_settings(max_steps=100), tmp_path / str(aux), Silent())
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
    train(model, InOrder(SampleRows()), tiny_settings(max_steps=30), tmp_path, Silent())
    assert heldout_loss(model, SampleRows(), tiny_settings()) < before - 0.1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["experts", "alibi"])
def test_compiled_training_of_any_kind_ends_near_the_uncompiled_one(kind: str, tmp_path: Path) -> None:
    losses = []
    for compile in ("off", "on"):
        model = fresh(KINDS[kind])
        losses.append(
            train(model, InOrder(SampleRows()), tiny_settings(compile=compile), tmp_path / compile, Silent()).loss
        )
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
