"""Are two models different? Their answers to the same questions, pair by pair.

`compare(RUN_A, RUN_B)` gives, for each task of both, the difference with its interval and a p-value: the exact binomial
over the questions that only one of them got right (McNemar), or random signs where there are parts of a point.
Scores under protocols with different fingerprints are refused, unless that is forced.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inkstone.errors import InputError
from inkstone.evaluate.report.figures import Z
from inkstone.evaluate.run.runner import read_rows


@dataclass(frozen=True)
class Paired:
    """`difference`: B - A over the `items` that both answered; `low`, `high`: 95 %."""

    task: str
    items: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    only_a: int
    only_b: int
    p: float


def read_scores(run: Path) -> dict[str, Any]:
    """scores.json of a run's folder."""
    try:
        return dict(json.loads((run / "scores.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{run} holds no scores.json that can be read ({error}): give the -o of an evaluation"
        ) from error


def compare(one: Path, other: Path, force: bool = False) -> list[Paired]:
    """One row per task that both runs have. Raises InputError where there is none, or protocols differ."""
    a, b = read_scores(one)["tasks"], read_scores(other)["tasks"]
    common = [task for task in a if task in b]
    if not common:
        raise InputError(f"{one} and {other} have no task in common: {', '.join(a)} / {', '.join(b)}")
    differ = [task for task in common if a[task]["fingerprint"] != b[task]["fingerprint"]]
    if differ and not force:
        raise InputError(f"{', '.join(differ)}: asked under different protocols; --force compares them all the same")
    return [paired(task, read_rows(one / f"{task}.jsonl"), read_rows(other / f"{task}.jsonl")) for task in common]


def paired(task: str, one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> Paired:
    """The comparison over the questions that stand in both and are scored."""
    scores = {row["id"]: row["score"] for row in other if row["gold"]}
    pairs = [(row["score"], scores[row["id"]]) for row in one if row["gold"] and row["id"] in scores]
    if not pairs:
        raise InputError(f"{task}: the two runs have no question in common")
    a, b = np.array(pairs, dtype=float).T
    gain = b - a
    only_a, only_b = int((gain < 0).sum()), int((gain > 0).sum())
    spread = Z * float(gain.std(ddof=1)) / math.sqrt(len(gain)) if len(gain) > 1 else 1.0
    mean = float(gain.mean())
    binary = bool(np.isin(gain, (-1, 0, 1)).all())
    p = sign_test(only_a, only_b) if binary else _random_signs(gain)
    return Paired(
        task, len(gain), float(a.mean()), float(b.mean()), mean, mean - spread, mean + spread, only_a, only_b, p
    )


def sign_test(one: int, other: int) -> float:
    """Two-sided exact binomial of `one` against `other` with equal chances."""
    n, least = one + other, min(one, other)
    log_half = n * math.log(2)
    tail = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - log_half for k in range(least + 1))
    return min(1.0, 2 * math.fsum(math.exp(one) for one in tail))


def _random_signs(gain: np.ndarray, draws: int = 10_000) -> float:
    """Share of random signs under which the sum is at least as far from zero; drawn with a fixed seed."""
    generator, extreme = np.random.default_rng(0), 0
    for _ in range(draws // 100):
        signs = generator.choice((-1.0, 1.0), (100, len(gain)))
        extreme += int((np.abs(signs @ gain) >= abs(gain.sum()) - 1e-12).sum())
    return (extreme + 1) / (draws // 100 * 100 + 1)
