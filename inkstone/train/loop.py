"""The one loop: every kind of training runs here; what differs is the source of rows and the objective.

One step: its rows, forward and backward in micro-batches, gradients summed over ranks, clip, guard, update. The loss is
the sum over the step's supervised tokens divided by their global number. Interrupt it whenever you like: on SIGINT or
SIGTERM it saves and stops, after SIGKILL it continues from the last checkpoint, and the weights come out the same to
the last bit.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from inkstone.errors import InkstoneError, InputError
from inkstone.model import Decoder, PackedContext
from inkstone.model.decoder.experts import balance_loss
from inkstone.progress import Progress
from inkstone.storage import atomic_file
from inkstone.train.arithmetic import Arithmetic, choose_arithmetic
from inkstone.train.batches import Batch, Rows, step_rows
from inkstone.train.checkpoint import TrainState, load_checkpoint, save_checkpoint
from inkstone.train.interrupt import StopRequest
from inkstone.train.loss import ChunkGradient, chunk_gradient, next_token_loss
from inkstone.train.mesh import Mesh, sum_gradients, sum_numbers, wait_for_all
from inkstone.train.online import OnlineMixer
from inkstone.train.optimizer import build_optimizer, learning_rate, move_moments
from inkstone.train.settings import TrainSettings

_SKIPS_BEFORE_GIVING_UP = 20

Objective = Callable[[Decoder, Batch, ChunkGradient], Tensor]
"""Summed loss of a batch. The third argument is the (possibly compiled) gradient of a chunk of logits."""


@dataclass(frozen=True)
class TrainResult:
    """What a finished run reports."""

    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    loss: float | None
    heldout_loss: float | None
    skipped_steps: int
    arithmetic: str


def next_token_objective(model: Decoder, batch: Batch, gradient_of: ChunkGradient) -> Tensor:
    """Pretraining and SFT: weighted cross entropy of each token given those before it in its document.

    In training, a model with experts adds its load-balancing loss, once per supervised token: like the rest, a sum.
    """
    context = PackedContext.documents(batch.positions, batch.document_ids)
    balancing = model.config.num_experts > 0 and model.config.router_aux_loss > 0 and torch.is_grad_enabled()
    hidden_BTD, routing = model.hidden_and_routing(batch.tokens, context)
    loss = next_token_loss(hidden_BTD, model.head_weight(), batch.tokens, batch.weights, gradient_of)
    if balancing:
        balance = balance_loss(routing, model.config.experts_per_token)
        loss = loss + model.config.router_aux_loss * batch.supervised * balance
    return loss


def train(
    model: Decoder,
    rows: Rows,
    settings: TrainSettings,
    scratch: Path,
    progress: Progress,
    *,
    heldout: Rows | None = None,
    objective: Objective = next_token_objective,
    mesh: Mesh | None = None,
    mixer: OnlineMixer | None = None,
) -> TrainResult:
    """Train `model` in place. `scratch` keeps checkpoints/ and metrics.jsonl and must belong to this run alone.

    `mixer` reweights the domains of `rows` as it goes. Raises InputError when a step has fewer rows (with a mixer:
    micro-batches) than there are ranks, InkstoneError when updates stay non-finite,
    KeyboardInterrupt after saving on SIGINT or SIGTERM.
    """
    mesh = mesh or Mesh()
    if settings.rows_per_step < mesh.size:
        raise InputError(
            f"a step of batch_tokens = {settings.batch_tokens} has {settings.rows_per_step} rows, fewer than the "
            f"{mesh.size} processes: raise batch_tokens or start fewer"
        )
    micro_batches = settings.batch_tokens // settings.micro_tokens
    if mixer and micro_batches < mesh.size:
        raise InputError(
            f"online reweighting draws whole micro-batches, and a step has {micro_batches} for {mesh.size} processes: "
            f"set micro_batch_tokens to {settings.batch_tokens // mesh.size} or less"
        )
    steps = settings.steps(rows.rows_per_epoch)
    optimizer = build_optimizer(model, settings)
    state = load_checkpoint(scratch / "checkpoints", model, optimizer) or TrainState()
    if mixer and state.mixture:
        mixer.restore(state.mixture)
    arithmetic = _arithmetic(settings, state, steps, progress)
    model.to(arithmetic.device)
    move_moments(optimizer)
    model.compute_dtype = arithmetic.torch_dtype
    gradient_of = _compile(model) if arithmetic.compile else chunk_gradient
    metrics = _Metrics(scratch / "metrics.jsonl", state.step, mesh)
    model.train()
    report = _Report(steps, state, model.config.flops_per_token(settings.sequence_length))
    with StopRequest() as stop:
        while state.step < steps:
            started = time.perf_counter()
            drawn = mixer.draw(micro_batches, settings.micro_tokens // settings.sequence_length) if mixer else []
            batches, supervised = _step_batches(rows, state.step, settings, arithmetic.device, mesh, mixer, drawn)
            rate = learning_rate(settings, state.step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, norm, losses = _update(
                model, batches, supervised, objective, gradient_of, optimizer, settings, mesh, state
            )
            if mixer:
                domains = [domain for domain, _ in drawn[mesh.data_rank :: mesh.data_size]]
                mixer.learn(_domain_losses(len(mixer.names), domains, losses, batches, supervised, mesh))
                state.mixture = mixer.as_json()
            state.step += 1
            state.tokens += settings.batch_tokens
            state.seconds += time.perf_counter() - started
            report.step(loss, norm, rate, progress)
            last = state.step == steps
            if state.step % settings.log_steps == 0 or last:
                metrics.write({**report.row(), **(mixer.figures() if mixer else {})})
            if heldout and (state.step % settings.heldout_steps == 0 or last):
                report.heldout_loss = heldout_loss(model, heldout, settings, objective)
                metrics.write({"step": state.step, "heldout_loss": report.heldout_loss})
            # A signal may reach the ranks in different steps; they stop together or they would wait for each other.
            (stops,) = sum_numbers([float(stop.requested)], mesh)
            if state.step % settings.checkpoint_steps == 0 or last or stops:
                state.loss, state.heldout_loss = _finite(report.loss), report.heldout_loss
                if mesh.first:
                    save_checkpoint(scratch / "checkpoints", state, model, optimizer)
                wait_for_all(mesh)
            if stops:
                raise KeyboardInterrupt(f"stopped after step {state.step} of {steps}; the same command continues there")
    model.eval()
    return report.result(arithmetic.reason)


@torch.no_grad()
def heldout_loss(
    model: Decoder, rows: Rows, settings: TrainSettings, objective: Objective = next_token_objective, limit: int = 64
) -> float:
    """Mean loss per supervised token over the first `limit` rows, uncompiled: a second graph would not pay."""
    device = str(model.device)
    total, count = 0.0, 0
    size = settings.micro_tokens // settings.sequence_length
    end = min(limit, rows.rows_per_epoch)
    with torch.compiler.set_stance("force_eager"):
        for start in range(0, end, size):
            batch = Batch.stack([rows.row(0, index) for index in range(start, min(start + size, end))], device)
            total += float(objective(model, batch, chunk_gradient))
            count += batch.supervised
    return total / max(1, count)


def _arithmetic(settings: TrainSettings, state: TrainState, steps: int, progress: Progress) -> Arithmetic:
    if state.arithmetic:
        arithmetic = Arithmetic(**state.arithmetic)  # type: ignore[arg-type]
        progress.note(f"continuing after step {state.step} of {steps}", arithmetic=arithmetic.reason)
    else:
        arithmetic = choose_arithmetic(settings, steps * settings.batch_tokens)
        progress.note(f"arithmetic: {arithmetic.reason}")
    state.arithmetic = asdict(arithmetic)
    return arithmetic


def _compile(model: Decoder) -> ChunkGradient:
    """Compile each block and the loss apart: one block's code serves all layers, and embeddings stay eager."""
    for block in model.model.layers:
        block.compile(dynamic=False)
    return torch.compile(chunk_gradient, dynamic=False)


