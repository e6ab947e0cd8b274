"""The arithmetic of scores: right answers counted, with a standard error, over all questions and in groups.

Pure functions over lists of outcomes. Both usual means are kept: over questions (`accuracy`) and over subjects
(`subject_mean`), because published numbers use either.
"""

import math
from collections.abc import Sequence
from typing import Any


def tally(outcomes: Sequence[bool]) -> dict[str, Any]:
    """Count a non-empty list of outcomes; `accuracy` is a fraction, `stderr` its standard error (None of just one)."""
    n, correct = len(outcomes), sum(outcomes)
    accuracy = correct / n
    stderr = math.sqrt(accuracy * (1 - accuracy) / (n - 1)) if n > 1 else None
    return {"n": n, "correct": correct, "accuracy": accuracy, "stderr": stderr}


def summary(outcomes: Sequence[bool], groups: dict[str, Sequence[str]]) -> dict[str, object]:
    """The overall tally and one table per grouping: {"n", ..., "by_lang": {"zh": {...}}}; "" belongs to no group."""
    result: dict[str, object] = tally(outcomes)
    for name, keys in groups.items():
        pairs = list(zip(outcomes, keys, strict=True))
        parts = {key: tally([right for right, own in pairs if own == key]) for key in sorted({*keys} - {""})}
        if name == "subject" and parts:
            result["subject_mean"] = math.fsum(part["accuracy"] for part in parts.values()) / len(parts)
        result[f"by_{name}"] = parts
    return result


def likeliest(logprobs: Sequence[float]) -> int:
    """Index of the largest value; the lowest index among equals."""
    return max(range(len(logprobs)), key=lambda index: (logprobs[index], -index))


def evenly(count: int, limit: int) -> list[int]:
    """At most `limit` of the indices 0..count-1, spread evenly and in order."""
    if count <= limit:
        return list(range(count))
    return [index * count // limit for index in range(limit)]
