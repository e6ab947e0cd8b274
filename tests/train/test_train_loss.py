"""The chunked loss against F.cross_entropy, and the loop against a plain one."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from train_samples import SampleRows, run, same_bits, tiny_model, tiny_settings

from inkstone.model import Decoder, DecoderConfig
from inkstone.progress import Silent
from inkstone.train import Batch, InOrder, NextToken, Row, TrainSettings, train
from inkstone.train.batches import next_rows
from inkstone.train.loop import heldout_loss
from inkstone.train.loss import next_token_loss, token_logprobs
from inkstone.train.optimizer import build_optimizer, learning_rate


def plain_loss(logits_BTV: Tensor, tokens_BT: Tensor, weights_BT: Tensor) -> Tensor:
    """The definition, with all logits at once."""
    losses = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1).float(), tokens_BT[:, 1:].flatten(), reduction="none")
    return (losses * weights_BT[:, 1:].flatten()).sum()


def sample(rows: int = 3, length: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, head, tokens and weights, a third of them 0 and some fractions."""
    generator = torch.Generator().manual_seed(rows)
    hidden, head = torch.randn(rows, length, 8, generator=generator), torch.randn(31, 8, generator=generator)
    weights = torch.tensor([0.0, 1.0, 0.25])[torch.randint(0, 3, (rows, length), generator=generator)]
    return hidden, head, torch.randint(0, 31, (rows, length), generator=generator), weights


@pytest.mark.parametrize("chunk", [1, 3, 7, 16, 24, 2048])
def test_chunked_loss_and_gradients_equal_cross_entropy(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inkstone.train.loss.CHUNK", chunk)
    hidden, head, tokens, weights = sample()
    results = []
    for chunked in (True, False):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        loss = next_token_loss(h, w, tokens, weights) if chunked else plain_loss(h @ w.T, tokens, weights)
        results.append((loss.detach(), *torch.autograd.grad(loss * 0.37, (h, w))))
    for ours, oracle in zip(*results, strict=True):
        torch.testing.assert_close(ours, oracle, atol=1e-5, rtol=1e-5)


def test_half_precision_logits_give_nearly_the_same_loss_and_gradients() -> None:
    hidden, head, tokens, weights = sample(rows=20)
    h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    exact = plain_loss(h @ w.T, tokens, weights)
    half = next_token_loss(h.to(torch.bfloat16), w, tokens, weights)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(exact.item(), rel=0.01)
    for ours, oracle in zip(torch.autograd.grad(half, (h, w)), torch.autograd.grad(exact, (h, w)), strict=True):
        assert ours.dtype == torch.float32
        assert F.cosine_similarity(ours.flatten(), oracle.flatten(), dim=0) > 0.999


def test_a_batch_without_supervised_tokens_has_loss_zero_and_zero_gradients() -> None:
    hidden, head, tokens, weights = sample()
    hidden.requires_grad_()
    head.requires_grad_()
    loss = next_token_loss(hidden, head, tokens, torch.zeros_like(weights))
    assert loss.item() == 0
    assert all(gradient.abs().max() == 0 for gradient in torch.autograd.grad(loss, (hidden, head)))


def test_a_run_without_supervised_tokens_reports_loss_zero_and_stays_finite(tmp_path: Path) -> None:
    class Unsupervised(SampleRows):
        def row(self, epoch: int, index: int):  # type: ignore[no-untyped-def]
            row = super().row(epoch, index)
            return row._replace(weights=row.weights * 0)

    model = tiny_model()
    result = train(model, InOrder(Unsupervised()), tiny_settings(max_steps=3), tmp_path, Silent())
    assert result.loss == 0 and result.skipped_steps == 0
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_the_first_column_and_zero_weights_are_never_targets() -> None:
    hidden, head, tokens, weights = sample()
    changed = torch.where(weights == 0, (tokens + 1) % 31, tokens)
    changed[:, 0] = 30
    assert torch.equal(next_token_loss(hidden, head, tokens, weights), next_token_loss(hidden, head, changed, weights))


class PlainContext:
    """Attention as the formula has it, with a mask of our own."""

    def __init__(self, batch: Batch) -> None:
        same = batch.document_ids[:, None, :, None] == batch.document_ids[:, None, None, :]
        self.positions_BT, self.mask = batch.positions, same & torch.ones(16, 16).tril().bool()

    def prepare(self, config: DecoderConfig, dtype: torch.dtype, prefix: int = 0) -> None: ...

    def attend(
        self, layer: int, q_BHTd: Tensor, k_BKTd: Tensor, v_BKTd: Tensor, prefix_2KPd: Tensor | None = None
    ) -> Tensor:
        return F.scaled_dot_product_attention(q_BHTd, k_BKTd, v_BKTd, self.mask, enable_gqa=True)


def plain_training(model: Decoder, settings: TrainSettings, steps: int) -> None:
    """The loop as a textbook writes it: whole batch, whole logits, unfused optimizer."""
    rows = SampleRows()
    matrices = [weight for weight in model.parameters() if weight.dim() == 2]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95), foreach=False,
    )  # fmt: skip
    for step in range(steps):
        batch = Batch.stack(
            [
                rows.row(*divmod(number, rows.rows_per_epoch))
                for number in next_rows(step * settings.rows_per_step, settings.rows_per_step)
            ]
        )
        logits = model(batch.tokens, PlainContext(batch))
        loss = plain_loss(logits, batch.tokens, batch.weights) / batch.weights[:, 1:].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step, steps)
        optimizer.step()
        optimizer.zero_grad()


