"""What a recipe's training stages will take by the plan, and what they take: said after the first real steps.

    shape_of(recipe, "pretrain"), tokens_of(recipe, "pretrain", settings)      # what `inkstone plan` estimates
    watch = forecast(recipe, "pretrain", settings, note)                       # hears of steps, notes the comparison

A plan that is off is worth knowing in the first minute, not at the end.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from inkstone.errors import InputError
from inkstone.model import DecoderConfig
from inkstone.model.files.directory import read_config
from inkstone.plan import estimate
from inkstone.plan.hardware import this_device
from inkstone.plan.memory import GIB
from inkstone.progress import Field
from inkstone.recipe import Recipe
from inkstone.tokenizer import Tokenizer, open_shards
from inkstone.train import PRETRAIN, TrainSettings

Watch = Callable[[float | None, str, Mapping[str, Field]], None]
STEPS = 20
"""Real steps before the plan is compared: the first ones compile and warm up."""


def shape_of(recipe: Recipe, stage: str) -> DecoderConfig:
    """The shape that a stage trains: of the directory it starts from, or of [model] with the recipe's vocabulary."""
    made = recipe.run_dir / stage
    tuning = recipe.tunings().get(stage)
    base = tuning.base if tuning else recipe.pretrain.base if recipe.pretrain else None
    if (made / "config.json").is_file():
        return read_config(made)
    if tuning and (base == PRETRAIN.name or base in recipe.tunings()):
        return shape_of(recipe, str(base))
    if base:
        return read_config(Path(base))
    tokenizer = recipe.run_dir / "tokenizer"
    asked = recipe.tokenizer.vocab_size if recipe.tokenizer else 0
    return recipe.model.decoder_config(Tokenizer.load(tokenizer).vocab_size if tokenizer.is_dir() else asked)


def tokens_of(recipe: Recipe, stage: str, settings: TrainSettings) -> int | None:
    """Tokens that a stage will see; None where the data is not encoded yet and no number of steps is set."""
    if stage == PRETRAIN.name and (recipe.run_dir / "tokens" / "manifest.json").is_file():
        known = int(open_shards(recipe.run_dir / "tokens", "train").lengths.sum())
        return settings.steps(max(1, known // settings.sequence_length)) * settings.batch_tokens
    return settings.max_steps * settings.batch_tokens if settings.max_steps else None


def forecast(
    recipe: Recipe, stage: str, settings: TrainSettings, note: Callable[[str], None], processes: int = 1
) -> Watch | None:
    """What compares a stage's plan on this machine with what is measured, once, and notes it.

    None where there is no plan: on hardware that nobody measured, for rollouts, for processes that share a CPU.
    """
    tuning = recipe.tunings().get(stage)
    planned = tuning is None or tuning.method in ("sft", "preference", "kto", "reward")
    device = this_device(settings.device) if planned else None
    if device is None or (processes > 1 and not device.is_gpu):
        return None
    try:
        config = shape_of(recipe, stage)
    except InputError:  # whoever opens the base says what is wrong with it
        return None
    before = 0 if device.is_gpu else _resident(restart=True)
    chosen: dict[str, Field] = {}
    first: list[float] = []

    def watch(done: float | None, unit: str, fields: Mapping[str, Field]) -> None:
        if "dtype" in fields:  # what the loop chose where the recipe says "auto"
            chosen.update({"dtype": fields["dtype"], "compile": "on" if fields["compile"] else "off"})
        if done is None or unit != "steps":
            return
        first[:] = first or [done]
        if done - first[0] != STEPS:
            return
        plan = estimate(config, settings.model_copy(update=chosen), device, processes)
        rate, (slow, fast) = float(fields.get("tokens_per_second") or 0.0), plan.tokens_per_second
        told = f"{rate:,.0f} tokens per second (planned {slow:,.0f} to {fast:,.0f})"
        peak = torch.cuda.max_memory_allocated() if device.is_gpu else _resident()
        if peak is not None and before is not None:
            told += f", {(peak - before) / GIB:.2f} GiB (planned {plan.memory.total:.2f})"
        note(f"plan against measured after {STEPS} steps: {told}")

    return watch


def _resident(restart: bool = False) -> int | None:
    """Bytes that the process held at its peak; with `restart` what it holds now, from where peaks count anew.

    None where the system does not say: only Linux does, and not in every container.
    """
    try:
        if restart:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
