"""A run's page and a folder's leaderboard, as Markdown and as one HTML file that opens offline.

`write_report(run)` reads scores.json and run.json there; `write_leaderboard(folder)` reads those of every run in it.
Charts are a radar over the published categories and bars over subjects, drawn as SVG and HTML by the template.
"""

import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from inkstone.errors import InputError
from inkstone.evaluate.report.compare import read_scores
from inkstone.storage import atomic_file

CHANCE = {"ceval": 25, "cmmlu": 25, "mmlu": 25, "hellaswag": 25, "arc_easy": 25, "arc_challenge": 25, "openbookqa": 25}
CHANCE |= {"piqa": 50, "winogrande": 50}
"""What a guesser reaches, in percent, where all questions have the same number of options."""


def write_report(run: Path, published: bool = False) -> list[Path]:
    """report.md and report.html of a run; with `published`, beside the numbers that others have published."""
    scores = read_scores(run)
    facts = {"scores": scores, "tasks": scores["tasks"], "chance": CHANCE, "radar": radar}
    facts["published"] = published_rows(scores["tasks"]) if published else []
    return [_render(f"report.{kind}", facts, run) for kind in ("md", "html")]


def write_leaderboard(folder: Path) -> list[Path]:
    """leaderboard.md and .html over all runs in the folder, best first. Raises InputError where there is none."""
    runs = [(path.parent.name, read_scores(path.parent)) for path in sorted(folder.glob("*/scores.json"))]
    runs = [(name, scores) for name, scores in runs if "tasks" in scores]
    if not runs:
        raise InputError(f"{folder} holds no runs: give the folder that the -o of several evaluations lies in")
    # Scores under one name and two fingerprints do not stand in one column.
    columns = sorted({(task, found["fingerprint"]) for _, one in runs for task, found in one["tasks"].items()})
    names = [task if [one for one, _ in columns].count(task) == 1 else f"{task} ({mark})" for task, mark in columns]
    rows = []
    for name, scores in runs:
        found = [scores["tasks"].get(task, {}) for task, _ in columns]
        same = [one if one.get("fingerprint") == mark else {} for one, (_, mark) in zip(found, columns, strict=True)]
        rows.append((name, scores["model"], [one.get("item_mean") for one in same]))
    rows.sort(key=lambda row: -_mean([value for value in row[2] if value is not None]))
    return [_render(f"leaderboard.{kind}", {"names": names, "rows": rows}, folder) for kind in ("md", "html")]


def published_rows(tasks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What others have published of these tasks."""
    known = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    asked = {task.partition("@")[0] for task in tasks}
    return [row for row in known if row["task"] in asked]


def radar(values: Sequence[float], size: float = 110.0) -> list[tuple[float, float]]:
    """Points of a radar chart around (0, 0), the first one at the top; 1 is at the distance `size`."""
    angles = [2 * math.pi * number / len(values) - math.pi / 2 for number in range(len(values))]
    return [(round(size * value * math.cos(angle), 1), round(size * value * math.sin(angle), 1))
            for value, angle in zip(values, angles, strict=True)]  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _render(name: str, facts: Mapping[str, Any], folder: Path) -> Path:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=name.endswith(".html"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.2f}"
    with atomic_file(folder / name) as draft:
        draft.write_text(environment.get_template(f"{name}.j2").render(facts), encoding="utf-8")
    return folder / name