def test_ten_steps_equal_a_plain_training_loop(tmp_path: Path) -> None:
    settings = tiny_settings(max_steps=10)
    ours, _ = run(tmp_path, settings)
    oracle = tiny_model()
    plain_training(oracle, settings, 10)
    for one, other in zip(ours.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("micro", [16, 32])
def test_accumulated_micro_batches_equal_one_large_batch(micro: int, tmp_path: Path) -> None:
    """The rows have very different numbers of supervised tokens, so a mean of means would differ."""
    whole, result = run(tmp_path / "whole", tiny_settings())
    parts, accumulated = run(tmp_path / "parts", tiny_settings(micro_batch_tokens=micro))
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert accumulated.loss == pytest.approx(result.loss, rel=1e-4)


def test_recomputed_activations_change_no_bit(tmp_path: Path) -> None:
    """Less is kept for the backward pass; what is computed again is the same."""
    plain, _ = run(tmp_path / "plain", tiny_settings(max_steps=5))
    again, _ = run(tmp_path / "again", tiny_settings(max_steps=5, recompute=True))
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), again.parameters(), strict=True))


def test_the_loss_falls(tmp_path: Path) -> None:
    before = heldout_loss(tiny_model(), SampleRows(), tiny_settings())
    model, _ = run(tmp_path, tiny_settings(max_steps=60))
    assert heldout_loss(model, SampleRows(), tiny_settings()) < before - 0.15


@pytest.mark.parametrize("micro", [16, 48, 64])
def test_heldout_loss_is_the_mean_per_supervised_token(micro: int) -> None:
    model, rows = tiny_model(), SampleRows()
    settings = tiny_settings(batch_tokens=micro)
    batch = Batch.stack([rows.row(0, index) for index in range(11)])
    total = NextToken()(model, batch, {}).loss.item()
    assert heldout_loss(model, rows, settings) == pytest.approx(total / batch.supervised, rel=1e-5)


def test_two_runs_of_the_same_settings_give_the_same_bits_and_another_start_other_ones(tmp_path: Path) -> None:
    (one, _), (other, _) = (run(tmp_path / name, tiny_settings(max_steps=4)) for name in "ab")
    assert same_bits(one, other)
    changed = tiny_model(seed=1)
    train(changed, InOrder(SampleRows()), tiny_settings(max_steps=4), tmp_path / "c", Silent())
    assert not same_bits(one, changed)


@given(st.integers(1, 300), st.integers(0, 400), st.sampled_from(["cosine", "linear"]), st.floats(0, 1))
def test_learning_rate_rises_to_the_peak_and_falls_to_its_floor(
    steps: int, warmup: int, schedule: str, floor: float
) -> None:
    settings = tiny_settings(
        learning_rate=0.5, warmup_steps=warmup, schedule=schedule, min_learning_rate_ratio=floor, max_steps=steps
    )
    rates = [learning_rate(settings, step, steps) for step in range(steps)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.5)
    assert min(rates) >= 0
    assert all(before < after for before, after in pairwise(rates[: top + 1]))
    assert all(before >= after - 1e-12 for before, after in pairwise(rates[top:]))
    if steps > warmup + 2 and steps >= 2 * warmup:
        assert rates[-1] == pytest.approx(0.5 * floor, abs=1e-9)
        assert top in (warmup - 1, warmup) or floor == 1


def test_cosine_and_linear_are_half_way_down_in_the_middle() -> None:
    for schedule in ("cosine", "linear"):
        settings = tiny_settings(
            learning_rate=1.0, warmup_steps=0, schedule=schedule, min_learning_rate_ratio=0.2, max_steps=101
        )
        assert learning_rate(settings, 50, 101) == pytest.approx(0.6)


def test_weight_decay_shrinks_matrices_and_leaves_norms_alone() -> None:
    model, settings = tiny_model(), tiny_settings(learning_rate=0.5, weight_decay=0.2)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    build_optimizer(model, settings).step()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.detach(), before[name] * (0.9 if weight.dim() == 2 else 1.0))


class Halved(SampleRows):
    """The same rows with half of each weight."""

    def row(self, epoch: int, index: int) -> Row:
        row = super().row(epoch, index)
        return row._replace(weights=row.weights / 2)


def test_a_weight_of_one_half_counts_half_in_the_sum_and_in_what_it_is_divided_by(tmp_path: Path) -> None:
    models, losses = [tiny_model(), tiny_model()], []
    for model, rows in zip(models, (SampleRows(), Halved()), strict=True):
        folder = tmp_path / type(rows).__name__
        losses.append(train(model, InOrder(rows), tiny_settings(max_steps=5), folder, Silent()).loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_logprobs_of_tokens_and_their_gradients_are_those_of_the_full_logits(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inkstone.train.loss.CHUNK", 7)
    draws = torch.Generator().manual_seed(0)
    hidden = torch.randn(30, 16, generator=draws).to(dtype).requires_grad_()
    head = torch.randn(53, 16, generator=draws).requires_grad_()
    targets, weights = torch.randint(53, (30,), generator=draws), torch.randn(30, generator=draws)
    ours = token_logprobs(hidden, head, targets)
    plain = (hidden @ head.to(dtype).T).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(ours, plain, atol=tolerance, rtol=tolerance)
    gradients = [torch.autograd.grad((one * weights).sum(), [hidden, head]) for one in (ours, plain)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
