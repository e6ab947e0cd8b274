"""Pretraining speed on this CPU: our loop beside transformers.Trainer, the same model, rows, batch and optimizer.

    python benchmarks/pretrain_cpu.py                                   # 2 rounds x 2 batch sizes x 6 systems
    python benchmarks/pretrain_cpu.py --steps 6 --warmup 2 --rounds 1   # does it work?
    python benchmarks/pretrain_cpu.py --tokens-dir runs/primer/tokens   # real text instead of synthetic tokens

Every measurement is a process of its own, and the order of the systems turns round after each round. Both sides start
from the same weights and see the same rows in the same order with a constant learning rate, so their losses must
agree: that is how you see that both did the same work. Synthetic rows are one document each. Rows of real text hold
several; ours then masks them from each other, while the peer runs its faster plain causal path.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SEQUENCE_LENGTH = 256  # tokens
LEARNING_RATE = 1e-3
SEED = 1


@dataclass(frozen=True)
class System:
    """What one row of the table runs."""

    name: str
    ours: bool
    compiled: bool
    keeps_memory: bool


SYSTEMS = {
    "inkstone": System("inkstone, compiled", True, True, True),
    "inkstone-eager": System("inkstone, not compiled", True, False, True),
    "trainer": System("transformers.Trainer", False, False, False),
    "trainer-memory": System("transformers.Trainer + our allocator settings", False, False, True),
    "trainer-compile": System("transformers.Trainer, compiled", False, True, False),
    "trainer-compile-memory": System("transformers.Trainer, compiled + our allocator settings", False, True, True),
}


@dataclass(frozen=True)
class Measured:
    """One process. Speed is over the steps after the warm-up, which is compiling's share of the time."""

    tokens_per_second: float
    warmup_seconds: float
    peak_memory_mib: float
    tokens: int
    first_loss: float
    last_loss: float


# ---- one measurement, in its own process


def work(options: argparse.Namespace) -> Measured:
    system = SYSTEMS[options.worker]
    if system.keeps_memory:
        from inkstone.allocator import keep_memory

        keep_memory()
    run = run_inkstone if system.ours else run_trainer
    started = time.perf_counter()
    clock, losses = run(system, options)
    measured_tokens = (options.steps - options.warmup) * options.batch_tokens
    return Measured(
        tokens_per_second=measured_tokens / (clock[-1] - clock[options.warmup - 1]),
        warmup_seconds=clock[options.warmup - 1] - started,
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        tokens=len(losses) * options.batch_tokens,
        first_loss=losses[0],
        last_loss=statistics.mean(losses[-3:]),
    )


class SyntheticRows:
    """Seeded rows of one document each: low ids are frequent, and half of the tokens follow from the one before."""

    def __init__(self, rows: int, vocab_size: int) -> None:
        import numpy as np

        draw = np.random.default_rng(SEED)
        chances = 1 / (np.arange(vocab_size) + 10)
        tokens = draw.choice(vocab_size, (rows, SEQUENCE_LENGTH), p=chances / chances.sum())
        follower, follows = draw.permutation(vocab_size), draw.random((rows, SEQUENCE_LENGTH)) < 0.5
        for column in range(1, SEQUENCE_LENGTH):
            tokens[:, column] = np.where(follows[:, column], follower[tokens[:, column - 1]], tokens[:, column])
        self.tokens, self.rows_per_epoch = tokens, rows

    def row(self, epoch: int, index: int) -> Any:
        import numpy as np

        from inkstone.train import Row

        weights = np.ones(SEQUENCE_LENGTH, np.float32)
        weights[0] = 0
        return Row(self.tokens[index], np.arange(SEQUENCE_LENGTH), np.zeros(SEQUENCE_LENGTH, np.int64), weights)


