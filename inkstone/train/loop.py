"""The one loop: every kind of training runs here; what differs is the source of rows and the objective.

One step: draw its micro-batches, count their units, forward and backward, gradients summed over ranks, clip, guard,
update, let the source learn. The loss is the sum over the step divided by its global number of units. Interrupt it
whenever you like: on SIGINT or SIGTERM it saves and stops, after SIGKILL it continues from the last checkpoint, and the
weights come out the same to the last bit.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from inkstone.errors import InputError
from inkstone.model import Decoder
from inkstone.progress import Progress
from inkstone.train.arithmetic import Arithmetic, choose_arithmetic
from inkstone.train.batches import Batch, Rows, next_rows
from inkstone.train.checkpoint import Saves, TrainState, load_checkpoint
from inkstone.train.guard import PATIENCE, ROLLBACKS, fault, out_of_patience, set_back
from inkstone.train.interrupt import StopRequest
from inkstone.train.mesh import ALONE, Mesh, sum_gradients, sum_numbers
from inkstone.train.meter import Metrics, Report, TrainResult, finite
from inkstone.train.objective import Figures, NextToken, Objective
from inkstone.train.optimizer import build_optimizer, learning_rate, settle
from inkstone.train.settings import TrainSettings
from inkstone.train.source import Source
from inkstone.train.tensor_parallel import clip_split
from inkstone.train.watchdog import Watchdog


def train(
    model: Decoder,
    source: Source,
    settings: TrainSettings,
    scratch: Path,
    progress: Progress,
    *,
    heldout: Rows | None = None,
    objective: Objective | None = None,
    mesh: Mesh = ALONE,
) -> TrainResult:
    """Train `model` in place. `scratch` keeps checkpoints/ and metrics.jsonl and must belong to this run alone.

    Raises InputError when a step has fewer rows than there are data ranks, InkstoneError when updates stay non-finite,
    KeyboardInterrupt after saving on SIGINT or SIGTERM.
    """
    objective = objective or NextToken()
    if settings.rows_per_step < mesh.data_size:
        raise InputError(
            f"a step of batch_tokens = {settings.batch_tokens} has {settings.rows_per_step} rows, fewer than the "
            f"{mesh.data_size} processes: raise batch_tokens or start fewer"
        )
    steps = settings.steps(source.rows_per_epoch)
    optimizer = build_optimizer(model, settings)
    found, damage = load_checkpoint(scratch / "checkpoints", model, optimizer, mesh)
    state = found or TrainState()
    if damage:
        progress.note(f"passed over a damaged checkpoint: {damage}")
    if state.source:
        source.restore(state.source)
    arithmetic = _arithmetic(settings, state, steps, progress)
    model.to(arithmetic.device)
    settle(optimizer, arithmetic.torch_dtype)
    model.compute_dtype = arithmetic.torch_dtype
    model.model.recompute = settings.recompute
    if arithmetic.compile:
        _compile(model)
    metrics = Metrics(scratch / "metrics.jsonl", state.step, mesh, progress)
    # On a CPU a writer would take the memory and the cores of the training itself.
    saves = Saves(scratch / "checkpoints", mesh, beside=model.device.type != "cpu")
    model.train()
    report = Report(steps, state, model.config.flops_per_token(settings.sequence_length))
    with StopRequest() as stop, Watchdog(mesh.rank, scratch / "hangs") as dog:
        while state.step < steps:
            dog.step(state.step + 1)
            started = time.perf_counter()
            rate = learning_rate(settings, state.step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("rate_ratio", 1)
            loss, norm, why_not = _step(model, source, objective, optimizer, settings, mesh, state)
            state.step += 1
            state.tokens += settings.batch_tokens
            state.seconds += time.perf_counter() - started
            report.step(loss, norm, rate, progress)
            if why_not:
                progress.note(f"step {state.step}: update not made, {why_not}", rows_behind=state.rows_drawn)
            if state.skipped_in_a_row >= PATIENCE:
                saves.wait()
                state = report.state = _go_back(scratch, model, optimizer, source, settings, mesh, state, why_not)
                progress.note(f"{PATIENCE} updates in a row were not made: back to step {state.step}, over their rows")
                metrics = Metrics(scratch / "metrics.jsonl", state.step, mesh, progress)
                continue
            last = state.step == steps
            if state.step % settings.log_steps == 0 or last:
                metrics.write({**report.row(), **objective.report(state.figures), **source.figures()})
            if heldout and (state.step % settings.heldout_steps == 0 or last):
                report.heldout_loss = heldout_loss(model, heldout, settings, objective)
                metrics.write({"step": state.step, "heldout_loss": report.heldout_loss})
            # A signal may reach the ranks in different steps; they stop together or they would wait for each other.
            (stops,) = sum_numbers([float(stop.requested or progress.should_stop())], mesh)
            # Between updates that are not made there is nothing to go back to.
            due = state.step % settings.checkpoint_steps == 0 and not state.skipped_in_a_row
            if due or last or stops:
                state.loss, state.heldout_loss = finite(report.loss), report.heldout_loss
                state.source = source.state()
                saves.save(state, model, optimizer)
            if stops:
                saves.wait()
                raise KeyboardInterrupt(f"stopped after step {state.step} of {steps}; the same command continues there")
    saves.wait()
    model.eval()
    return report.result(arithmetic.reason)


def _step(
    model: Decoder,
    source: Source,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    settings: TrainSettings,
    mesh: Mesh,
    state: TrainState,
) -> tuple[float, float, str]:
    """One update; returns the loss per unit, the gradient norm before clipping and why the update was not made."""
    numbers = next_rows(state.rows_behind(settings.rows_per_step), settings.rows_per_step, state.skipped_rows)
    batches = source.draw(numbers, settings.micro_tokens // settings.sequence_length, mesh)
    units = [objective.units(batch) for batch in batches]
    total_units, forwards, squares = sum_numbers([sum(units, 0.0), len(batches), len(batches) ** 2], mesh)
    if mesh.shard > 1 and squares * mesh.data_size != forwards**2:
        raise InputError(
            f"a step of {settings.rows_per_step} rows gives {mesh.data_size} processes different numbers of forwards, "
            "and sharded weights need equal ones: make batch_tokens a multiple of processes x micro_batch_tokens"
        )
    last = {name: torch.tensor(values) for name, values in state.figures.items()}
    # Dropout and noise are a function of seed, step and rank: a resumed run draws what an uninterrupted one does.
    torch.manual_seed(hash((settings.seed, state.step, mesh.rank)))
    losses, figures = [], []
    for batch in batches:
        loss, told = model.compute(_parts, objective, batch.to(model.device), last)
        (loss / (total_units or 1.0)).backward()
        losses.append(float(loss.detach()))
        figures.append(told)
    sum_gradients(model, mesh)
    state.figures = _sum_figures(figures, mesh)
    (total,) = sum_numbers([sum(losses, 0.0)], mesh)
    norm = _clip(model, settings.gradient_clip, mesh)
    why_not = fault(total, norm, settings.gradient_clip, settings.spike_ratio, state)
    if not why_not:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    state.skipped += bool(why_not)
    state.skipped_in_a_row = state.skipped_in_a_row + 1 if why_not else 0
    source.learn(losses, units, mesh)
    state.rows_drawn = numbers[-1] + 1
    return total / (total_units or 1.0), norm, why_not


def _parts(policy: Decoder, objective: Objective, batch: Batch, last: Mapping[str, Tensor]) -> tuple[Tensor, Figures]:
    """A batch's outcome as plain tensors, whose gradients FSDP waits for."""
    outcome = objective(policy, batch, last)
    return outcome.loss, outcome.figures


