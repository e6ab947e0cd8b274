"""A checkpoint that a thread writes is the moment it was asked for, whatever training does meanwhile."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from test_train_ranks import free_port
from train_samples import start, tiny_model, tiny_settings

from inkstone.errors import InkstoneError
from inkstone.train.checkpoint import Saves, TrainState, load_checkpoint
from inkstone.train.mesh import ALONE, Mesh
from inkstone.train.optimizer import build_optimizer, learning_rate


def save_and_go_on(folder: Path, mesh: Mesh = ALONE) -> None:
    """Save three moments; weights change as soon as each save returns."""
    model = tiny_model()
    optimizer = build_optimizer(model, tiny_settings())
    saves = Saves(folder, mesh, beside=True)
    for step in (1, 2, 3):
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(step)
        saves.save(TrainState(step=step, loss=step / 2), model, optimizer)
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(-1.0)
    saves.wait()


def run_rank(rank: int, port: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    save_and_go_on(folder, Mesh(rank, replicate=2))
    dist.destroy_process_group()


def check(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000003"]
    model = tiny_model()
    state, damage = load_checkpoint(folder, model, build_optimizer(model, tiny_settings()), ALONE)
    assert state is not None and (state.step, state.loss, damage) == (3, 1.5, "")
    assert all(bool((weight == 3).all()) for weight in model.parameters())


def test_what_is_written_beside_the_training_is_the_moment_of_the_save(tmp_path: Path) -> None:
    save_and_go_on(tmp_path)
    check(tmp_path)


def test_two_ranks_write_beside_the_training_and_one_reads(tmp_path: Path) -> None:
    port = free_port()
    ranks = [start(run_rank, rank, port, tmp_path) for rank in range(2)]
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    check(tmp_path)


def test_a_save_that_failed_is_told_at_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    model = tiny_model()
    optimizer = build_optimizer(model, tiny_settings())
    saves = Saves(tmp_path, ALONE, beside=True)
    with monkeypatch.context() as patched:
        patched.setattr("inkstone.train.checkpoint.write_manifest", full)
        saves.save(TrainState(step=1), model, optimizer)
        with pytest.raises(InkstoneError, match="the disk is full"):
            saves.wait()
    saves.save(TrainState(step=2), model, optimizer)
    saves.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_a_stable_rate_does_not_depend_on_where_the_run_will_end() -> None:
    settings = tiny_settings(schedule="wsd", decay_share=0.25, warmup_steps=4, learning_rate=1.0)
    short, long = ([learning_rate(settings, step, steps) for step in range(steps)] for steps in (104, 404))
    assert short[:79] == long[:79] and set(short[3:79]) == {1.0}
    assert short[-1] == pytest.approx(0.1) and sorted(short[79:], reverse=True) == short[79:]
