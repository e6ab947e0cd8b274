"""From rows to scores: both means, categories as published, intervals, and what could not be read or did not fit.

`figures(rows, subjects)` is a pure function; a published number may be either mean, so both always stand there.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Z = 1.959964  # 95 %


def figures(
    rows: Sequence[Row], subjects: Mapping[str, tuple[str, list[str]]], weights: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Scores are fractions. `item_mean` is weighted by points where items have `weights`; `subject_mean` is not."""
    scored = [row for row in rows if row["gold"]]
    result: dict[str, Any] = {
        "questions": len(rows),
        "scored": len(scored),
        "unparsed": sum(not row["parsed"] for row in rows),
        "truncated": sum(row["cut"] > 0 for row in rows),
        "dropped_examples": sum(row["dropped"] for row in rows),
        "seconds": round(math.fsum(row["seconds"] for row in rows), 3),
    }
    if not scored:
        return result
    by_subject: dict[str, list[Row]] = {}
    for row in scored:
        by_subject.setdefault(row["subject"], []).append(row)
    parts = {subject: _mean(own, weights) for subject, own in sorted(by_subject.items())}
    low, high = interval([row["score"] for row in scored], [weights[_item(row)] for row in scored] if weights else None)
    result |= {
        "item_mean": _mean(scored, weights)["mean"],
        "low": low,
        "high": high,
        "subject_mean": math.fsum(part["mean"] for part in parts.values()) / len(parts),
        "subjects": parts,
        "categories": _categories(by_subject, parts, subjects, weights),
    }
    also: dict[str, list[float]] = {}
    for row in scored:
        for name, value in row.get("also", {}).items():
            also.setdefault(name, []).append(value)
    if also:
        result["also"] = {name: math.fsum(values) / len(values) for name, values in also.items()}
    if counts := [len(row["scores"]) for row in scored if "scores" in row]:
        result["pass_at"] = {
            str(k): math.fsum(pass_at(len(row["scores"]), round(sum(row["scores"])), k) for row in scored) / len(scored)
            for k in (1, 10, 100)
            if k <= min(counts)
        }
    return result


def interval(scores: Sequence[float], weights: Sequence[float] | None = None) -> tuple[float, float]:
    """95 %: Wilson's for right and wrong, normal where there are weights or parts of a point."""
    points = weights or [1.0] * len(scores)
    n, total = len(scores), math.fsum(points)
    mean = math.fsum(point * score for point, score in zip(points, scores, strict=True)) / total
    if set(scores) <= {0.0, 1.0} and weights is None:
        middle, width = mean + Z * Z / (2 * n), Z * math.sqrt(mean * (1 - mean) / n + Z * Z / (4 * n * n))
        return (middle - width) / (1 + Z * Z / n), (middle + width) / (1 + Z * Z / n)
    squares = ((point * (score - mean)) ** 2 for point, score in zip(points, scores, strict=True))
    spread = math.sqrt(math.fsum(squares) * n / max(1, n - 1)) / total
    return max(0.0, mean - Z * spread), min(1.0, mean + Z * spread)


def pass_at(n: int, correct: int, k: int) -> float:
    """Unbiased: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374)."""
    return 1.0 if n - correct < k else 1.0 - math.prod(1.0 - k / total for total in range(n - correct + 1, n + 1))


def _item(row: Row) -> str:
    """The item that a row is of: a judged turn's row has the number of the turn after it."""
    return str(row["id"]).removesuffix(f"/{row['turn']}") if "turn" in row else str(row["id"])


def _mean(rows: Sequence[Row], weights: Mapping[str, float] | None) -> dict[str, Any]:
    points = [weights[_item(row)] if weights else 1.0 for row in rows]
    total = math.fsum(points)
    mean = math.fsum(point * row["score"] for point, row in zip(points, rows, strict=True)) / total
    return {"n": len(rows), "mean": mean} | ({"points": total} if weights else {})


def _categories(
    by_subject: Mapping[str, Sequence[Row]],
    parts: Mapping[str, Mapping[str, Any]],
    subjects: Mapping[str, tuple[str, list[str]]],
    weights: Mapping[str, float] | None,
) -> dict[str, dict[str, Any]]:
    members: dict[str, list[str]] = {}
    for subject in by_subject:
        for category in subjects.get(subject, ("", []))[1]:
            members.setdefault(category, []).append(subject)
    return {
        category: {
            "subject_mean": math.fsum(parts[subject]["mean"] for subject in own) / len(own),
            "item_mean": _mean([row for subject in own for row in by_subject[subject]], weights)["mean"],
            "n": sum(len(by_subject[subject]) for subject in own),
            "subjects": len(own),
        }
        for category, own in sorted(members.items())
    }