def _clip(model: Decoder, limit: float, mesh: Mesh) -> float:
    """Scale the gradients down to a global norm of `limit`; returns what it was."""
    if mesh.tensor > 1:
        return clip_split(model, limit, mesh.tensor, mesh.replicate)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _go_back(
    scratch: Path,
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    source: Source,
    settings: TrainSettings,
    mesh: Mesh,
    state: TrainState,
    why_not: str,
) -> TrainState:
    """Weights, moments and state of the last checkpoint, past the rows since. Raises InkstoneError if there is none."""
    found = None
    if state.rollbacks < ROLLBACKS:
        found, _ = load_checkpoint(scratch / "checkpoints", model, optimizer, mesh)
    if found is None:
        raise out_of_patience(state, why_not)
    if found.source:
        source.restore(found.source)
    return set_back(found, state, settings.rows_per_step)


def _sum_figures(figures: Sequence[Mapping[str, Tensor]], mesh: Mesh) -> dict[str, list[float]]:
    """Each figure's sum over the micro-batches and the ranks."""
    summed = {}
    for name in figures[0] if figures else ():
        summed[name] = sum_numbers(torch.stack([one[name] for one in figures]).double().sum(0).tolist(), mesh)
    return summed


@torch.no_grad()
def heldout_loss(
    model: Decoder, rows: Rows, settings: TrainSettings, objective: Objective | None = None, limit: int = 64
) -> float:
    """Mean loss per unit over the first `limit` rows, uncompiled: a second graph would not pay."""
    objective = objective or NextToken()
    total, count = 0.0, 0.0
    size = settings.micro_tokens // settings.sequence_length
    end = min(limit, rows.rows_per_epoch)
    with torch.compiler.set_stance("force_eager"):
        for start in range(0, end, size):
            batch = Batch.stack([rows.row(0, index) for index in range(start, min(start + size, end))])
            total += float(model.compute(_parts, objective, batch.to(model.device), {})[0])
            count += objective.units(batch)
    return total / (count or 1.0)


def _arithmetic(settings: TrainSettings, state: TrainState, steps: int, progress: Progress) -> Arithmetic:
    """What the run began with where it began before: the dtype anywhere, the compiler's part on the same device."""
    before = Arithmetic(**state.arithmetic) if state.arithmetic else None  # type: ignore[arg-type]
    arithmetic = choose_arithmetic(settings, steps * settings.batch_tokens, before)
    if before:
        progress.note(f"continuing after step {state.step} of {steps}", **asdict(arithmetic))
    else:
        progress.note(f"arithmetic: {arithmetic.reason}", **asdict(arithmetic))
    state.arithmetic = asdict(arithmetic)
    return arithmetic


def _compile(model: Decoder) -> None:
    """Compile each block and the loss apart: one block's code serves all layers, and embeddings stay eager."""
    for block in model.model.layers:
        block.compile(dynamic=False)
    model.compiled = True
