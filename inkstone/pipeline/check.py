"""Read what later stages will need before the first one starts.

A malformed conversation or question found after hours of pretraining is found too late. Data that the run itself makes
("primer:...") is not there yet and not the user's.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from inkstone.chat import CHATS, PREFERENCES, TEXTS, VERDICTS, Kind, MalformedRows, check_rows
from inkstone.errors import InputError
from inkstone.evaluate import EVALUATE, read_benchmarks, read_problems, read_prompts, read_quiz
from inkstone.pipeline.stages import match_paths
from inkstone.recipe import Recipe
from inkstone.tune import SFT, SFTSettings
from inkstone.tune.rewards import read_tasks


def check_inputs(recipe: Recipe, stages: set[str]) -> dict[str, list[str]]:
    """What is wrong with the conversations and questions of `stages`, by stage."""
    found: dict[str, list[str]] = {}

    def attempt(stage: str, read: Callable[[], object]) -> None:
        try:
            read()
        except InputError as error:
            found.setdefault(stage, []).extend(error.problems)

    for name, tuning in recipe.tunings().items():
        files = [path for pattern in _outside([*tuning.inputs, *tuning.heldout]) for path in match_paths(pattern)]
        if files and name in stages:
            attempt(name, partial(_read_rows, files, tuning, name if name == SFT.name else f"tune.{name}"))
            texts = [path for one in _outside(tuning.texts) for path in match_paths(one)]
            attempt(name, partial(check_rows, TEXTS, texts) if texts else tuple)
    if recipe.evaluate and EVALUATE.name in stages:
        asked = recipe.evaluate
        for read, pattern in ((read_quiz, asked.quiz), (read_problems, asked.problems), (read_prompts, asked.prompts)):
            for path in [path for one in _outside([pattern]) for path in match_paths(one)]:
                attempt(EVALUATE.name, partial(read, path))
        folder = next(iter(match_paths(asked.data)), Path(asked.data)) if asked.data else None
        attempt(EVALUATE.name, partial(read_benchmarks, asked.tasks, folder))
    return found


def _read_rows(files: list[Path], tuning: SFTSettings, section: str) -> None:
    """Read what the stage's method will read."""
    try:
        if tuning.method in ("grpo", "ppo"):
            read_tasks(files)
        else:
            kinds: dict[str, Kind[Any]] = {"preference": PREFERENCES, "reward": PREFERENCES, "kto": VERDICTS}
            check_rows(kinds.get(tuning.method, CHATS), files, tuning.on_problem)
    except MalformedRows as error:
        hint = f"correct what is malformed, or leave it out with --set {section}.on_problem=skip"
        raise InputError([*error.problems, hint]) from error


def _outside(patterns: list[str]) -> list[str]:
    return [pattern for pattern in patterns if pattern and not pattern.startswith("primer:")]
