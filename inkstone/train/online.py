"""Online reweighting: a bandit moves the mixture's weights towards domains with a high loss while the model trains.

Exp3 as in online data mixing (ODM; Albalak et al. 2023, arXiv 2312.02406 and the authors' code): after step t a domain
that gave tokens gets the reward loss / weight, smoothed over steps, and the weights become
(1 - K e_t) softmax(e_(t-1) R) + e_t with e_t = min(1/K, sqrt(ln K / (K t))). Ours adds a floor below which no weight
falls. Each micro-batch comes from one domain, so its loss costs nothing extra. Nothing is drawn at random: domains take
turns by error diffusion, and the whole state is in the checkpoint, so a resumed run ends like an uninterrupted one.
"""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from inkstone.errors import InputError

if TYPE_CHECKING:
    from inkstone.train.mixed import MixedCorpus


class OnlineSettings(BaseModel):
    """`[mixture.online]`: the weights of the mixture are where the run starts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    smoothing: float = Field(0.9, ge=0, lt=1, description="share of the old reward that is kept each step")
    floor_weight: float = Field(0.02, ge=0, lt=1, description="no domain's weight falls below this")
    warmup_steps: int = Field(
        20, ge=0, description="steps with the starting weights, in which only rewards are learned"
    )


@dataclass
class OnlineState:
    """Everything that must survive a kill; one number per domain."""

    weights: list[float]
    rewards: list[float]
    credit: list[float]
    given: list[int]
    updates: int = 0
    exploration: float = 1.0


class OnlineMixer:
    """Chooses the domains of each step's micro-batches and learns from their losses."""

    def __init__(self, rows: "MixedCorpus", names: list[str], settings: OnlineSettings) -> None:
        count = len(names)
        if settings.floor_weight * count >= 1:
            raise InputError(
                f"[mixture.online] floor_weight = {settings.floor_weight} leaves nothing to choose for {count} "
                f"domains: set it below {1 / count:.3g}"
            )
        empty = [name for name, domain in zip(names, rows.domains, strict=True) if domain is None]
        if empty:
            raise InputError(f"[mixture.online] needs a starting weight above 0 for every domain, not for {empty} 0")
        self.rows, self.names, self.settings = rows, names, settings
        zeros = [0.0] * count
        self.state = OnlineState(rows.weights.tolist(), zeros, list(zeros), [0] * count, exploration=1 / count)

    def draw(self, micro_batches: int, rows: int) -> list[tuple[int, list[int]]]:
        """(domain, its row numbers) of every micro-batch of the next step, over all ranks."""
        drawn = []
        state = self.state
        for _ in range(micro_batches):
            credit = [have + weight for have, weight in zip(state.credit, state.weights, strict=True)]
            domain = int(np.argmax(credit))
            credit[domain] -= 1
            first = state.given[domain]
            state.given[domain] += rows
            state.credit = credit
            drawn.append((domain, list(range(first, first + rows))))
        return drawn

    def learn(self, losses: list[float | None]) -> None:
        """Update the weights from the step's mean loss per domain; None: it gave no tokens in this step."""
        state, kept = self.state, self.settings.smoothing
        for domain, loss in enumerate(losses):
            if loss is not None and math.isfinite(loss):
                fresh = loss / state.weights[domain]
                state.rewards[domain] = kept * state.rewards[domain] + (1 - kept) * fresh
        state.updates += 1
        before, state.exploration = state.exploration, exploration_rate(len(losses), state.updates)
        if state.updates > self.settings.warmup_steps:
            state.weights = exp3_weights(state.rewards, before, state.exploration, self.settings.floor_weight)

    def as_json(self) -> dict[str, list[float] | list[int] | int | float]:
        return asdict(self.state)

    def restore(self, saved: dict[str, list[float] | list[int] | int | float]) -> None:
        """Continue from a checkpoint's state."""
        self.state = OnlineState(**saved)  # type: ignore[arg-type]

    def figures(self) -> dict[str, float]:
        """For metrics.jsonl: the weight of each domain."""
        return {f"weight {name}": round(weight, 5) for name, weight in zip(self.names, self.state.weights, strict=True)}


def exploration_rate(domains: int, update: int) -> float:
    """e_t of the `update`-th update, from 1."""
    return min(1 / domains, math.sqrt(math.log(domains) / (domains * update)))


def exp3_weights(rewards: list[float], sharpness: float, exploration: float, floor: float) -> list[float]:
    """Exp3's weights, pressed above the floor; they add up to 1."""
    scores = np.asarray(rewards, np.float64) * sharpness
    softmax = np.exp(scores - scores.max())
    softmax /= softmax.sum()
    chosen = (1 - len(rewards) * exploration) * softmax + exploration
    weights: list[float] = (floor + (1 - len(rewards) * floor) * chosen).tolist()
    return weights
