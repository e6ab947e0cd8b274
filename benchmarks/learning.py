"""What a FLOP teaches: held-out bits per byte against training FLOPs, our optimizers beside transformers.Trainer.

    inkstone run recipes/own-text.toml --set corpus.inputs='["my"]' --until tokens     # the text
    python benchmarks/learning.py runs/own-text --chart learning.svg                   # 5 systems, 700 steps each
    python benchmarks/learning.py runs/own-text --steps 20 --marks 2                   # does it work?

Every system trains the recipe's model from the same weights on the same rows in the same order, so after equal tokens
all have paid equal FLOPs (6 per weight and token and attention's); only optimizer, rate and schedule differ. Each runs
in a process of its own. The Trainer has its defaults (AdamW, 5e-5 falling linearly, no decay) and once a rate that
suits training from nothing; it sees a row's documents as one text, as it does by default. All models are scored by one
function on the same held-out rows.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

OURS: dict[str, dict[str, Any]] = {
    "inkstone, muon": {"optimizer": "muon", "learning_rate": 3e-3},
    "inkstone, adamw": {"optimizer": "adamw", "learning_rate": 2e-3},
}
TRAINER: dict[str, dict[str, Any]] = {
    "transformers.Trainer, defaults": {},
    "transformers.Trainer, 1e-3": {"learning_rate": 1e-3},
    "transformers.Trainer, 3e-3": {"learning_rate": 3e-3},
}


class Text:
    """A run's rows, its held-out rows with their bytes, and a fresh model of its recipe."""

    def __init__(self, run: Path, recipe: Path) -> None:
        from inkstone.recipe import read_recipe
        from inkstone.tokenizer import Tokenizer, open_shards
        from inkstone.train import PackedCorpus, new_model

        read = read_recipe(recipe, [])
        self.settings = read.pretrain
        tokenizer = Tokenizer.load(run / "tokenizer")
        length = self.settings.sequence_length
        self.rows, self.heldout = (
            PackedCorpus(open_shards(run / "tokens", split, tokenizer.fingerprint), length, 1)
            for split in ("train", "heldout")
        )
        told = [self.heldout.row(0, index) for index in range(min(64, self.heldout.rows_per_epoch))]
        supervised = sum(row.weights.sum() for row in told)
        size = sum(len(tokenizer.decode(row.tokens.tolist()).encode()) for row in told)
        self.bits_per_nat = float(supervised) / size / math.log(2)
        self.model = new_model(read.model, tokenizer.vocab_size, 1)


def train_ours(text: Text, options: argparse.Namespace, folder: Path) -> dict[int, float]:
    """Held-out nats per token by step."""
    from inkstone.progress import Silent
    from inkstone.train import InOrder, train

    settings = text.settings.model_copy(
        update={
            **OURS[options.worker],
            "max_steps": options.steps,
            "epochs": 1e6,
            "warmup_steps": options.steps // 15,
            "heldout_steps": options.steps // options.marks,
            "checkpoint_steps": options.steps,
        }
    )
    train(text.model, InOrder(text.rows), settings, folder, Silent(), heldout=text.heldout)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["step"]: row["heldout_loss"] for row in rows if "heldout_loss" in row}


def train_theirs(text: Text, options: argparse.Namespace, folder: Path) -> dict[int, float]:
    """The same; its models are saved at the marks and scored afterwards as ours are."""
    import torch
    import transformers

    from inkstone.model import load_model, save_model
    from inkstone.train.batches import next_rows
    from inkstone.train.loop import heldout_loss

    examples = []
    for number in next_rows(0, options.steps * text.settings.rows_per_step):
        row = text.rows.row(*divmod(number, text.rows.rows_per_epoch))
        ids = torch.from_numpy(row.tokens.copy())
        examples.append({"input_ids": ids, "labels": ids.masked_fill(torch.from_numpy(row.weights) == 0, -100)})
    save_model(text.model, folder / "start", bos_id=0, eos_id=1, pad_id=2, stop_ids=[1])
    model = transformers.LlamaForCausalLM.from_pretrained(folder / "start", dtype=torch.float32)
    model.config.use_cache = False
    every = options.steps // options.marks

    class Marks(transformers.TrainerCallback):
        def on_step_end(self, _: object, state: Any, *__: object, **___: object) -> None:
            if state.global_step % every == 0:
                model.save_pretrained(folder / f"{state.global_step}")

    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"),
        use_cpu=True,
        per_device_train_batch_size=text.settings.rows_per_step,
        max_steps=options.steps,
        train_sampling_strategy="sequential",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        report_to="none",
        **TRAINER[options.worker],
    )
    transformers.Trainer(model, arguments, train_dataset=examples, callbacks=[Marks()]).train()
    marks = range(every, options.steps + 1, every)
    return {mark: heldout_loss(load_model(folder / f"{mark}"), text.heldout, text.settings) for mark in marks}


def work(options: argparse.Namespace) -> None:
    """One system in this process; prints bits per byte by FLOPs as JSON."""
    text = Text(options.run, options.recipe)
    with tempfile.TemporaryDirectory() as folder:
        losses = (train_ours if options.worker in OURS else train_theirs)(text, options, Path(folder))
    step = text.settings.batch_tokens * text.model.config.flops_per_token(text.settings.sequence_length)
    print(json.dumps([[mark * step, loss * text.bits_per_nat] for mark, loss in losses.items()]))


def measure(name: str, options: argparse.Namespace) -> list[tuple[float, float]]:
    command = [sys.executable, __file__, str(options.run), "--worker", name]
    for option in ("steps", "marks", "recipe"):
        command += [f"--{option}", str(getattr(options, option))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed: {(done.stderr.strip() or 'no output').splitlines()[-1]}")
    return [(flops, bits) for flops, bits in json.loads(done.stdout.splitlines()[-1])]


def draw(found: dict[str, list[tuple[float, float]]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for name, points in found.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set(xscale="log", xlabel="training FLOPs", ylabel="held-out bits per byte")
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory with tokenizer/ and tokens/")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/own-text.toml"), help="for model and sizes")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--marks", type=int, default=7, help="measurements on the way")
    parser.add_argument("--chart", type=Path, help="an .svg or .png to draw")
    parser.add_argument("--worker", choices=[*OURS, *TRAINER], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options)
    found = {}
    for name in (*OURS, *TRAINER):
        found[name] = measure(name, options)
        print(f"{name:32}" + "".join(f"  {flops:.2e}: {bits:.3f}" for flops, bits in found[name]), flush=True)
    if options.chart:
        draw(found, options.chart)


if __name__ == "__main__":
    main()
