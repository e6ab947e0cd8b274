"""Decoding on a CPU: ours beside transformers' generate and llama.cpp, the same random llama of 551 M parameters.

    python benchmarks/decode.py                                 # 3 rounds: batch 1 and 16, prefill of 512 tokens
    python benchmarks/decode.py --layers 2 --rounds 1           # does it work?

Every measurement is a process of its own; the systems take turns, and before each the bandwidth of the memory is read
(the machine's own best of three sums over 1 GB), because on rented machines it moves within minutes. So tokens per
second stand beside the floor of the same moment: bandwidth over the bytes of weights that a token reads. Ratios are
those of the medians over the rounds.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

SYSTEMS = {
    "inkstone": "inkstone, bf16",
    "transformers": "transformers generate, bf16",
    "inkstone-int8": "inkstone --quantize int8",
    "inkstone-int4": "inkstone --quantize int4",
    "llama.cpp-q8_0": "llama.cpp, our q8_0 file",
    "llama.cpp-q4_0": "llama.cpp, our q4_0 file",
}
PROMPT, NEW, PREFILL = 32, 48, 512
WEIGHTS = {"int8": 8.06, "int4": 4.25, "q8_0": 8.5, "q4_0": 4.5}
"""Bits that each weight takes, scales included; bf16 otherwise."""


# ---- one measurement, in its own process


def work(options: argparse.Namespace) -> dict[str, float]:
    if options.worker.startswith("inkstone"):
        from inkstone.allocator import keep_memory

        keep_memory()  # as our command line does
    import torch

    torch.set_num_threads(options.threads)
    found = {"bandwidth": bandwidth()}
    run = runner(options.worker, options.folder, options.threads)
    run(1, 8, 2)
    for batch in options.batches:
        started = time.perf_counter()
        run(batch, PROMPT, 1)
        prompt = time.perf_counter() - started
        started = time.perf_counter()
        run(batch, PROMPT, NEW)
        found[f"batch {batch}"] = batch * (NEW - 1) / (time.perf_counter() - started - prompt)
    started = time.perf_counter()
    run(1, PREFILL, 1)
    found["prefill"] = PREFILL / (time.perf_counter() - started)
    return found


def bandwidth() -> float:
    """Bytes per second that a sum over 1 GB reads, best of three."""
    import torch

    data = torch.ones(2**28)
    best = 0.0
    for _ in range(3):
        started = time.perf_counter()
        data.sum()
        best = max(best, data.nbytes / (time.perf_counter() - started))
    return best


Run = Callable[[int, int, int], Any]
"""(rows, tokens of each prompt, new tokens), greedily, never stopping early."""


def runner(system: str, folder: Path, threads: int) -> Run:
    name, _, kind = system.partition("-")
    return {"inkstone": ours, "transformers": theirs, "llama.cpp": llama_cpp}[name](folder, kind, threads)


def prompts(batch: int, length: int) -> list[list[int]]:
    return [[(7 * n * n + 31 * row + 5) % 31000 + 5 for n in range(length)] for row in range(batch)]


def ours(folder: Path, kind: str, threads: int) -> Run:
    import torch

    from inkstone.generate import SamplingSettings, generate
    from inkstone.model import load_model
    from inkstone.model.packed.pack import pack_model, prepack_model

    model = load_model(folder / "model", torch.bfloat16)
    if kind:
        pack_model(model, kind)  # type: ignore[arg-type]
    else:
        prepack_model(model)  # as chat, serve and generate do
    return lambda batch, length, new: generate(
        model, prompts(batch, length), SamplingSettings(max_new_tokens=new), set(), batch
    )


def theirs(folder: Path, kind: str, threads: int) -> Run:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16).eval()

    def run(batch: int, length: int, new: int) -> None:
        ids = torch.tensor(prompts(batch, length))
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=new, max_new_tokens=new,
                pad_token_id=0,
            )  # fmt: skip

    return run


def llama_cpp(folder: Path, kind: str, threads: int) -> Run:
    import llama_cpp as package

    default = package.llama_cpp.llama_model_default_params

    def plain() -> Any:
        """Without its repacked weights, which crash on CPUs with AMX (0.3.36)."""
        how = default()
        how.use_extra_bufts = False
        return how

    package.llama_cpp.llama_model_default_params = plain
    model = package.Llama(
        str(folder / f"{kind}.gguf"), n_ctx=1024, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False
    )

    def run(batch: int, length: int, new: int) -> None:
        assert batch == 1, "one sequence at a time through this interface"
        model.reset()
        model.eval(prompts(1, length)[0])
        for _ in range(new - 1):
            model.eval([7])

    return run


# ---- the table


def prepare(options: argparse.Namespace, folder: Path) -> int:
    """The model directory and GGUF files; returns the weights that a token reads."""
    import torch

    from inkstone.model import ModelSettings, save_model
    from inkstone.model.gguf import write_gguf
    from inkstone.progress import Silent
    from inkstone.tokenizer import TokenizerSettings
    from inkstone.tokenizer.bpe.train import train
    from inkstone.train import new_model

    shape = ModelSettings(
        hidden_size=1536, intermediate_size=4096, num_layers=options.layers, num_heads=12, max_positions=1024,
        tie_embeddings=False,
    )  # fmt: skip
    model = new_model(shape, 32000, 1).to(torch.bfloat16)
    save_model(model, folder / "model", bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    train(TokenizerSettings(vocab_size=400), [(["你好，世界！Hello"] * 3, 1.0)])[0].save(folder / "model")
    for kind in {one.partition("-")[2] for one in options.systems if one.startswith("llama.cpp")}:
        write_gguf(folder / "model", folder / f"{kind}.gguf", kind, Silent())
    return model.config.num_parameters() - model.config.vocab_size * model.config.hidden_size


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        read = prepare(options, folder)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in options.systems}
        for number in range(options.rounds):
            turned = options.systems[number % len(options.systems) :] + options.systems[: number % len(options.systems)]
            for name in turned:
                rounds[name].append(one(name, folder, options))
        show(rounds, read)


def one(system: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    batches = [1] if system.startswith("llama.cpp") else options.batches
    command = [
        sys.executable, __file__, "--worker", system, "--folder", str(folder), "--threads", str(options.threads),
        "--batches", *map(str, batches),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{system} failed:\n{ended.stderr[-2000:]}")
    found: dict[str, float] = json.loads(ended.stdout.strip().splitlines()[-1])
    print(system, {name: round(value if name != "bandwidth" else value / 1e9, 1) for name, value in found.items()})
    return found


def show(rounds: dict[str, list[dict[str, float]]], read: int) -> None:
    """Medians; at batch 1 the share of the floor of the same process."""
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
    for name, measured in rounds.items():
        keys = [key for key in measured[0] if key != "bandwidth"]
        medians = {key: statistics.median(one[key] for one in measured) for key in keys}
        bits = WEIGHTS.get(name.partition("-")[2], 16)
        share = statistics.median(one["batch 1"] * read * bits / 8 / one["bandwidth"] for one in measured)
        told = ", ".join(f"{key} {value:.1f}" for key, value in medians.items())
        print(f"{SYSTEMS[name]:28} {told} tokens/s; batch 1 is {share:.0%} of the floor")


if __name__ == "__main__":
    main()
