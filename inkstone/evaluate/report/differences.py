"""Two models of evaluated runs, question by question: what one has right and the other wrong, and could it be chance?

    one, other = read_answers(run / "evaluate", "pretrain"), read_answers(run / "evaluate", "sft")
    table, refused = compare_answers(one, other)
    differing(one["word problems"], other["word problems"])      # pairs of rows

Counts and p-values are those of `inkstone evaluate compare`. A question's text is in the rows of quiz and problems;
that of a benchmark is looked up in its files, where they still lie.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from inkstone.errors import InputError
from inkstone.evaluate.report.compare import Paired, paired, read_scores
from inkstone.evaluate.run.runner import Row, read_rows
from inkstone.evaluate.table import PROBLEMS, SCORINGS
from inkstone.evaluate.tasks import BENCHMARKS, Item, load
from inkstone.evaluate.tasks.item import LETTERS
from inkstone.storage.damage import reading


class Answers(NamedTuple):
    """What a model answered to a task: rows with `id`, `gold` and `score`, and how they were asked for."""

    fingerprint: str
    rows: list[Row]


def read_answers(folder: Path, model: str) -> dict[str, Answers]:
    """By task, as the score table names them, what a model answered in the evaluation of a run. Raises InputError."""
    scores = read_scores(folder)
    if model not in scores.get("models", {}):
        raise InputError(f'{folder} has no scores of "{model[:100]}"')
    with reading(folder, "the evaluation of a run", "run its evaluation again"):
        how, found = scores["method"]["fingerprint"], dict[str, Answers]()
        asked, solved = (
            [row for row in read_rows(folder / name) if row["model"] == model]
            for name in ("questions.jsonl", "problems.jsonl")
        )
        for key, label in SCORINGS.items():
            right = [row | {"gold": [row["answer"]], "score": float(row[key]["correct"])} for row in asked]
            found[label] = Answers(how, [row | {"prediction": row[key]["prediction"]} for row in right])
        rows = [row | {"gold": [row["answer"]], "score": float(row["correct"])} for row in solved]
        found[PROBLEMS] = Answers(how, [row | {"texts": [row["output"]]} for row in rows])
        for task, told in scores["models"][model].get("benchmarks", {}).items():
            rows = read_rows(folder / "benchmarks" / model / f"{task}.jsonl")
            found[task] = Answers(told.get("fingerprint", ""), rows)
    return {task: answers for task, answers in found.items() if answers.rows}


def compare_answers(one: Mapping[str, Answers], other: Mapping[str, Answers]) -> tuple[list[Paired], list[str]]:
    """A comparison of each task that both answered, and in words the tasks that cannot be compared."""
    table, refused = [], []
    for task in (task for task in one if task in other):
        try:
            if one[task].fingerprint != other[task].fingerprint:
                raise InputError(f"{task}: asked under different protocols")
            table.append(paired(task, one[task].rows, other[task].rows))
        except InputError as error:
            refused.append(str(error))
    return table, refused


def differing(one: Answers, other: Answers) -> list[tuple[Row, Row]]:
    """The answers to questions that only one of the two has right, or has more of right."""
    by_id = {row["id"]: row for row in other.rows if row["gold"]}
    both = [(row, by_id[row["id"]]) for row in one.rows if row["gold"] and row["id"] in by_id]
    return [(a, b) for a, b in both if a["score"] != b["score"]]


def read_items(task: str, data: Path | None) -> dict[str, Item]:
    """The questions of a benchmark by id; none of a quiz, or where the benchmark's files are gone."""
    name = task.partition("@")[0]
    try:
        return {item.id: item for item in load(name, data).items} if data and name in BENCHMARKS else {}
    except InputError:
        return {}


def in_words(pair: Sequence[Row], items: Mapping[str, Item]) -> dict[str, Any]:
    """The question, both answers and the right one as texts; `better` is which of the two is right."""
    first, item = pair[0], items.get(str(pair[0]["id"]))
    choices = first.get("choices") or (item.choices if item else ())
    question = first.get("question") or (item and (item.texts.get("question") or next(iter(item.texts.values()), "")))
    a, b = (row["texts"][0] if "texts" in row else _choice(row["prediction"], choices) for row in pair)
    right = " / ".join(_choice(one, choices) for one in first["gold"])
    better = "a" if first["score"] > pair[1]["score"] else "b"
    return {"id": first["id"], "question": question or "", "a": a, "b": b, "right": right, "better": better}


def _choice(answer: Any, choices: Sequence[str]) -> str:
    """A choice by its letter, and its words where they are known; another answer as it is."""
    if type(answer) is not int or not 0 <= answer < len(LETTERS):
        return str(answer)
    return LETTERS[answer] + (f". {choices[answer]}" if answer < len(choices) else "")
