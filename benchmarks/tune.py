"""Tuning speed on this CPU: ours beside TRL's trainers, on the same rows, model, dtype and optimizer.

    pip install trl datasets                      # the peer; into an environment of its own if you like
    python benchmarks/tune.py --base runs/primer/sft --chats alpaca_zh.jsonl.gz --pairs dpo_zh.jsonl.gz

Every measurement is a process of its own; the order turns round after each round. The model is a random llama with the
tokenizer of --base. Both sides learn only the assistant's tokens, in float32, with rows of at most --length tokens;
ours packs conversations into rows that do not see each other, TRL pads (its packing needs flash attention to keep
conversations apart, which a CPU does not have). The first step's loss is printed: both must find the work as hard.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SYSTEMS = {"chats": ("inkstone", "trl"), "pairs": ("inkstone", "trl")}
WARMUP = 3
SEED = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chats", type=Path, help="Alpaca rows: instruction, input, output")
    parser.add_argument("--pairs", type=Path, help="rows with prompt (turns), chosen and rejected")
    parser.add_argument(
        "--base", type=Path, required=True, help="a directory of ours: its tokenizer and template are taken"
    )
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rows", type=int, default=8, help="rows in a step")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options)))
        return
    kinds = [kind for kind in ("chats", "pairs") if getattr(options, kind)]
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        make_model(options, Path(scratch) / "model")
        for turn in range(options.rounds):
            for kind in kinds:
                for system in SYSTEMS[kind][:: -1 if turn % 2 else 1]:
                    found.setdefault((kind, system), []).append(measure(options, kind, system, Path(scratch)))
                    print(kind, system, found[kind, system][-1], flush=True)
    for kind in kinds:
        speeds = {system: max(one["tokens_per_second"] for one in found[kind, system]) for system in SYSTEMS[kind]}
        memory = {system: min(one["peak_mib"] for one in found[kind, system]) for system in SYSTEMS[kind]}
        print(f"{kind}: {speeds['inkstone'] / speeds['trl']:.2f} times TRL's supervised tokens per second, "
              f"{memory['inkstone'] / memory['trl']:.2f} times its peak memory")  # fmt: skip


def make_model(options: argparse.Namespace, directory: Path) -> None:
    """A random llama with the base's tokenizer and a chat template that both sides read."""
    from inkstone.chat import CHATML, attach_template
    from inkstone.model import ModelSettings
    from inkstone.tokenizer import Tokenizer
    from inkstone.train.stage import new_model, save_for

    tokenizer = Tokenizer.load(options.base)
    shape = ModelSettings(
        hidden_size=options.hidden_size, num_layers=options.layers, num_heads=4, max_positions=options.length
    )
    directory.mkdir()
    save_for(tokenizer, new_model(shape, tokenizer.vocab_size, SEED), directory, list(tokenizer.end_ids))
    tokenizer.save(directory)
    attach_template(CHATML, tokenizer, directory)


