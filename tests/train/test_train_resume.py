"""Stop a run however you like: it ends with the same bits as one that was never stopped."""

import json
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from train_samples import (
    Notes,
    SampleRows,
    SignalAt,
    run,
    same_bits,
    start,
    tiny_model,
    tiny_settings,
)

from inkstone.errors import InkstoneError
from inkstone.model import Decoder
from inkstone.progress import Silent
from inkstone.storage import write_manifest
from inkstone.train import InOrder, Row, TrainSettings, train
from inkstone.train.arithmetic import Arithmetic, choose_arithmetic
from inkstone.train.interrupt import StopRequest

PART = "shard-00001-model-00001-of-00001.safetensors"  # what one process writes
TIMES = ("seconds", "tokens_per_second", "model_tflops_per_second")


def metrics(scratch: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (scratch / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def stop_at(scratch: Path, settings: TrainSettings, step: int, number: int = signal.SIGINT) -> None:
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step} of {settings.max_steps}; the same command"):
        run(scratch, settings, SignalAt(step, number))


def checkpoints(scratch: Path) -> list[str]:
    return sorted(path.name for path in (scratch / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoder, Path]:
    scratch = tmp_path_factory.mktemp("uninterrupted")
    return run(scratch, tiny_settings())[0], scratch


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["SIGINT", "SIGTERM", "SIGHUP"])
def test_ten_steps_and_ten_more_equal_twenty_bit_for_bit(
    number: int, uninterrupted: tuple[Decoder, Path], tmp_path: Path
) -> None:
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    stop_at(tmp_path, tiny_settings(), 10, number)
    assert checkpoints(tmp_path) == ["step-00000007", "step-00000010"]
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers
    model, result = run(tmp_path, tiny_settings())
    assert same_bits(model, uninterrupted[0])
    assert (result.steps, result.tokens) == (20, 20 * 64)


def test_a_run_stopped_again_and_again_ends_with_the_same_bits_and_the_same_metrics(
    uninterrupted: tuple[Decoder, Path], tmp_path: Path
) -> None:
    for step in (1, 2, 9, 19):
        stop_at(tmp_path, tiny_settings(), step)
    model, _ = run(tmp_path, tiny_settings())
    assert same_bits(model, uninterrupted[0])
    assert metrics(tmp_path) == metrics(uninterrupted[1])


def test_a_run_with_muon_continues_bit_for_bit(tmp_path: Path) -> None:
    settings = tiny_settings(optimizer="muon")
    whole, _ = run(tmp_path / "whole", settings)
    stop_at(tmp_path / "parts", settings, 9)
    parts, _ = run(tmp_path / "parts", settings)
    assert same_bits(whole, parts) and not same_bits(whole, run(tmp_path / "adamw", tiny_settings())[0])


def test_half_precision_runs_continue_bit_for_bit_in_the_arithmetic_they_began_with(tmp_path: Path) -> None:
    settings = tiny_settings(dtype="bfloat16", micro_batch_tokens=32)
    whole, _ = run(tmp_path / "whole", settings)
    stop_at(tmp_path / "parts", settings, 11)
    # What a measurement on the machine would choose now must not matter any more.
    parts, result = run(tmp_path / "parts", settings.model_copy(update={"dtype": "float32"}))
    assert same_bits(whole, parts) and "bfloat16" in result.arithmetic


def test_heldout_losses_are_written_once_and_resumed(tmp_path: Path) -> None:
    settings = tiny_settings(heldout_steps=4, log_steps=5)
    losses = []
    for name, stops in (("whole", []), ("parts", [8, 10])):
        scratch = tmp_path / name
        for step in stops:
            with pytest.raises(KeyboardInterrupt):
                train(
                    tiny_model(),
                    InOrder(SampleRows()),
                    settings,
                    scratch,
                    SignalAt(step, signal.SIGINT),
                    heldout=SampleRows(),
                )
        result = train(tiny_model(), InOrder(SampleRows()), settings, scratch, Silent(), heldout=SampleRows())
        losses.append(result.heldout_loss)
        assert [row["step"] for row in metrics(scratch) if "heldout_loss" in row] == [4, 8, 12, 16, 20]
        assert [row["step"] for row in metrics(scratch) if "loss" in row] == [5, 10, 15, 20]
    assert losses[0] == losses[1]


def test_a_finished_run_that_is_started_again_reports_the_same_figures(tmp_path: Path) -> None:
    """A kill after the last checkpoint, before the model directory is written, must not lose the figures."""
    first = train(tiny_model(), InOrder(SampleRows()), tiny_settings(), tmp_path, Silent(), heldout=SampleRows())
    model = tiny_model()
    again = train(model, InOrder(SampleRows()), tiny_settings(), tmp_path, Silent(), heldout=SampleRows())
    assert (again.steps, again.loss, again.heldout_loss) == (first.steps, first.loss, first.heldout_loss)
    assert again.tokens_per_second > 0
    assert json.loads(json.dumps(vars(again), allow_nan=False))


def test_a_second_signal_is_not_swallowed() -> None:
    # A process that was started in the background may ignore SIGINT; a terminal's does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.requested
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_runs_killed_at_random_moments_end_with_the_same_bits_and_metrics(tmp_path: Path) -> None:
    settings = tiny_settings(max_steps=60, checkpoint_steps=3)
    whole, _ = run(tmp_path / "whole", settings)
    scratch, draw = tmp_path / "killed", random.Random(7)
    for target in (8, 25, 45):
        child = start(run, scratch, settings)
        while not (scratch / "metrics.jsonl").exists() or len(metrics_lines(scratch)) < target:
            assert child.is_alive(), "the child ended before it was killed"
            child.join(0.002)
        end = time.perf_counter() + draw.uniform(0, 0.02)
        while time.perf_counter() < end:
            pass
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    notes = Notes()
    killed, _ = run(scratch, settings, notes)
    assert int(notes.notes[0].split()[3]) >= 42, "it began again instead of continuing"
    assert same_bits(whole, killed)
    assert metrics(scratch) == metrics(tmp_path / "whole")


def metrics_lines(scratch: Path) -> list[str]:
    return (scratch / "metrics.jsonl").read_text().splitlines()


def run_and_die(scratch: Path, settings: TrainSettings, event: str, ending: str, count: int) -> None:
    """Train until the checkpoint of step 6 is being written, and kill this process at the given operation on it."""
    left = count
    removing = False

    def die(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal left, removing
        path = str(arguments[0]) if arguments else ""
        removing |= name == "shutil.rmtree" and path.endswith("step-00000002")
        concerned = removing if event == "os.remove" else "step-00000006" in path
        if name == event and concerned and path.endswith(ending):
            left -= 1
            if left == 0:
                signal.raise_signal(signal.SIGKILL)

    sys.addaudithook(die)
    run(scratch, settings)


@pytest.mark.parametrize(
    ("event", "ending", "count", "continues"),
    [
        ("os.mkdir", ".draft", 1, 4),
        ("open", "state.json", 1, 4),
        ("open", "manifest.json", 1, 4),
        ("os.rename", ".draft", 1, 4),
        ("os.remove", "", 2, 6),
    ],
    ids=["before its files", "after its tensors", "before its manifest", "before its name", "while an old one goes"],
)
def test_a_kill_during_a_save_continues_from_the_newest_complete_checkpoint(
    event: str, ending: str, count: int, continues: int, tmp_path: Path
) -> None:
    settings = tiny_settings(checkpoint_steps=2, max_steps=10)
    whole, _ = run(tmp_path / "whole", settings)
    scratch = tmp_path / "killed"
    child = start(run_and_die, scratch, settings, event, ending, count)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    notes = Notes()
    killed, _ = run(scratch, settings, notes)
    assert notes.notes[0] == f"continuing after step {continues} of 10"
    assert same_bits(whole, killed)
    assert checkpoints(scratch) == ["step-00000008", "step-00000010"], "nothing of the killed save is left"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink], ids=["truncated", "one bit", "missing"])