def open_rows(options: argparse.Namespace) -> tuple[Any, int]:
    """The source of rows and the vocabulary's size."""
    if options.tokens_dir is None:
        rows = options.steps * options.batch_tokens // SEQUENCE_LENGTH
        return SyntheticRows(rows, options.vocab_size), options.vocab_size
    from inkstone.tokenizer import open_shards
    from inkstone.train import PackedCorpus

    shards = open_shards(options.tokens_dir, "train")
    return PackedCorpus(shards, SEQUENCE_LENGTH, SEED), shards.vocab_size


def fresh_model(vocab_size: int) -> Any:
    from inkstone.model import ModelSettings
    from inkstone.train import new_model

    return new_model(ModelSettings(hidden_size=256, num_layers=6, num_heads=4), vocab_size, SEED)


def run_inkstone(system: System, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """End time and loss of every step, through `inkstone.train.train` as the command line calls it."""
    from inkstone.progress import Silent
    from inkstone.train import InOrder, TrainSettings, train

    clock: list[float] = []
    losses: list[float] = []

    class Watch(Silent):
        def advance(self, done: float, total: float | None, unit: str, **fields: Any) -> None:
            clock.append(time.perf_counter())
            losses.append(fields["loss"])

    rows, vocab_size = open_rows(options)
    settings = TrainSettings(
        sequence_length=SEQUENCE_LENGTH,
        batch_tokens=options.batch_tokens,
        epochs=1e6,
        max_steps=options.steps,
        learning_rate=LEARNING_RATE,
        min_learning_rate_ratio=1.0,
        warmup_steps=0,
        device="cpu",
        dtype="bfloat16",
        compile="on" if system.compiled else "off",
        checkpoint_steps=options.steps,
    )
    train(fresh_model(vocab_size), InOrder(rows), settings, options.folder / "scratch", Watch())
    return clock, losses


def run_trainer(system: System, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """The same for transformers.Trainer, with everything off that is not a training step."""
    import torch
    import transformers

    from inkstone.model import save_model
    from inkstone.train.batches import next_rows

    rows, vocab_size = open_rows(options)
    per_step = options.batch_tokens // SEQUENCE_LENGTH
    places = [divmod(number, rows.rows_per_epoch) for number in next_rows(0, options.steps * per_step)]
    examples = []
    for row in (rows.row(*place) for place in places):
        ids = torch.from_numpy(row.tokens.copy())
        examples.append({"input_ids": ids, "labels": ids.masked_fill(torch.from_numpy(row.weights) == 0, -100)})
    save_model(fresh_model(vocab_size), options.folder / "start", bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    model = transformers.LlamaForCausalLM.from_pretrained(
        options.folder / "start", dtype=torch.float32, attn_implementation="sdpa"
    )
    model.config.use_cache = False
    clock: list[float] = []
    losses: list[torch.Tensor] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            clock.append(time.perf_counter())

    class Trainer(transformers.Trainer):
        def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
            losses.append(super().training_step(*arguments, **named))
            return losses[-1]

    arguments = transformers.TrainingArguments(
        output_dir=str(options.folder / "trainer"),
        use_cpu=True,
        bf16=True,
        per_device_train_batch_size=per_step,
        max_steps=options.steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        train_sampling_strategy="sequential",
        torch_compile=system.compiled,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        disable_tqdm=True,
        report_to="none",
    )
    Trainer(model, arguments, train_dataset=examples, callbacks=[Clock()]).train()
    return clock, [float(loss) for loss in losses]


# ---- the comparison


def measure(name: str, batch_tokens: int, options: argparse.Namespace) -> Measured | str:
    """Run one system in a fresh process; the last line of its errors when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--worker", name, "--folder", folder, "--batch-tokens", str(batch_tokens)]
        for option in ("steps", "warmup", "vocab_size", "tokens_dir"):
            value = getattr(options, option)
            command += [f"--{option.replace('_', '-')}", str(value)] if value is not None else []
        environment = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        result = Path(folder) / "result.json"
        if done.returncode or not result.exists():
            return (done.stderr.strip() or "no output").splitlines()[-1]
        return Measured(**json.loads(result.read_text(encoding="utf-8")))


def compare(batch_tokens: int, options: argparse.Namespace) -> dict[str, list[Measured]]:
    """All rounds of all systems at one batch size; a system that fails is left out of later rounds."""
    found: dict[str, list[Measured]] = {name: [] for name in options.systems}
    failed: set[str] = set()
    for number in range(options.rounds):
        for name in options.systems if number % 2 == 0 else reversed(options.systems):
            if name in failed:
                continue
            measured = measure(name, batch_tokens, options)
            if isinstance(measured, str):
                failed.add(name)
                print(f"  {SYSTEMS[name].name} failed: {measured}", flush=True)
                continue
            found[name].append(measured)
            speed = f"{measured.tokens_per_second:8,.0f} tokens/s"
            print(f"  round {number + 1}  {speed}  {SYSTEMS[name].name}", flush=True)
    return {name: runs for name, runs in found.items() if runs}


def median(runs: list[Measured], figure: Callable[[Measured], float]) -> float:
    return statistics.median(figure(run) for run in runs)


def print_table(found: dict[str, list[Measured]]) -> None:
    """Medians, and how many times as fast our fastest row is."""
    speed = {name: median(runs, lambda run: run.tokens_per_second) for name, runs in found.items()}
    ours = max((speed[name] for name in speed if SYSTEMS[name].ours), default=float("nan"))
    print(f"\n  {'system':56}{'tokens/s':>9}{'ours is':>9}{'warm-up':>9}{'peak memory':>13}{'loss':>17}")
    for name, runs in found.items():
        warmup = f"{median(runs, lambda run: run.warmup_seconds):.1f}s"
        memory = f"{median(runs, lambda run: run.peak_memory_mib):,.0f} MiB"
        loss = f"{runs[0].first_loss:.3f} -> {runs[0].last_loss:.3f}"
        ratio = f"{ours / speed[name]:.2f}x"
        print(f"  {SYSTEMS[name].name:56}{speed[name]:9,.0f}{ratio:>9}{warmup:>9}{memory:>13}{loss:>17}")
    check_fairness(found)


def check_fairness(found: dict[str, list[Measured]]) -> None:
    """Say so when the systems did not see as many tokens or did not learn the same."""
    runs = [run for measured in found.values() for run in measured]
    if not runs:
        return
    if len({run.tokens for run in runs}) > 1:
        print("  UNFAIR: not all systems saw the same number of tokens")
    for moment in ("first_loss", "last_loss"):
        values = [getattr(run, moment) for run in runs]
        difference = (max(values) - min(values)) / min(values)
        verdict = "the same work" if difference < 0.02 else "CHECK THIS"
        print(f"  {moment.replace('_', ' ')}: systems differ by {difference:.2%} - {verdict}")


def hardware() -> dict[str, str | int]:
    """What the numbers belong to."""
    import torch
    import transformers

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if sys.platform == "linux" else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load_average": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of each measurement")
    parser.add_argument("--warmup", type=int, default=8, help="first steps that are not measured")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each system")
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[4096, 8192], help="tokens per step")
    parser.add_argument("--vocab-size", type=int, default=6144, help="for synthetic tokens")
    parser.add_argument("--tokens-dir", type=Path, help="token shards to train on instead")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--worker", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not 1 <= options.warmup < options.steps:
        parser.error("--warmup must be at least 1 and smaller than --steps")
    return options


def main() -> None:
    options = parse()
    if options.worker:
        [options.batch_tokens] = options.batch_tokens
        (options.folder / "result.json").write_text(json.dumps(asdict(work(options))), encoding="utf-8")
        return
    facts = hardware()
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    figures: dict[str, object] = {"hardware": facts, "steps": options.steps, "warmup": options.warmup}
    for batch_tokens in options.batch_tokens:
        print(f"\nbatch of {batch_tokens} tokens, rows of {SEQUENCE_LENGTH}")
        found = compare(batch_tokens, options)
        print_table(found)
        figures[f"batch_{batch_tokens}"] = {name: [asdict(run) for run in runs] for name, runs in found.items()}
    text = json.dumps(figures)
    print(f"\n{text}")
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
