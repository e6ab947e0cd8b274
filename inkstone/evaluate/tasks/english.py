"""HellaSwag, ARC, PIQA, OpenBookQA, BoolQ, WinoGrande and LAMBADA: as published, or llm-foundry's JSON lines.

All of a row becomes a `query` (the prompt without "Answer:") and its choices.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from inkstone.errors import InputError
from inkstone.evaluate.tasks.hub import DATA_SETS
from inkstone.evaluate.tasks.item import Benchmark, Item, Loaded, option_texts
from inkstone.evaluate.tasks.read import json_rows, need_file

_FILES = {
    "hellaswag": ("hellaswag_val.jsonl", "val.jsonl", "val_*.jsonl", "validation.jsonl"),
    "openbookqa": ("openbookqa.jsonl", "openbook_qa.jsonl", "test.jsonl"),
    "lambada": ("lambada_openai.jsonl", "lambada*.jsonl", "test.jsonl"),
}


def _read(name: str, folder: Path, split: str) -> Loaded:
    names = _FILES.get(name, (f"{name}.jsonl", "test.jsonl", "validation.jsonl", "val.jsonl"))
    path = need_file(folder, *names, Path(DATA_SETS[name][-1]).name)
    return Loaded(list(_items(name, path)))


def _items(name: str, path: Path) -> Iterator[Item]:
    for number, (place, row) in enumerate(json_rows(path)):
        try:
            item = _item(name, f"{name}/{number}", row)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise InputError(f"{place} is no row of {name} as published ({error!r}): is it another file?") from error
        if item.choices and not (item.gold and 0 <= item.gold[0] < len(item.choices)):
            raise InputError(f"{place}: the answer names none of the {len(item.choices)} choices")
        yield item


def _item(name: str, number: str, row: dict[str, Any]) -> Item:
    if name == "hellaswag":
        query = clean(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
        choices = tuple(clean(ending) for ending in row["endings"])
        texts = {"query": query, "ctx": row["ctx"]} | option_texts(tuple(row["endings"]))
        return Item(number, name, texts, choices, (int(row["label"]),))
    if name == "lambada":
        query, word = (row["context"], row["continuation"]) if "context" in row else row["text"].rsplit(" ", 1)
        return Item(number, name, {"query": query, "word": word}, answers=(word,))
    if name == "winogrande":
        if "sentence" in row:
            before, after = row["sentence"].split("_")
            contexts, gold = (before + row["option1"], before + row["option2"]), int(row["answer"]) - 1
        else:
            first, second = row["context_options"]
            contexts, after, gold = (first, second), row["continuation"], row["gold"]
        return Item(number, name, {"query": "", "rest": after.strip()}, contexts, (gold,), contexts=contexts)
    query, options, gold = _question(row)
    return Item(number, name, {"query": query}, tuple(options), (gold,))


def _question(row: dict[str, Any]) -> tuple[str, list[str], int]:
    """(query, choices, index of the right one) of the layouts that these five benchmarks come in."""
    if "query" in row:
        return row["query"].removeprefix("Passage: ").removesuffix("\n"), row["choices"], row["gold"]
    if "goal" in row:
        return f"Question: {row['goal']}", [row["sol1"], row["sol2"]], int(row["label"])
    if "passage" in row:
        gold = row["answer"] if "answer" in row else row["label"]
        return f"{row['passage']}\nQuestion: {row['question']}?", ["no", "yes"], int(gold)
    said = row["question"] if isinstance(row.get("question"), dict) else row
    options = said["choices"]
    if isinstance(options, list):
        options = {key: [option[key] for option in options] for key in ("text", "label")}
    gold = options["label"].index(row["answerKey"].strip())
    stem = row.get("question_stem") or f"Question: {said.get('stem') or said['question']}"
    return stem, options["text"], gold


def clean(text: str) -> str:
    """HellaSwag without the marks of WikiHow, as lm-eval does it: one pass over double spaces."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


_NAMES = ("hellaswag", "arc_easy", "arc_challenge", "piqa", "openbookqa", "boolq", "winogrande", "lambada")
ENGLISH = {name: Benchmark(partial(_read, name), folders=(name, "en_extra")) for name in _NAMES}
