"""What a run says of itself: figures of the run so far, and metrics.jsonl."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inkstone.progress import Progress
from inkstone.storage import atomic_file
from inkstone.train.checkpoint import TrainState
from inkstone.train.mesh import Mesh


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


def finite(figure: float) -> float | None:
    """JSON has no NaN."""
    return figure if math.isfinite(figure) else None


class Report:
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
        shown = finite(round(loss, 4))
        progress.advance(self.state.step, self.steps, "steps", loss=shown, tokens_per_second=round(self.speed()))

    def speed(self) -> float:
        tokens, seconds = self.state.tokens - self.warm[0], self.state.seconds - self.warm[1]
        return tokens / seconds if seconds > 0 and tokens > 0 else 0.0

    def row(self) -> dict[str, float | int | None]:
        return {
            "step": self.state.step,
            "tokens": self.state.tokens,
            "loss": finite(self.loss),
            "learning_rate": self.rate,
            "grad_norm": finite(self.norm),
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
            loss=finite(self.loss),
            heldout_loss=self.heldout_loss,
            skipped_steps=self.state.skipped,
            arithmetic=arithmetic,
        )


class Metrics:
    """metrics.jsonl: one row per logged step; rows after the step a run resumes from are dropped."""

    def __init__(self, path: Path, step: int, mesh: Mesh, progress: Progress) -> None:
        self.progress = progress
        self.path = path if mesh.first else None
        if self.path:
            path.parent.mkdir(parents=True, exist_ok=True)
            old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            kept = [line for line in old if line.endswith("}") and json.loads(line)["step"] <= step]
            with atomic_file(path) as draft:
                draft.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def write(self, row: Mapping[str, float | int | None]) -> None:
        if self.path:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            self.progress.metrics(row)
