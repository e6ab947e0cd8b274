"""Several processes over gloo, started as torchrun starts them, do what one process does."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from train_samples import SHAPE, Notes, run, run_rank, start, tiny_model, tiny_settings

from inkstone.errors import InputError
from inkstone.model import save_model
from inkstone.model.files.weights import Weights
from inkstone.train import TrainSettings, join_mesh
from inkstone.train.parallelize import gathered, open_model


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


@pytest.mark.parametrize(
    ("size", "shard"), [(2, 2), pytest.param(4, 2, marks=pytest.mark.slow)], ids=["2 shards", "2 copies of 2 shards"]
)
def test_a_sharded_model_ends_with_the_weights_of_a_whole_one(size: int, shard: int, tmp_path: Path) -> None:
    settings = tiny_settings(max_steps=10, micro_batch_tokens=16, shard=shard)
    assert run_ranks(size, tmp_path / "many", tmp_path / "output", settings) == [0] * size
    (weights,) = final_weights(tmp_path / "output")
    one, _ = run(tmp_path / "one", tiny_settings(max_steps=10, micro_batch_tokens=16))
    for name, weight in one.named_parameters():
        torch.testing.assert_close(weights[name], weight.detach(), atol=2e-5, rtol=1e-4)
    losses = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("many", "one")]
    for many, alone in zip(*losses, strict=True):
        for figure in ("loss", "grad_norm"):
            assert json.loads(many)[figure] == pytest.approx(json.loads(alone)[figure], rel=1e-4)


def test_a_checkpoint_of_two_ranks_is_continued_by_one_and_by_three(tmp_path: Path) -> None:
    """Written in parts, read in other parts: the weights and moments are the same bits."""
    settings = tiny_settings(max_steps=10, shard=2)
    assert run_ranks(2, tmp_path / "many", tmp_path / "stopped", settings, "SIGTERM at step 3") == [1, 1]
    (folder,) = (tmp_path / "many" / "checkpoints").iterdir()
    parts = sorted(path.name for path in folder.glob("*.safetensors"))
    assert [name[:11] for name in parts] == ["shard-00001", "shard-00002"]
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}, "no pickle"
    shutil.copytree(tmp_path / "many", tmp_path / "three")
    notes = Notes()
    alone, _ = run(tmp_path / "many", tiny_settings(max_steps=10), notes)
    assert notes.notes[0] == "continuing after step 3 of 10"
    assert run_ranks(3, tmp_path / "three", tmp_path / "output", tiny_settings(max_steps=10, shard=3)) == [0, 0, 0]
    (three,) = final_weights(tmp_path / "output")
    whole, _ = run(tmp_path / "whole", tiny_settings(max_steps=10))
    for name, weight in whole.named_parameters():
        torch.testing.assert_close(dict(alone.named_parameters())[name], weight, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(three[name], weight.detach(), atol=2e-5, rtol=1e-4)


def reads_its_part(rank: int, port: int, directory: Path, output: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    mesh = join_mesh(shard=2)
    read: list[int] = []
    original = Weights.read

    def counted(self, *arguments):  # type: ignore[no-untyped-def]
        tensor = original(self, *arguments)
        read.append(tensor.numel())
        return tensor

    Weights.read = counted  # type: ignore[method-assign]
    model = open_model(directory, mesh)
    assert sum(read) <= SHAPE.num_parameters() * 0.6, "a rank reads its own part only"
    whole = gathered(model, mesh)
    if mesh.first:
        save_file({name: p.detach() for name, p in whole.named_parameters()}, output)


def test_a_sharded_model_is_filled_by_reading_each_ranks_part(tmp_path: Path) -> None:
    model = tiny_model()
    save_model(model, tmp_path / "model", bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    port = free_port()
    ranks = [start(reads_its_part, rank, port, tmp_path / "model", tmp_path / "out.safetensors") for rank in range(2)]
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    found = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(found[name], weight) for name, weight in model.named_parameters())


def test_processes_that_cannot_be_sharded_evenly_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="shard = 2 does not divide the 3 processes"):
        join_mesh(shard=2)
