"""The arithmetic of scores: right answers counted, with a standard error, over all questions and in groups.

Pure functions over lists of outcomes. Both usual means are kept: over questions (`accuracy`) and over subjects
(`subject_mean`), because published numbers use either.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Tally:
    """`accuracy` is a fraction; `stderr` is the standard error of that mean (None with fewer than two questions)."""

    n: int
    correct: int
    accuracy: float
    stderr: float | None


def tally(outcomes: Sequence[bool]) -> Tally:
    """Count a non-empty list of outcomes."""
    n, correct = len(outcomes), sum(outcomes)
    accuracy = correct / n
    return Tally(n, correct, accuracy, math.sqrt(accuracy * (1 - accuracy) / (n - 1)) if n > 1 else None)


def grouped(outcomes: Sequence[bool], keys: Sequence[str]) -> dict[str, Tally]:
    """One tally per key, keys in alphabetical order; outcomes with an empty key belong to no group."""
    groups: dict[str, list[bool]] = {}
    for outcome, key in zip(outcomes, keys, strict=True):
        if key:
            groups.setdefault(key, []).append(outcome)
    return {key: tally(groups[key]) for key in sorted(groups)}


def summary(outcomes: Sequence[bool], groups: dict[str, Sequence[str]]) -> dict[str, object]:
    """The overall tally and one table per grouping, as plain data: {"n", ..., "by_lang": {"zh": {...}}}."""
    result: dict[str, object] = asdict(tally(outcomes))
    for name, keys in groups.items():
        parts = grouped(outcomes, keys)
        if name == "subject" and parts:
            result["subject_mean"] = math.fsum(part.accuracy for part in parts.values()) / len(parts)
        result[f"by_{name}"] = {key: asdict(part) for key, part in parts.items()}
    return result


def likeliest(logprobs: Sequence[float]) -> int:
    """Index of the largest value; the lowest index among equals."""
    return max(range(len(logprobs)), key=lambda index: (logprobs[index], -index))


def evenly(count: int, limit: int) -> list[int]:
    """At most `limit` of the indices 0..count-1, spread evenly and in order."""
    if count <= limit:
        return list(range(count))
    return [index * count // limit for index in range(limit)]
