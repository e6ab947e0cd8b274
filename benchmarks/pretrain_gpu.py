"""Pretraining speed on one GPU: our loop on five shapes, and compiled transformers beside it. About four minutes.

    python benchmarks/pretrain_gpu.py               # from a checkout; torch 2.11 or newer, pydantic, zstandard, opencc
    python benchmarks/pretrain_gpu.py --shapes 1.5b 7b --steps 12
    python benchmarks/pretrain_gpu.py --device cpu --tiny     # does the script work?

Rows are synthetic and packed (eight documents a row; "one" has one). FLOPs are `DecoderConfig.flops_per_token`: 6 N and
full attention without credit for causality or packing; the 6 N figure stands beside it, because the first counts work
that packing skips. Shares are of the product that this session reached and of an H100's peak.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED, DOCUMENTS = 1, 8


@dataclass(frozen=True)
class Case:
    """A shape, its rows, and how it is trained."""

    shape: dict[str, Any]
    length: int
    step_tokens: int
    micro_tokens: int
    documents: int = DOCUMENTS
    optimizer: str = "adamw"
    peer: bool = False
    goal: str = ""


_369M = {"hidden_size": 1024, "num_layers": 24, "num_heads": 16, "vocab_size": 32_000}
_1500M = {"hidden_size": 2048, "num_layers": 24, "num_heads": 16, "intermediate_size": 5504, "vocab_size": 64_000}
_7B = {"hidden_size": 4096, "num_layers": 32, "num_heads": 32, "intermediate_size": 11008, "vocab_size": 64_000}
CASES = {
    "369m": Case(_369M, 2048, 65_536, 32_768),
    "1.5b": Case(_1500M, 4096, 65_536, 16_384, goal="62 % of 989 TFLOP/s"),
    "1.5b-one": Case(_1500M, 4096, 65_536, 16_384, documents=1, peer=True, goal="52 %"),
    "1.5b-muon": Case(_1500M, 4096, 65_536, 16_384, optimizer="muon"),
    "mixture": Case(
        {"hidden_size": 1024, "num_layers": 12, "num_heads": 16, "intermediate_size": 2816, "vocab_size": 32_000,
         "num_experts": 8, "experts_per_token": 2}, 2048, 32_768, 16_384, goal="40 %",
    ),
    "alibi": Case({**_369M, "position": "alibi"}, 2048, 16_384, 8_192),
    "7b": Case(_7B, 4096, 32_768, 4096, goal="10,500 tokens/s on an H200"),
}  # fmt: skip
DEFAULT = ["369m", "1.5b", "1.5b-one", "mixture", "alibi"]
TINY = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": 96, "vocab_size": 256}


# ---- one case, in its own process


def packed_rows(case: Case, vocab_size: int, rows: int) -> Any:
    """Rows of `case.documents` documents of about equal length."""
    import numpy as np

    from inkstone.train import Row

    draws = np.random.default_rng(SEED)
    edges = np.linspace(0, case.length, case.documents + 1).astype(int)
    ids = np.repeat(np.arange(case.documents), np.diff(edges))
    positions = np.arange(case.length) - edges[ids]
    weights = np.ones(case.length, np.float32)
    weights[edges[:-1]] = 0
    tokens = draws.integers(0, vocab_size, (rows, case.length))

    class Rows:
        rows_per_epoch = rows

        def row(self, epoch: int, index: int) -> Row:
            return Row(tokens[index], positions, ids, weights)

    return Rows()


def ours(case: Case, options: argparse.Namespace) -> dict[str, float]:
    import torch

    from inkstone.model import Decoder, DecoderConfig
    from inkstone.model.decoder.decoder import initialise
    from inkstone.progress import Silent
    from inkstone.train import InOrder, TrainSettings, train

    shape = {"intermediate_size": 2816, **case.shape}
    config = DecoderConfig(
        num_kv_heads=shape["num_heads"], head_dim=shape["hidden_size"] // shape["num_heads"],
        max_positions=case.length, tie_embeddings=False, **shape,
    )  # fmt: skip
    model = Decoder(config)
    initialise(model, torch.Generator().manual_seed(SEED))
    clock: list[float] = []
    losses: list[float] = []

    class Watch(Silent):
        def advance(self, done: float, total: float | None, unit: str, **fields: Any) -> None:
            clock.append(time.perf_counter())
            losses.append(float(fields["loss"] or 0))

    settings = TrainSettings(
        sequence_length=case.length, batch_tokens=case.step_tokens, micro_batch_tokens=case.micro_tokens, epochs=1e6,
        max_steps=options.steps, learning_rate=1e-4, warmup_steps=0, device=options.device,
        dtype="bfloat16" if options.device == "cuda" else "float32", compile="on", optimizer=case.optimizer,
        checkpoint_steps=10**6, log_steps=10**6,
    )  # fmt: skip
    rows = packed_rows(case, config.vocab_size, 4 * case.step_tokens // case.length)
    with tempfile.TemporaryDirectory() as scratch, _unsaved():
        train(model, InOrder(rows), settings, Path(scratch), Watch())
    speed = (options.steps - options.warmup) * case.step_tokens / (clock[-1] - clock[options.warmup - 1])
    return {
        "parameters": config.num_parameters(),
        "tokens_per_second": speed,
        "tflops": speed * config.flops_per_token(case.length) / 1e12,
        "six_n_tflops": speed * config.flops_per_token(0) / 1e12,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if options.device == "cuda" else 0.0,
        "loss": losses[-1],
        "compile_s": clock[0] - options.began,
    }


def _unsaved() -> Any:
    """The last checkpoint would take as long as the steps: it is left out."""
    from unittest import mock

    return mock.patch("inkstone.train.loop.Saves.save", lambda *_: None)


def peer(case: Case, options: argparse.Namespace) -> dict[str, float]:
    """LlamaForCausalLM, compiled, autocast, fused AdamW, plain causal rows: no document is masked from another."""
    import torch
    import transformers

    shape = case.shape
    config = transformers.LlamaConfig(
        vocab_size=shape["vocab_size"], hidden_size=shape["hidden_size"], num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["num_heads"], intermediate_size=shape["intermediate_size"],
        max_position_embeddings=case.length, tie_word_embeddings=False, use_cache=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    compiled = torch.compile(model)
    rows = case.micro_tokens // case.length
    clock: list[float] = []
    for _ in range(options.steps):
        for _ in range(case.step_tokens // case.micro_tokens):
            ids = torch.randint(0, shape["vocab_size"], (rows, case.length), device=options.device)
            with torch.autocast(options.device, torch.bfloat16, enabled=options.device == "cuda"):
                loss = compiled(input_ids=ids, labels=ids).loss / (case.step_tokens // case.micro_tokens)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        float(loss)
        clock.append(time.perf_counter())
    speed = (options.steps - options.warmup) * case.step_tokens / (clock[-1] - clock[options.warmup - 1])
    peak = torch.cuda.max_memory_allocated() / 2**30 if options.device == "cuda" else 0.0
    return {"tokens_per_second": speed, "peak_gib": peak}


def product_tflops(device: str, size: int) -> float:
    """The best bfloat16 product of this session."""
    import torch

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e12


# ---- the table


def measure(name: str, who: str, options: argparse.Namespace) -> dict[str, float] | str:
    asked = {"worker": f"{who} {name}", "steps": options.steps, "warmup": options.warmup, "device": options.device}
    command = [sys.executable, __file__, *(["--tiny"] if options.tiny else [])]
    command += [word for key, value in asked.items() for word in (f"--{key}", str(value))]
    here = str(Path(__file__).parents[1])
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    if done.returncode:
        return (done.stderr.strip() or "no output").splitlines()[-1]
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=CASES, default=DEFAULT)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes: to see that it runs")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.began = time.perf_counter()
    if options.worker:
        who, name = options.worker.split()
        case = CASES[name]
        if options.tiny:
            case = Case({**case.shape, **TINY}, 128, 512, 256, min(case.documents, 4), case.optimizer, case.peer)
        print(json.dumps((ours if who == "ours" else peer)(case, options)))
        return
    ceiling = product_tflops(options.device, 512 if options.tiny else 8192)
    print(f"product ceiling of this session: {ceiling:,.1f} TFLOP/s")
    for name in options.shapes:
        case, found = CASES[name], measure(name, "ours", options)
        if isinstance(found, str):
            print(f"{name}: failed: {found}", flush=True)
            continue
        print(
            f"{name}: {found['parameters'] / 1e6:,.0f} M, {found['tokens_per_second']:,.0f} tokens/s, "
            f"{found['tflops']:,.1f} TFLOP/s ({found['tflops'] / ceiling:.1%} of the ceiling, "
            f"{found['tflops'] / 989:.1%} of 989; 6 N alone {found['six_n_tflops']:,.1f}), "
            f"{found['peak_gib']:.1f} GiB, loss {found['loss']:.3f}, first step after {found['compile_s']:.0f} s"
            + (f"; goal {case.goal}" if case.goal else ""),
            flush=True,
        )
        if case.peer:
            other = measure(name, "peer", options)
            if isinstance(other, str):
                print(f"  compiled transformers: failed: {other}", flush=True)
            else:
                ratio = found["tokens_per_second"] / other["tokens_per_second"]
                print(f"  compiled transformers: {other['tokens_per_second']:,.0f} tokens/s, "
                      f"{other['peak_gib']:.1f} GiB; ours {ratio:.2f} times", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