def measure(options: argparse.Namespace, kind: str, system: str, scratch: Path) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", f"{kind} {system} {scratch / 'model'}"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(f"{kind} {system} failed:\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def work(options: argparse.Namespace) -> dict[str, float]:
    kind, system, model = options.worker.split(" ", 2)
    run = {"inkstone": ours, "trl": theirs}[system]
    if system == "inkstone":
        from inkstone.allocator import keep_memory

        keep_memory()
    clock, supervised, losses = run(options, kind, Path(model))
    seconds = clock[-1] - clock[WARMUP - 1]
    return {
        "tokens_per_second": round(sum(supervised[WARMUP:]) / seconds, 1),
        "seconds_per_step": round(seconds / (len(clock) - WARMUP), 3),
        "supervised_share": round(sum(supervised) / (len(supervised) * options.rows * options.length), 3),
        "first_loss": round(losses[0], 4),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


Figures = tuple[list[float], list[float], list[float]]
"""When each step ended, how many supervised tokens it had, its loss."""


def ours(options: argparse.Namespace, kind: str, model: Path) -> Figures:
    """A tuning stage as a recipe runs it, watched."""
    from inkstone.progress import Silent
    from inkstone.train import source as sources
    from inkstone.tune import SFTSettings, Work, prefer, sft

    clock: list[float] = []
    losses: list[float] = []
    supervised: list[float] = []

    class Watch(Silent):
        def advance(self, done: float, total: float | None, unit: str, **fields: Any) -> None:
            if unit == "steps":
                clock.append(time.perf_counter())
                losses.append(float(fields["loss"] or 0))

    draw = sources.InOrder.draw

    def counted(self: Any, *arguments: Any) -> Any:
        batches = draw(self, *arguments)
        supervised.append(sum(float((batch.weights[:, 1:] > 0).sum()) for batch in batches))
        return batches

    sources.InOrder.draw = counted  # type: ignore[method-assign]
    settings = SFTSettings.model_validate({
        "inputs": ["rows"], "method": "sft" if kind == "chats" else "preference", "template": "auto",
        "sequence_length": options.length, "batch_tokens": options.rows * options.length, "max_steps": options.steps,
        "epochs": 1000, "learning_rate": 1e-4, "warmup_steps": 1, "device": "cpu", "dtype": "float32", "compile": "on",
        "heldout_fraction": 0.0, "checkpoint_steps": 10**6, "log_steps": 1, "on_problem": "skip",
        "weight_decay": 0.0,
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        places = [Path(scratch) / name for name in ("out", "scratch")]
        for place in places:
            place.mkdir()
        stage = sft if kind == "chats" else prefer
        stage(Work(settings, [options.chats if kind == "chats" else options.pairs], model, *places, Watch()))
    return clock, supervised, losses


def theirs(options: argparse.Namespace, kind: str, model: Path) -> Figures:
    """TRL's SFTTrainer or DPOTrainer with its defaults, but for what must be equal."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    clock: list[float] = []
    losses: list[float] = []
    supervised: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            clock.append(time.perf_counter())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **named: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    wanted = 4 * options.rows * options.steps
    rows = peer_rows(options, kind, wanted)
    decoder = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    shared = {
        "output_dir": tempfile.mkdtemp(), "max_steps": options.steps, "learning_rate": 1e-4, "use_cpu": True,
        "per_device_train_batch_size": options.rows, "gradient_accumulation_steps": 1, "logging_steps": 1,
        "save_strategy": "no", "report_to": [], "max_length": options.length, "seed": SEED, "bf16": False,
        "gradient_checkpointing": False, "disable_tqdm": True,
    }  # fmt: skip
    if kind == "chats":
        made = SFTTrainer(
            decoder,
            SFTConfig(completion_only_loss=True, **shared),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Watch()],
        )
    else:
        made = DPOTrainer(
            decoder,
            args=DPOConfig(**shared),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Watch()],
        )
    compute = made.compute_loss

    def counted(model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        mask = inputs["labels"][:, 1:] != -100 if "labels" in inputs else inputs["completion_mask"]
        supervised.append(float(mask.sum()))
        return compute(model, inputs, *arguments, **named)

    made.compute_loss = counted  # type: ignore[method-assign]
    made.train()
    return clock, supervised, losses


def peer_rows(options: argparse.Namespace, kind: str, count: int) -> list[dict[str, Any]]:
    """The rows as TRL's conversational formats have them."""
    from inkstone.chat import read_chats, read_preferences

    def turn(role: str, text: str) -> dict[str, str]:
        return {"role": role, "content": text}

    if kind == "chats":
        chats = [chat for chat in read_chats([options.chats], "skip").chats if len(chat) == 2][:count]
        return [{"prompt": [turn("user", q.content)], "completion": [turn("assistant", a.content)]} for q, a in chats]
    pairs = read_preferences([options.pairs], "skip").preferences[:count]
    return [
        {
            "prompt": [turn(message.role, message.content) for message in pair.prompt],
            "chosen": [turn("assistant", pair.chosen)],
            "rejected": [turn("assistant", pair.rejected)],
        }
        for pair in pairs
    ]


if __name__ == "__main__":
    main()
