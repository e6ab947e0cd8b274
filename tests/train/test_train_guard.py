"""Updates that are not finite, or leap, change nothing; many in a row set the run back, and at last it gives up."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from train_samples import SHAPE, NaNAt, Notes, SampleRows, SignalAt, run, same_bits, tiny_model, tiny_settings

from inkstone.errors import InkstoneError, InputError
from inkstone.model import Decoder
from inkstone.progress import Field, Silent
from inkstone.train import Batch, InOrder, NextToken, Outcome, Row, train
from inkstone.train.arithmetic import choose_arithmetic
from inkstone.train.mesh import Mesh
from inkstone.train.objective import Figures


class WeightsAfterEachStep(Silent):
    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.weights, self.losses = model, [], []

    def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
        self.weights.append(torch.cat([weight.detach().flatten().clone() for weight in self.model.parameters()]))
        self.losses.append(fields["loss"])


def test_a_step_with_a_nan_loss_changes_no_weight_and_the_run_goes_on(tmp_path: Path) -> None:
    model = tiny_model()
    watch = WeightsAfterEachStep(model)
    result = train(
        model, InOrder(SampleRows()), tiny_settings(max_steps=8), tmp_path, watch, objective=NaNAt({3, 4, 6})
    )
    kept = [torch.equal(before, after) for before, after in pairwise(watch.weights)]
    assert [step + 1 for step, same in enumerate(kept) if same] == [3, 4, 6]
    assert result.skipped_steps == 3
    assert watch.weights[-1].isfinite().all()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["loss"] is None] == [4, 5, 7]


def test_a_finite_loss_with_infinite_gradients_is_skipped_too(tmp_path: Path) -> None:
    class Steep(NextToken):
        def __call__(self, policy: Decoder, batch: Batch, last: Figures) -> Outcome:
            # The gradient of a root at 0 is infinite; the value is 0.
            return Outcome(super().__call__(policy, batch, last).loss + (policy.model.norm.weight * 0).sum().sqrt())

    model, fresh = tiny_model(), tiny_model()
    result = train(model, InOrder(SampleRows()), tiny_settings(max_steps=3), tmp_path, Silent(), objective=Steep())
    assert result.skipped_steps == 3 and result.loss is not None and math.isfinite(result.loss)
    assert same_bits(model, fresh)


def test_figures_of_a_run_whose_last_step_was_skipped_are_valid_json(tmp_path: Path) -> None:
    model = tiny_model()
    result = train(model, InOrder(SampleRows()), tiny_settings(max_steps=3), tmp_path, Silent(), objective=NaNAt({2}))
    assert json.loads(json.dumps(vars(result), allow_nan=False))["loss"] is None


def test_twenty_in_a_row_set_the_run_back_and_its_rows_are_passed_over(tmp_path: Path) -> None:
    settings = tiny_settings(max_steps=40, checkpoint_steps=7)
    notes = Notes()
    model, result = run(tmp_path / "broken", settings, notes, NaNAt(set(range(9, 29))))
    assert "20 updates in a row were not made: back to step 7, over their rows" in notes.notes
    assert result.skipped_steps == 20 and result.steps == 40

    class Without(SampleRows):
        """Steps 8 to 29 are not there: two were trained on and undone, twenty were broken."""

        def row(self, epoch: int, index: int) -> Row:
            number = epoch * self.rows_per_epoch + index
            return super().row(*divmod(number if number < 28 else number + 88, self.rows_per_epoch))

    oracle = tiny_model()
    train(oracle, InOrder(Without()), settings, tmp_path / "oracle", Silent())
    assert same_bits(model, oracle)
    rows = [json.loads(line) for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 41))


def test_a_run_that_going_back_does_not_help_ends_in_words_with_finite_weights(tmp_path: Path) -> None:
    model = tiny_model()
    settings = tiny_settings(max_steps=60, checkpoint_steps=2)
    with pytest.raises(InkstoneError, match="20 updates in a row were not made after going back 3 times"):
        train(model, InOrder(SampleRows()), settings, tmp_path, Silent(), objective=NaNAt(set(range(5, 500))))
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert (tmp_path / "checkpoints" / "step-00000004" / "manifest.json").exists()


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    with pytest.raises(InkstoneError, match=r"20 updates in a row were not made .*not finite"):
        run(tmp_path, tiny_settings(max_steps=60, checkpoint_steps=50), None, NaNAt(set(range(60))))


class Loud(NextToken):
    """The usual objective, but a hundred times as loud in one call."""

    def __init__(self, call: int) -> None:
        self.call, self.counter = call, iter(range(1 << 30))

    def __call__(self, policy: Decoder, batch: Batch, last: Figures) -> Outcome:
        outcome = super().__call__(policy, batch, last)
        return replace(outcome, loss=outcome.loss * 100) if next(self.counter) == self.call else outcome


def test_an_update_whose_gradient_leaps_is_not_made_also_right_after_a_resume(tmp_path: Path) -> None:
    settings = tiny_settings(max_steps=44, checkpoint_steps=39)
    notes = Notes()
    straight, result = run(tmp_path / "straight", settings, notes, Loud(40))
    assert result.skipped_steps == 1
    assert any(note.startswith("step 41: update not made, gradient norm") for note in notes.notes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", settings, SignalAt(39, 15), Loud(40))
    resumed, result = run(tmp_path / "resumed", settings, None, Loud(40 - 39))
    assert result.skipped_steps == 1 and same_bits(straight, resumed)
    _, result = run(tmp_path / "free", tiny_settings(max_steps=44, spike_ratio=0), None, Loud(40))
    assert result.skipped_steps == 0


def test_nineteen_in_a_row_again_and_again_do_not(tmp_path: Path) -> None:
    calls = {call for call in range(60) if call % 20}
    model = tiny_model()
    result = train(
        model, InOrder(SampleRows()), tiny_settings(max_steps=60), tmp_path, Silent(), objective=NaNAt(calls)
    )
    assert result.skipped_steps == 57


def test_gradients_are_clipped_to_the_norm_that_is_logged_before_clipping(tmp_path: Path) -> None:
    """Adam undoes any scale of the gradient except through epsilon, so clipping is seen with a huge loss."""
    run(tmp_path / "free", tiny_settings(max_steps=1, gradient_clip=1e9))
    run(tmp_path / "clipped", tiny_settings(max_steps=1, gradient_clip=1e-12))
    norms = [json.loads((tmp_path / name / "metrics.jsonl").read_text())["grad_norm"] for name in ("free", "clipped")]
    assert norms[0] == norms[1] > 0
    moved = []
    for clip in (1e9, 1e-12):
        model, fresh = tiny_model(), tiny_model()
        settings = tiny_settings(max_steps=1, gradient_clip=clip, weight_decay=0.0)
        train(model, InOrder(SampleRows()), settings, tmp_path / str(clip), Silent())
        pairs = zip(model.parameters(), fresh.parameters(), strict=True)
        moved.append(sum((one - other).abs().sum().item() for one, other in pairs))
    assert moved[1] < moved[0] / 100


def test_the_objective_decides_what_is_learned(tmp_path: Path) -> None:
    class Shrink(NextToken):
        def __call__(self, policy: Decoder, batch: Batch, last: Figures) -> Outcome:
            return Outcome(policy.model.norm.weight.square().sum() * self.units(batch))

    model = tiny_model()
    settings = tiny_settings(max_steps=20, weight_decay=0.0)
    result = train(model, InOrder(SampleRows()), settings, tmp_path, Silent(), objective=Shrink())
    assert result.loss is not None and result.loss < SHAPE.hidden_size
    assert (model.model.norm.weight < 1).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_asked_for_and_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='device = "cuda", but PyTorch sees no GPU here'):
        run(tmp_path, tiny_settings(device="cuda"))


def test_a_short_run_is_not_compiled_and_says_why() -> None:
    arithmetic = choose_arithmetic(tiny_settings(compile="auto"), total_tokens=1000)
    assert not arithmetic.compile and "too short" in arithmetic.reason
    assert (arithmetic.device, arithmetic.dtype) == ("cpu", "float32")


def test_the_measured_dtype_comes_with_its_reason() -> None:
    arithmetic = choose_arithmetic(tiny_settings(dtype="auto"), total_tokens=1000)
    assert arithmetic.dtype in ("float32", "bfloat16")
    assert "as fast as float32 on this CPU" in arithmetic.reason


def test_more_ranks_than_rows_in_a_step_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a step of batch_tokens = 64 has 4 rows, fewer than the 5 processes"):
        train(tiny_model(), InOrder(SampleRows()), tiny_settings(), tmp_path, Silent(), mesh=Mesh(0, replicate=5))


@pytest.mark.slow
def test_compiled_steps_give_nearly_the_same_loss(tmp_path: Path) -> None:
    _, plain = run(tmp_path / "plain", tiny_settings(max_steps=4))
    _, compiled = run(tmp_path / "compiled", tiny_settings(max_steps=4, compile="on"))
    assert compiled.loss == pytest.approx(plain.loss, rel=1e-4)
