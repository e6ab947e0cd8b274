"""A tiny model, rows that try every case, and runs of the loop in processes of their own that may be killed."""

import multiprocessing
import os
import random
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from inkstone.model import Decoder, DecoderConfig
from inkstone.model.decoder.decoder import initialise
from inkstone.progress import Field, Silent
from inkstone.train import Batch, InOrder, NextToken, Objective, Outcome, Row, TrainResult, TrainSettings, train
from inkstone.train.mesh import Mesh, join_mesh
from inkstone.train.objective import Figures
from inkstone.train.parallelize import empty, gathered

SHAPE = DecoderConfig(
    vocab_size=53,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    max_positions=32,
    tie_embeddings=True,
)


def tiny_model(seed: int = 0) -> Decoder:
    model = Decoder(SHAPE)
    initialise(model, torch.Generator().manual_seed(seed))
    return model


def tiny_settings(**changes: object) -> TrainSettings:
    """20 steps of 4 rows, which cross the ends of epochs."""
    values = {
        "sequence_length": 16, "batch_tokens": 64, "epochs": 1000, "max_steps": 20, "learning_rate": 1e-2,
        "warmup_steps": 3, "device": "cpu", "dtype": "float32", "compile": "off", "log_steps": 1, "checkpoint_steps": 7,
    }  # fmt: skip
    return TrainSettings.model_validate({**values, **changes})


class SampleRows:
    """Rows of one to four documents of a skewed language, with weights 0, 1 and 0.5 spread unevenly."""

    rows_per_epoch = 11

    def row(self, epoch: int, index: int) -> Row:
        draw = random.Random(f"{epoch} {index}")
        lengths = [16]
        for _ in range(draw.randrange(4)):
            cut = draw.randrange(1, 16)
            if lengths[-1] > cut:
                lengths[-1:] = [cut, lengths[-1] - cut]
        weights = np.array([draw.choice([0, 1, 1, 1, 0.5]) if index % 5 else index / 10 for _ in range(16)], np.float32)
        weights[np.cumsum([0, *lengths[:-1]])] = 0
        return Row(
            np.array([min(draw.randrange(53), draw.randrange(53)) for _ in range(16)]),
            np.concatenate([np.arange(length) for length in lengths]),
            np.repeat(np.arange(len(lengths)), lengths),
            weights,
        )


class CountedRows(SampleRows):
    """Counts the rows that are asked for."""

    count = 0

    def row(self, epoch: int, index: int) -> Row:
        self.count += 1
        return super().row(epoch, index)


class Notes(Silent):
    """Keeps the sentences of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str, **fields: Field) -> None:
        self.notes.append(message)


class SignalAt(Silent):
    """Sends this process a real signal while step `step` is being finished."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def advance(self, done: float, total: float | None, unit: str, **fields: Field) -> None:
        if done == self.step:
            os.kill(os.getpid(), self.number)


def run(
    scratch: Path, settings: TrainSettings, progress: Silent | None = None, objective: Objective | None = None
) -> tuple[Decoder, TrainResult]:
    """One run, from its beginning or from its last checkpoint."""
    model = tiny_model()
    return model, train(model, InOrder(SampleRows()), settings, scratch, progress or Silent(), objective=objective)


def same_bits(one: Decoder, other: Decoder) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def start(target: object, *arguments: object) -> ForkServerProcess:
    """`target(*arguments)` in a fresh process; torch is imported once, in a server they are forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["inkstone.train", "torch._dynamo"])
    process = context.Process(target=target, args=arguments)  # type: ignore[arg-type]
    process.start()
    return process


def run_rank(
    rank: int, size: int, port: int, scratch: Path, output: Path, settings: TrainSettings, fault: str = ""
) -> None:
    """One rank as torchrun starts it; `fault` is what happens to the last rank. Saves its final weights."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    mesh = join_mesh(settings.shard)
    assert mesh == Mesh(rank, replicate=size // settings.shard, shard=settings.shard)
    faulty = fault if rank == size - 1 else ""
    progress = SignalAt(3, 15) if faulty == "SIGTERM at step 3" else Silent()
    objective = NaNAt({3}) if faulty == "NaN in step 4" else NextToken()
    model, rows = tiny_model() if settings.shard == 1 else empty(SHAPE, mesh), CountedRows()
    initialise(model, torch.Generator().manual_seed(0))
    result = train(model, InOrder(rows), settings, scratch, progress, objective=objective, mesh=mesh)
    assert result.skipped_steps == (fault == "NaN in step 4")
    share = len(range(rank, settings.rows_per_step, size))
    assert rows.count % share == 0 and 0 < rows.count <= result.steps * share, "a rank reads only its share"
    if settings.shard == 1 or mesh.first:
        whole = dict(gathered(model, mesh).named_parameters())
        save_file({name: p.detach() for name, p in whole.items()}, output / f"rank-{rank}.safetensors")
    else:
        gathered(model, mesh)


class NaNAt(NextToken):
    """The usual objective, but NaN in some of its calls, counted from 0."""

    def __init__(self, calls: set[int]) -> None:
        self.calls, self.counter = calls, iter(range(1 << 30))

    def __call__(self, policy: Decoder, batch: Batch, last: Figures) -> Outcome:
        outcome = super().__call__(policy, batch, last)
        return replace(outcome, loss=outcome.loss * float("nan")) if next(self.counter) in self.calls else outcome
