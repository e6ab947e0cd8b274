"""Several processes over gloo, started as torchrun starts them, do what one process does."""

import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_samples import Notes, run, run_rank, start, tiny_settings

from inkstone.train import TrainSettings


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def run_ranks(size: int, scratch: Path, output: Path, settings: TrainSettings, fault: str = "") -> list[int]:
    """Run `size` ranks to their end; their exit codes."""
    output.mkdir()
    port = free_port()
    ranks = [start(run_rank, rank, size, port, scratch, output, settings, fault) for rank in range(size)]
    for process in ranks:
        process.join(60)
        if process.is_alive():
            process.kill()
    return [process.exitcode or 0 for process in ranks]


def final_weights(output: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(path) for path in sorted(output.glob("rank-*.safetensors"))]


def equal_on_all_ranks(weights: list[dict[str, torch.Tensor]]) -> bool:
    return all(torch.equal(weights[0][name], other[name]) for other in weights for name in other)


@pytest.mark.parametrize("size", [2, 3], ids=["2 ranks", "3 ranks that cannot share 4 rows evenly"])
def test_weights_do_not_depend_on_the_number_of_ranks(size: int, tmp_path: Path) -> None:
    settings = tiny_settings(max_steps=10, micro_batch_tokens=32)
    assert run_ranks(size, tmp_path / "many", tmp_path / "output", settings) == [0] * size
    weights = final_weights(tmp_path / "output")
    assert len(weights) == size and equal_on_all_ranks(weights)
    one, _ = run(tmp_path / "one", settings)
    for name, weight in one.named_parameters():
        torch.testing.assert_close(weights[0][name], weight.detach(), atol=2e-5, rtol=1e-4)
    losses = [len((tmp_path / name / "metrics.jsonl").read_text().splitlines()) for name in ("many", "one")]
    assert losses == [10, 10], "only the first rank writes metrics"


def test_a_nan_on_one_rank_skips_the_step_on_all(tmp_path: Path) -> None:
    assert run_ranks(2, tmp_path / "many", tmp_path / "output", tiny_settings(max_steps=6), "NaN in step 4") == [0, 0]
    weights = final_weights(tmp_path / "output")
    assert equal_on_all_ranks(weights)
    assert all(weight.isfinite().all() for weight in weights[0].values())


def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_any_number_of_ranks_continues(tmp_path: Path) -> None:
    settings = tiny_settings(max_steps=10)
    assert run_ranks(2, tmp_path / "many", tmp_path / "stopped", settings, "SIGTERM at step 3") == [1, 1]
    assert [path.name for path in (tmp_path / "many" / "checkpoints").iterdir()] == ["step-00000003"]
    notes = Notes()
    continued, _ = run(tmp_path / "many", settings, notes)
    assert notes.notes[0] == "continuing after step 3 of 10"
    one, _ = run(tmp_path / "one", settings)
    for weight, expected in zip(continued.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, atol=2e-5, rtol=1e-4)