def _step_batches(
    rows: Rows,
    step: int,
    settings: TrainSettings,
    device: str,
    mesh: Mesh,
    mixer: OnlineMixer | None,
    drawn: list[tuple[int, list[int]]],
) -> tuple[list[Batch], int]:
    """This rank's micro-batches of the step and the step's supervised tokens over all ranks."""
    if mixer:
        mine = drawn[mesh.data_rank :: mesh.data_size]
        made = [mixer.rows.domain_row(domain, number) for domain, numbers in mine for number in numbers]
    else:
        chosen = step_rows(rows, step, settings.rows_per_step)[mesh.data_rank :: mesh.data_size]
        made = [rows.row(epoch, index) for epoch, index in chosen]
    size = settings.micro_tokens // settings.sequence_length
    batches = [Batch.stack(made[start : start + size], device) for start in range(0, len(made), size)]
    (supervised,) = sum_numbers([float(sum(batch.supervised for batch in batches))], mesh)
    return batches, int(supervised)


def _update(
    model: Decoder,
    batches: list[Batch],
    supervised: int,
    objective: Objective,
    gradient_of: ChunkGradient,
    optimizer: torch.optim.Optimizer,
    settings: TrainSettings,
    mesh: Mesh,
    state: TrainState,
) -> tuple[float, float, list[float]]:
    """Loss per supervised token, gradient norm, and each own micro-batch's part of the loss.

    A step with a non-finite gradient changes no weight.
    """
    losses = []
    for batch in batches:
        loss = objective(model, batch, gradient_of) / max(1, supervised)
        loss.backward()
        losses.append(float(loss.detach()))
    sum_gradients(model, mesh)
    (total,) = sum_numbers([sum(losses, 0.0)], mesh)
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip))
    if math.isfinite(norm) and math.isfinite(total):
        optimizer.step()
        state.skipped_in_a_row = 0
    else:
        state.skipped += 1
        state.skipped_in_a_row += 1
        if state.skipped_in_a_row >= _SKIPS_BEFORE_GIVING_UP:
            raise InkstoneError(
                f"step {state.step}: {state.skipped_in_a_row} updates in a row were not finite: lower learning_rate, "
                'or set dtype = "float32"; the last checkpoint is kept'
            )
    optimizer.zero_grad(set_to_none=True)
    return total, norm, losses


