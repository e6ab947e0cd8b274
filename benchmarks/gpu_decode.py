"""Decoding on one GPU: our engine with and without graphs beside transformers' generate, a random llama of 1.5 B.

Under three minutes:

    python benchmarks/gpu_decode.py                          # from a checkout; torch 2.11 or newer, transformers
    python benchmarks/gpu_decode.py --device cpu --tiny      # does the script work?

Prompts of 512 tokens, greedy, 128 new ones with graphs and a quarter of that without, which launches each kernel. The
floor is the memory's: bandwidth (measured here, the best of some sums) over the bytes of weights that a token reads.
"GPU alone" is the captured step by itself, again and again: what the engine is slower by is the host's.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROMPT, NEW = 512, 128
SHAPE = {"hidden_size": 2048, "num_layers": 24, "num_heads": 16, "intermediate_size": 5504, "vocab_size": 64_000}
TINY = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": 96, "vocab_size": 256}


def config_of(options: argparse.Namespace) -> Any:
    from inkstone.model import DecoderConfig

    shape = TINY if options.tiny else SHAPE
    return DecoderConfig(
        num_kv_heads=shape["num_heads"], head_dim=shape["hidden_size"] // shape["num_heads"], max_positions=1024,
        tie_embeddings=False, **shape,
    )  # fmt: skip


def bandwidth(device: str, size: int) -> float:
    """Bytes per second of a sum over `size` bytes, the best of some."""
    import torch

    numbers = torch.ones(size // 2, dtype=torch.bfloat16, device=device)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        float(numbers.sum())
        best = min(best, time.perf_counter() - started)
    return size / best


def ours(options: argparse.Namespace, batch: int, graphs: bool) -> dict[str, float]:
    import torch

    from inkstone.generate import Engine, Request, SamplingSettings
    from inkstone.model import Decoder
    from inkstone.model.decoder.decoder import initialise
    from inkstone.model.packed.pack import prepack_model

    config = config_of(options)
    with torch.device(options.device):
        model = Decoder(config)
    initialise(model, torch.Generator(options.device).manual_seed(1))
    model = model.to(torch.bfloat16).eval()
    prepack_model(model)
    prompts = torch.randint(0, config.vocab_size, (batch, options.prompt)).tolist()
    # All prompts in one step, so that all rows decode together from the first token to the last.
    whole = batch * (options.prompt + options.new + 16)
    engine = Engine(model, whole, batch, step_tokens=whole, graphs=graphs)

    def run(count: int) -> float:
        for prompt in prompts:
            engine.submit(Request(prompt, SamplingSettings(max_new_tokens=count)))
        started = time.perf_counter()
        while engine.busy:
            engine.step()
        return time.perf_counter() - started

    started = time.perf_counter()
    run(4)  # compiles and captures
    first = time.perf_counter() - started
    told = speed(run, options.new if graphs else options.new // 4, batch) | {"first_s": first}
    if engine.steps and engine.steps.graphs:
        graph, _ = engine.steps.graphs[max(engine.steps.graphs)]
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(100):
            graph.replay()
        torch.cuda.synchronize()
        told["gpu_alone"] = batch * 100 / (time.perf_counter() - started)
    return told


def theirs(options: argparse.Namespace, batch: int) -> dict[str, float]:
    import torch
    import transformers

    shape = TINY if options.tiny else SHAPE
    config = transformers.LlamaConfig(
        vocab_size=shape["vocab_size"], hidden_size=shape["hidden_size"], num_hidden_layers=shape["num_layers"],
        num_attention_heads=shape["num_heads"], intermediate_size=shape["intermediate_size"],
        max_position_embeddings=1024, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(options.device, torch.bfloat16).eval()
    ids = torch.randint(0, shape["vocab_size"], (batch, options.prompt), device=options.device)

    def run(count: int) -> float:
        started = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=count,
                       max_new_tokens=count, pad_token_id=0)  # fmt: skip
        return time.perf_counter() - started

    run(4)
    return speed(run, options.new // 4, batch)


def speed(run: Any, new: int, batch: int) -> dict[str, float]:
    """Tokens per second of decoding alone: the prompt's time is that of one new token."""
    prompt, whole = run(1), run(new)
    return {"tokens_per_second": batch * (new - 1) / (whole - prompt)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small shape: to see that it runs")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--prompt", type=int, default=PROMPT)
    parser.add_argument("--new", type=int, default=NEW)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        who, batch = options.worker.split()
        told = theirs(options, int(batch)) if who == "transformers" else ours(options, int(batch), who == "graphs")
        print(json.dumps(told))
        return
    config = config_of(options)
    weights = 2.0 * (config.num_parameters() - config.vocab_size * config.hidden_size)
    floor = bandwidth(options.device, 10**7 if options.tiny else 4 * 10**9) / weights
    print(f"floor at batch 1: {floor:,.0f} tokens/s ({weights / 1e9:.2f} GB read for a token)")
    here = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    for batch in options.batches:
        for who in ("graphs", "plain", "transformers"):
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", f"{who} {batch}"]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": here})
            if done.returncode:
                print(f"batch {batch}, {who}: failed: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
                continue
            told = json.loads(done.stdout.strip().splitlines()[-1])
            line = f"batch {batch}, {who}: {told['tokens_per_second']:,.1f} tokens/s"
            line += f", {told['tokens_per_second'] / floor:.1%} of the floor" if batch == 1 else ""
            line += f", GPU alone {told['gpu_alone']:,.0f}" if "gpu_alone" in told else ""
            print(line + (f", first call {told['first_s']:.1f} s" if "first_s" in told else ""), flush=True)


if __name__ == "__main__":
    main()
