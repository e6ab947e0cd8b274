"""`inkstone plan`: for each training stage of a recipe, what it needs on a machine, before anything starts."""

from pathlib import Path

import typer

from inkstone.cli.table import Cell, show_table
from inkstone.errors import InputError
from inkstone.model import DecoderConfig
from inkstone.pipeline.forecast import shape_of, tokens_of
from inkstone.plan import Device, Estimate, estimate, find_device, nearest_fit
from inkstone.plan.estimate import fewest_devices
from inkstone.recipe import read_recipe
from inkstone.train import PRETRAIN, TrainSettings


def show_plan(path: Path, overrides: list[str], gpu: str, count: int) -> None:
    """Print memory by part, whether it fits and what would, speed, hours, disk and traffic."""
    if count < 1:
        raise InputError(f"--count {count}: give 1 or more")
    recipe = read_recipe(path, overrides)
    device = find_device(gpu)
    stages: dict[str, TrainSettings] = {PRETRAIN.name: recipe.pretrain} if recipe.pretrain else {}
    stages |= recipe.tunings()
    if not stages:
        raise InputError(f"{path} trains nothing: it has no [pretrain], [sft] or [tune.NAME] section")
    for name, settings in stages.items():
        if count % (settings.shard * settings.tensor):
            raise InputError(
                f"[{name}] shard = {settings.shard} x tensor = {settings.tensor} does not divide --count {count}"
            )
        config = shape_of(recipe, name)
        _show(name, config, settings, device, count, tokens_of(recipe, name, settings))


def _show(
    name: str, config: DecoderConfig, settings: TrainSettings, device: Device, count: int, tokens: int | None
) -> None:
    made = estimate(config, settings, device, count, tokens)
    rows: list[list[Cell]] = [[part.replace("_", " "), f"{gib:,.2f} GiB"] for part, gib in made.memory.parts().items()]
    rows.append(["in all, each process", f"{made.memory.total:,.2f} of {device.memory_gib:,.0f} GiB"])
    rows += _figures(made, config, settings)
    trained = f", {made.trained / 1e6:,.1f} M trained" if made.trained != made.parameters else ""
    title = f"{name}: {made.parameters / 1e6:,.1f} M parameters{trained} on {count} x {device.name}"
    show_table(["", "estimate"], rows, title, left=1)
    if not made.fits:
        typer.echo(_advice(config, settings, device, count))


def _figures(made: Estimate, config: DecoderConfig, settings: TrainSettings) -> list[list[Cell]]:
    slow, fast = made.tokens_per_second
    flops = config.flops_per_token(settings.sequence_length) / 1e12
    time = _span(*made.hours) if made.hours else "unknown: encode the corpus (run --until tokens) or set max_steps"
    whole = "unknown" if made.tokens is None else f"{made.tokens / 1e6:,.1f} M"
    return [
        ["tokens", whole],
        ["tokens per second", f"{slow:,.0f} to {fast:,.0f}"],
        ["model TFLOP/s, all (6 N + full attention)", f"{slow * flops:,.2f} to {fast * flops:,.2f}"],
        ["time", time],
        ["disk of one checkpoint (two are kept)", f"{made.checkpoint_gib:,.2f} GiB"],
        ["sent by each process in a step", f"{made.traffic_gib:,.2f} GiB"],
    ]


def _span(low: float, high: float) -> str:
    if high < 1:
        return f"{low * 60:,.1f} to {high * 60:,.1f} minutes"
    return f"{low:,.1f} to {high:,.1f} hours" if high < 100 else f"{low / 24:,.1f} to {high / 24:,.1f} days"


def _advice(config: DecoderConfig, settings: TrainSettings, device: Device, count: int) -> str:
    found = nearest_fit(config, settings, device, count)
    if found:
        change, made = found
        keys = ", ".join(f"{key} = {str(value).lower()}" for key, value in change.items())
        return f"It does not fit. The nearest setting that does: {keys} ({made.memory.total:,.1f} GiB)."
    fewest = fewest_devices(config, settings, device)
    if fewest is None:
        return f"It does not fit on any number of {device.name}: the model needs a larger device, or a smaller shape."
    return f"It does not fit. With shard, recompute and the smallest micro-batch it takes {fewest} x {device.name}."
