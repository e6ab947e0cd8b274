"""C-Eval, CMMLU and MMLU: four options, a subject, worked examples in `dev`.

Read from the official CSV folders (`dev/`, `val/`, `test/` with one file per subject) or from our JSON lines
(`dev.jsonl.gz`, `test.jsonl.gz`). Names and categories of the subjects are in subjects.json.
"""

import json
from collections.abc import Iterator
from functools import cache, partial
from importlib.resources import files
from pathlib import Path

from inkstone.errors import InputError
from inkstone.evaluate.tasks.item import LETTERS, Benchmark, Item, Loaded, option_texts
from inkstone.evaluate.tasks.read import csv_rows, find_file, gold_letter, json_rows

_QUESTION = {"cmmlu": ("Question", "Answer")}
"""Names of the question and answer columns; elsewhere they are written small."""


@cache
def subjects(benchmark: str) -> dict[str, tuple[str, list[str]]]:
    """Subject to its name in the prompt and its categories."""
    table = json.loads(files(__package__).joinpath("subjects.json").read_text(encoding="utf-8"))[benchmark]
    return {name: (said, categories) for name, (said, categories) in table.items()}


def _read(benchmark: str, folder: Path, split: str) -> Loaded:
    examples: dict[str, list[Item]] = {}
    for item in _split(benchmark, folder, "dev"):
        examples.setdefault(item.subject, []).append(item)
    items = list(_split(benchmark, folder, split))
    if not items:
        raise InputError(
            f"{folder} holds no {split} questions of {benchmark}: it needs {split}/SUBJECT_{split}.csv as published, "
            f"or {split}.jsonl(.gz)"
        )
    return Loaded(items, examples)


def _split(benchmark: str, folder: Path, split: str) -> Iterator[Item]:
    question, answer = _QUESTION.get(benchmark, ("question", "answer"))
    columns = [question, *"ABCD", answer] if split != "test" or benchmark != "ceval" else [question, *"ABCD"]
    root = folder / "data" if (folder / "data").is_dir() else folder
    tables = sorted((root / split).glob("*.csv"))
    for path in tables:
        subject = path.stem.removesuffix(f"_{split}")
        for index, (place, row) in enumerate(csv_rows(path, columns, header=benchmark != "mmlu")):
            choices = tuple(row[letter] for letter in "ABCD")
            name = f"{benchmark}/{subject}/{split}/{index}"
            yield _item(benchmark, name, subject, row[question], choices, row.get(answer), place)
    rows = find_file(folder, f"{split}.jsonl", f"{split}_partial.jsonl") if not tables else None
    for place, row in json_rows(rows, "id", "subject", question) if rows else ():
        texts = row.get("choices") or [row.get(letter) for letter in "ABCD"]
        choices = tuple(text for text in texts if isinstance(text, str))
        if len(choices) != 4 or not isinstance(row[question], str):
            raise InputError(f"{place}: the question and its four options must be texts, so that 1.0 stays 1.0")
        yield _item(benchmark, row["id"], row["subject"], row[question], choices, row.get(answer), place)


def _item(
    benchmark: str, name: str, subject: str, question: str, choices: tuple[str, ...], answer: str | None, place: str
) -> Item:
    known = subjects(benchmark).get(subject)
    if known is None:
        raise InputError(f"{place}: {benchmark} has no subject {subject!r}")
    gold = () if answer in (None, "") else (gold_letter(answer, choices, LETTERS, place),)
    said = {"subject": known[0], "question": question, "stripped": question.strip(), "answer": answer or ""}
    return Item(name, subject, said | option_texts(choices), choices, gold)


EXAMS = {
    name: Benchmark(name, partial(_read, name), splits, subjects(name))
    for name, splits in (("ceval", ("val", "test")), ("cmmlu", ("test",)), ("mmlu", ("test",)))
}