@pytest.mark.parametrize("name", [PART, "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(damage, name: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    settings = tiny_settings(max_steps=6, checkpoint_steps=2)
    whole, _ = run(tmp_path, settings)
    damage(tmp_path / "checkpoints" / "step-00000006" / name)
    notes = Notes()
    again, _ = run(tmp_path, settings, notes)
    assert notes.notes[-1] == "continuing after step 4 of 6"
    unseen = name == "manifest.json" and damage is Path.unlink
    assert len(notes.notes) == (1 if unseen else 2), "what is damaged is said"
    assert same_bits(whole, again)


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_rather_than_started_over(tmp_path: Path) -> None:
    settings = tiny_settings(max_steps=6, checkpoint_steps=2)
    run(tmp_path, settings)
    for name in checkpoints(tmp_path):
        truncate(tmp_path / "checkpoints" / name / PART)
    with pytest.raises(InkstoneError, match=rf"no usable checkpoint in .*{PART} has \d+ bytes, not"):
        run(tmp_path, settings)


def test_checkpoints_hold_no_pickle(tmp_path: Path) -> None:
    run(tmp_path, tiny_settings(max_steps=2))
    names = {path.name for path in (tmp_path / "checkpoints" / "step-00000002").iterdir()}
    assert names == {PART, "state.json", "manifest.json"}


def test_one_thread_is_what_these_bits_are_compared_with() -> None:
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("changes", [{"micro_batch_tokens": 16}, {"log_steps": 3}, {"checkpoint_steps": 2}])
def test_a_run_goes_on_with_other_settings_of_the_machine(changes: dict[str, int], tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", tiny_settings())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", tiny_settings(), SignalAt(8, signal.SIGINT))
    notes = Notes()
    parts, result = run(tmp_path / "parts", tiny_settings(**changes), notes)
    assert "continuing after step 8 of 20" in notes.notes and result.steps == 20
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_run_that_goes_on_on_another_device_keeps_its_dtype_only() -> None:
    before = Arithmetic("cuda", "bfloat16", True, "as measured there")
    after = choose_arithmetic(tiny_settings(dtype="auto"), 1000, before)
    assert (after.device, after.dtype, after.compile) == ("cpu", "bfloat16", False)
    assert choose_arithmetic(tiny_settings(device="cpu"), 1000, after) == after


def test_a_run_that_was_set_back_passes_over_the_rows_that_it_is_told_to(tmp_path: Path) -> None:
    """As if rows 36 to 43 had never been in the order."""
    settings = tiny_settings(max_steps=14)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, settings, SignalAt(9, signal.SIGINT))
    state = json.loads((tmp_path / "checkpoints/step-00000009/state.json").read_text())
    assert state["rows_drawn"] == 36
    folder = tmp_path / "checkpoints/step-00000009"
    (folder / "state.json").write_text(json.dumps({**state, "skipped_rows": [[36, 44]]}))
    write_manifest(folder, {"step": 9})
    skipping, _ = run(tmp_path, settings)

    class Without(SampleRows):
        def row(self, epoch: int, index: int) -> Row:
            number = epoch * self.rows_per_epoch + index
            return super().row(*divmod(number if number < 36 else number + 8, self.rows_per_epoch))

    oracle = tiny_model()
    train(oracle, InOrder(Without()), settings, tmp_path / "oracle", Silent())
    assert same_bits(skipping, oracle)
