"""GPTQ on a CPU: ours beside gptqmodel, the same model, calibration rows, bits and groups.

    python benchmarks/quantize.py MODEL --calibration cal.txt --compare zh.txt --compare en.txt
    python benchmarks/quantize.py MODEL --calibration cal.txt --systems inkstone        # without the peer

Every run is a process of its own and the systems take turns. Seconds go from opening the weights to the written
directory, imports apart, of the clock and of the CPU, which other work on the machine changes less. What each lost is
measured by us on both directories: the perplexity beside the original's, and the divergence of the next token's
distribution.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def settings(options: argparse.Namespace) -> Any:
    from inkstone.quantize import Quantization  # after the allocator is set

    return Quantization(
        group_size=options.group_size, layout="gptq", samples=options.samples, length=options.length
    )  # fmt: skip


def work(options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of one system, from the weights to the written directory: of the clock and of the CPU."""
    if options.worker == "inkstone":
        from inkstone.allocator import keep_memory

        keep_memory()  # as our command line does
    import torch

    torch.set_num_threads(options.threads)
    if options.worker == "inkstone":
        from inkstone.quantize import quantize_model

        started, used = time.perf_counter(), time.process_time()
        quantize_model(options.model, options.output, settings(options), options.calibration)
        return time.perf_counter() - started, time.process_time() - used
    count = os.cpu_count
    os.cpu_count = lambda: max(8, count() or 1)  # 7.6.0 does not start on two cores
    from gptqmodel import GPTQModel, QuantizeConfig

    from inkstone.quantize.model import calibration_rows
    from inkstone.tokenizer import Tokenizer

    how = settings(options)
    ids = Tokenizer.load(options.model).encode(options.calibration.read_text(encoding="utf-8"))
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in calibration_rows(ids, how, "").tolist()]
    started, used = time.perf_counter(), time.process_time()
    model = GPTQModel.load(str(options.model), QuantizeConfig(bits=how.bits, group_size=how.group_size), device="cpu")
    model.quantize(rows, batch_size=8)
    model.save(str(options.output))
    return time.perf_counter() - started, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--compare", type=Path, action="append", default=[])
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=230)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--systems", nargs="+", default=["inkstone", "gptqmodel"])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options)))
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in options.systems}
    with tempfile.TemporaryDirectory() as scratch:
        made = {name: Path(scratch) / f"{name}-{options.rounds - 1}" for name in options.systems}
        for number in range(options.rounds):
            for name in options.systems[:: 1 if number % 2 == 0 else -1]:
                seconds[name].append(one(name, Path(scratch) / f"{name}-{number}"))
        medians = {name: [statistics.median(column) for column in zip(*seconds[name], strict=True)] for name in seconds}
        for name, (wall, cpu) in medians.items():
            print(f"{name}: {wall:.1f} s, {cpu:.1f} of the CPU, {cpu / medians['inkstone'][1]:.2f} of inkstone's")
            lost(options, name, made[name])


def one(name: str, output: Path) -> tuple[float, float]:
    ended = subprocess.run(
        [sys.executable, *sys.argv, "--worker", name, "--output", str(output)], capture_output=True, text=True
    )
    if ended.returncode:
        raise SystemExit(f"{name} failed:\n{ended.stderr[-3000:]}")
    wall, cpu = json.loads(ended.stdout.strip().splitlines()[-1])
    return wall, cpu


def lost(options: argparse.Namespace, name: str, made: Path) -> None:
    from inkstone.evaluate.quality import compare_quality

    for row in compare_quality(options.model, made, options.compare):
        before, after = row.perplexity
        print(
            f"  {name}, {row.text}: perplexity {before:.3f} to {after:.3f} ({after / before - 1:+.2%}), "
            f"divergence {row.divergence:.5f}, same best {row.same_best:.1%}"
        )


if __name__ == "__main__":
    main()
