"""Read what later stages will need before the first one starts.

A malformed conversation or question found after hours of pretraining is found too late. Data that the run itself makes
("primer:...") is not there yet and not the user's.
"""

from collections.abc import Callable
from functools import partial

from inkstone.chat import read_chats
from inkstone.errors import InputError
from inkstone.evaluate import read_problems, read_prompts, read_quiz
from inkstone.pipeline.stages import match_paths
from inkstone.recipe import Recipe


def check_inputs(recipe: Recipe, stages: set[str]) -> None:
    """Raises InputError with everything that is wrong with the conversations and questions of `stages`."""
    problems: list[str] = []

    def attempt(read: Callable[[], object]) -> None:
        try:
            read()
        except InputError as error:
            problems.extend(error.problems)

    if recipe.sft and "sft" in stages:
        files = [path for pattern in _outside(recipe.sft.inputs) for path in match_paths(pattern)]
        if files:
            attempt(partial(read_chats, files, recipe.sft.on_problem))
    if recipe.evaluate and "evaluate" in stages:
        asked = recipe.evaluate
        for read, pattern in ((read_quiz, asked.quiz), (read_problems, asked.problems), (read_prompts, asked.prompts)):
            for path in [path for one in _outside([pattern]) for path in match_paths(one)]:
                attempt(partial(read, path))
    if problems:
        raise InputError(problems)


def _outside(patterns: list[str]) -> list[str]:
    return [pattern for pattern in patterns if pattern and not pattern.startswith("primer:")]
