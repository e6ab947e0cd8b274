"""Online reweighting: a bandit moves the mixture's weights towards domains with a high loss while the model trains.

Exp3 as in online data mixing (ODM; Albalak et al. 2023, arXiv 2312.02406 and the authors' code): after step t a domain
that gave tokens gets the reward loss / weight, smoothed over steps, and the weights become
(1 - K e_t) softmax(e_(t-1) R) + e_t with e_t = min(1/K, sqrt(ln K / (K t))). Ours adds a floor below which no weight
falls. A domain gives some rows at a turn, which are batches of their own, so that its loss costs nothing extra. Nothing
is drawn at random: domains take turns by error diffusion, and the whole state is in the checkpoint, so a resumed run
ends like an uninterrupted one, on any number of ranks.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from inkstone.errors import InputError
from inkstone.train.batches import Batch
from inkstone.train.mesh import Mesh, sum_numbers
from inkstone.train.mixed import MixedCorpus, OnlineSettings
from inkstone.train.source import SourceState


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
    """A source that chooses the domains of each step's turns and learns from their losses."""

    def __init__(self, rows: MixedCorpus, names: list[str], settings: OnlineSettings) -> None:
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
        self.rows_per_epoch = rows.rows_per_epoch
        zeros = [0.0] * count
        self.weights = OnlineState(rows.weights.tolist(), zeros, list(zeros), [0] * count, exploration=1 / count)
        self._dealt: list[int] = []

    def draw(self, numbers: Sequence[int], micro_rows: int, mesh: Mesh) -> list[Batch]:
        """Every rank chooses all turns and reads the rows of its own; rows that are passed over are chosen as well."""
        turn = self.settings.turn_rows or max(1, len(numbers) // 8)
        turns = [min(turn, len(numbers) - start) for start in range(0, len(numbers), turn)]
        if len(turns) < mesh.data_size:
            raise InputError(
                f"online reweighting deals {turn} rows at a turn, so a step has {len(turns)} turns for "
                f"{mesh.data_size} processes: set [mixture.online] turn_rows to "
                f"{len(numbers) // mesh.data_size} or less"
            )
        for _ in range(sum(self.weights.given), numbers[0]):
            self._choose(1)
        mine = [self._choose(rows) for rows in turns][mesh.data_rank :: mesh.data_size]
        batches, self._dealt = [], []
        for domain, rows in mine:
            for start in range(rows.start, rows.stop, micro_rows):
                piece = range(start, min(start + micro_rows, rows.stop))
                batches.append(Batch.stack([self.rows.domain_row(domain, number) for number in piece]))
                self._dealt.append(domain)
        return batches

    def _choose(self, rows: int) -> tuple[int, range]:
        """The domain whose turn it is, and the numbers of its next `rows` rows."""
        state = self.weights
        credit = [have + weight for have, weight in zip(state.credit, state.weights, strict=True)]
        domain = int(np.argmax(credit))
        credit[domain] -= 1
        first = state.given[domain]
        state.given[domain] += rows
        state.credit = credit
        return domain, range(first, first + rows)

    def learn(self, losses: Sequence[float], units: Sequence[float], mesh: Mesh) -> None:
        sums, counts = ([0.0] * len(self.names) for _ in range(2))
        for domain, loss, unit in zip(self._dealt, losses, units, strict=True):
            sums[domain] += loss
            counts[domain] += unit
        totals = sum_numbers([*sums, *counts], mesh)
        pairs = zip(totals[: len(sums)], totals[len(sums) :], strict=True)
        self.reweight([loss / count if count else None for loss, count in pairs])

    def reweight(self, losses: list[float | None]) -> None:
        """Update the weights from the step's mean loss per domain; None: it gave no tokens in this step."""
        state, kept = self.weights, self.settings.smoothing
        for domain, loss in enumerate(losses):
            if loss is not None and math.isfinite(loss):
                fresh = loss / state.weights[domain]
                state.rewards[domain] = kept * state.rewards[domain] + (1 - kept) * fresh
        state.updates += 1
        before, state.exploration = state.exploration, exploration_rate(len(losses), state.updates)
        if state.updates > self.settings.warmup_steps:
            state.weights = exp3_weights(state.rewards, before, state.exploration, self.settings.floor_weight)

    def state(self) -> SourceState:
        return asdict(self.weights)

    def restore(self, state: SourceState) -> None:
        self.weights = OnlineState(**state)  # type: ignore[arg-type]

    def figures(self) -> dict[str, float]:
        """The weight of each domain."""
        pairs = zip(self.names, self.weights.weights, strict=True)
        return {f"weight {name}": round(weight, 5) for name, weight in pairs}


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
