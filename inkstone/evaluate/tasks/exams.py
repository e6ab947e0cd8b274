"""C-Eval, CMMLU and MMLU: four options, a subject, worked examples in `dev`.

Read from the official CSV folders (`dev/`, `val/`, `test/` with one file per subject), also inside the zip they are
published in, from our JSON lines (`dev.jsonl.gz`, `test.jsonl.gz`), or from the hub's Parquet. Names and categories of
the subjects are in subjects.json.
"""

import json
from collections.abc import Iterator
from functools import cache, partial
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any
from zipfile import Path as Zipped

from inkstone.errors import InputError
from inkstone.evaluate.tasks.hub import ONE
from inkstone.evaluate.tasks.item import LETTERS, Benchmark, Item, Loaded, option_texts
from inkstone.evaluate.tasks.read import csv_rows, find_file, gold_letter, json_rows

_ARCHIVES = ("ceval-exam.zip", "cmmlu_v1_0_1.zip")
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
    tables: list[Path | Zipped] = [*sorted((root / split).glob("*.csv"))]
    rows = find_file(folder, f"{split}.jsonl", f"{split}_partial.jsonl", f"{split}-{ONE}") if not tables else None
    if archive := find_file(folder, *_ARCHIVES) if not (tables or rows) else None:
        inside = (path for path in Zipped(archive, f"{split}/").iterdir() if path.suffix == ".csv")
        tables += sorted(inside, key=lambda path: path.name)
    for path in tables:
        subject = path.stem.removesuffix(f"_{split}")
        for index, (place, row) in enumerate(csv_rows(path, columns, header=benchmark != "mmlu")):
            choices = tuple(row[letter] for letter in "ABCD")
            name = f"{benchmark}/{subject}/{split}/{index}"
            yield _item(benchmark, name, subject, row[question], choices, row.get(answer), place)
    numbers: dict[str, Iterator[int]] = {}
    for place, row in json_rows(rows, "subject", question) if rows else ():
        texts = row.get("choices") or [row.get(letter) for letter in "ABCD"]
        choices = tuple(text for text in texts if isinstance(text, str))
        if len(choices) != 4 or not isinstance(row[question], str):
            raise InputError(f"{place}: the question and its four options must be texts, so that 1.0 stays 1.0")
        number = next(numbers.setdefault(row["subject"], count()))
        name = row.get("id", f"{benchmark}/{row['subject']}/{split}/{number}")
        said: Any = row.get(answer)
        said = LETTERS[said] if isinstance(said, int) else said
        yield _item(benchmark, name, row["subject"], row[question], choices, said, place)


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
    name: Benchmark(partial(_read, name), splits, subjects(name))
    for name, splits in (("ceval", ("val", "test")), ("cmmlu", ("test",)), ("mmlu", ("test",)))
}
