"""How good is a model? Quizzes, word problems, held-out text and samples, with the method beside every number.

`evaluate_models` is the stage, `evaluate_directory` the same for one model directory, `score_rows` is the result.
"""

from inkstone.evaluate.items import read_problems, read_quiz
from inkstone.evaluate.samples import read_prompts
from inkstone.evaluate.settings import EvaluateSettings
from inkstone.evaluate.stage import EVALUATE, Given, evaluate_directory, evaluate_models, read_benchmarks
from inkstone.evaluate.table import score_rows

__all__ = [
    "EVALUATE",
    "EvaluateSettings",
    "Given",
    "evaluate_directory",
    "evaluate_models",
    "read_benchmarks",
    "read_problems",
    "read_prompts",
    "read_quiz",
    "score_rows",
]
