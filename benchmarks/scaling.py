"""Training on several processes of this CPU beside one, and what a run sends on many GPUs by the plan.

    python benchmarks/scaling.py                         # 1, 2 and 4 processes: copies, shard, tensor
    python benchmarks/scaling.py --processes 1 2 --steps 6

On one machine the processes share its cores, so what is shown is the price of company: gathering, summing, waiting.
The second table is arithmetic (`inkstone.plan`): bytes each process sends in a step of recipes/7b.toml.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPE = {"hidden_size": 256, "num_layers": 4, "num_heads": 4}
LENGTH, ROWS, VOCABULARY, WARMUP = 256, 16, 4096, 2


def work(options: argparse.Namespace) -> None:
    """One rank; the first prints its figures."""
    import numpy as np
    import torch

    from inkstone.model import ModelSettings
    from inkstone.progress import Silent
    from inkstone.train import InOrder, Row, TrainSettings, join_mesh, new_model, train

    torch.set_num_threads(1)
    shard, tensor = (int(part) for part in options.worker.split("x"))
    mesh = join_mesh(shard, tensor)
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, (64, LENGTH))

    class Rows:
        rows_per_epoch = 64

        def row(self, epoch: int, index: int) -> Row:
            weights = np.ones(LENGTH, np.float32)
            weights[0] = 0
            return Row(tokens[index], np.arange(LENGTH), np.zeros(LENGTH, np.int64), weights)

    clock: list[float] = []

    class Watch(Silent):
        def advance(self, done: float, total: float | None, unit: str, **fields: Any) -> None:
            clock.append(time.perf_counter())

    micro = LENGTH * max(1, ROWS // (4 * mesh.data_size))
    settings = TrainSettings(
        sequence_length=LENGTH, batch_tokens=ROWS * LENGTH, micro_batch_tokens=micro, epochs=1e6,
        max_steps=options.steps, warmup_steps=0, device="cpu", dtype="float32", compile="off", shard=shard,
        tensor=tensor, checkpoint_steps=10**6, log_steps=10**6,
    )  # fmt: skip
    shape = ModelSettings(**SHAPE)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as scratch:
        result = train(
            new_model(shape, VOCABULARY, 1, mesh), InOrder(Rows()), settings, Path(scratch), Watch(), mesh=mesh
        )
    if mesh.first:
        speed = (options.steps - WARMUP) * ROWS * LENGTH / (clock[-1] - clock[WARMUP - 1])
        print(json.dumps({"tokens_per_second": speed, "loss": result.loss}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    alone = 0.0
    for size in options.processes:
        layouts = [(1, 1)] if size == 1 else [(1, 1), (size, 1), (size // 2, 2) if size > 2 else (1, 2)]
        for shard, tensor in layouts:
            found = run(size, shard, tensor, options)
            alone = alone or found["tokens_per_second"]
            speed = found["tokens_per_second"]
            told = f"{speed:,.0f} tokens/s, {speed / alone:.2f} times one, loss {found['loss']:.4f}"
            print(f"{size} processes, shard {shard}, tensor {tensor}: {told}", flush=True)
    traffic()


def run(size: int, shard: int, tensor: int, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), __file__,
               "--worker", f"{shard}x{tensor}", "--steps", str(options.steps)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def traffic() -> None:
    """Bytes by the plan, for 8, 64 and 1,024 GPUs."""
    from inkstone.plan import estimate, find_device
    from inkstone.recipe import read_recipe

    recipe = read_recipe(Path(__file__).parents[1] / "recipes" / "7b.toml")
    assert recipe.pretrain and recipe.tokenizer
    config = recipe.model.decoder_config(recipe.tokenizer.vocab_size)
    for count in (8, 64, 1024):
        for micro in (4096, 16384):
            settings = recipe.pretrain.model_copy(update={"micro_batch_tokens": micro, "recompute": micro > 4096})
            made = estimate(config, settings, find_device("h100"), count)
            print(f"7B on {count} GPUs, micro-batch {micro}: {made.traffic_gib:,.0f} GiB a step from each, "
                  f"{made.memory.total:.1f} GiB of memory")  # fmt: skip


if __name__ == "__main__":
    main()