def _domain_losses(
    count: int, domains: list[int], losses: list[float], batches: list[Batch], supervised: int, mesh: Mesh
) -> list[float | None]:
    """Mean loss per supervised token of each domain in this step, over all ranks."""
    sums, tokens = [0.0] * count, [0.0] * count
    for domain, loss, batch in zip(domains, losses, batches, strict=True):
        sums[domain] += loss * max(1, supervised)
        tokens[domain] += batch.supervised
    totals = sum_numbers([*sums, *tokens], mesh)
    return [loss / seen if seen else None for loss, seen in zip(totals[:count], totals[count:], strict=True)]


def _finite(figure: float) -> float | None:
    """JSON has no NaN."""
    return figure if math.isfinite(figure) else None


class _Report:
    """Figures of the run so far."""

    def __init__(self, steps: int, state: TrainState, flops_per_token: float) -> None:
        self.steps, self.state, self.flops_per_token = steps, state, flops_per_token
        # A run that was killed after its last step reports the figures that step left in the checkpoint.
        self.heldout_loss = state.heldout_loss
        self.loss = math.nan if state.loss is None else state.loss
        self.norm = self.rate = math.nan
        # The first step of a process compiles and warms up: speed is counted after it.
        self.first_step, self.warm = state.step, (0, 0.0)

    def step(self, loss: float, norm: float, rate: float, progress: Progress) -> None:
        self.loss, self.norm, self.rate = loss, norm, rate
        if self.state.step == self.first_step + 1:
            self.warm = (self.state.tokens, self.state.seconds)
        shown = _finite(round(loss, 4))
        progress.advance(self.state.step, self.steps, "steps", loss=shown, tokens_per_second=round(self.speed()))

    def speed(self) -> float:
        tokens, seconds = self.state.tokens - self.warm[0], self.state.seconds - self.warm[1]
        return tokens / seconds if seconds > 0 and tokens > 0 else 0.0

    def row(self) -> dict[str, float | int | None]:
        return {
            "step": self.state.step,
            "tokens": self.state.tokens,
            "loss": _finite(self.loss),
            "learning_rate": self.rate,
            "grad_norm": _finite(self.norm),
            "tokens_per_second": round(self.speed(), 1),
            "model_tflops_per_second": round(self.speed() * self.flops_per_token / 1e12, 4),
            "seconds": round(self.state.seconds, 3),
        }

    def result(self, arithmetic: str) -> TrainResult:
        return TrainResult(
            steps=self.state.step,
            tokens=self.state.tokens,
            seconds=round(self.state.seconds, 2),
            tokens_per_second=round(self.speed(), 1),
            loss=_finite(self.loss),
            heldout_loss=self.heldout_loss,
            skipped_steps=self.state.skipped,
            arithmetic=arithmetic,
        )


class _Metrics:
    """metrics.jsonl: one row per logged step; rows after the step a run resumes from are dropped."""

    def __init__(self, path: Path, step: int, mesh: Mesh) -> None:
        self.path = path if mesh.first else None
        if self.path:
            path.parent.mkdir(parents=True, exist_ok=True)
            old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            kept = [line for line in old if line.endswith("}") and json.loads(line)["step"] <= step]
            with atomic_file(path) as draft:
                draft.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def write(self, row: dict[str, float | int | None] | dict[str, float | int]) -> None:
        if self.path:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
