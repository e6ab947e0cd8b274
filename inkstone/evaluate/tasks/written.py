"""AGIEval, GAOKAO-Bench, GSM8K, CMRC 2018 and HumanEval: passages, sets of letters, points, free answers, code."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from inkstone.errors import InputError
from inkstone.evaluate.tasks.hub import ONE
from inkstone.evaluate.tasks.item import LETTERS, Benchmark, Item, Loaded
from inkstone.evaluate.tasks.read import find_file, gold_letter, json_rows, need_file, read_text

_CHINESE = ("gaokao", "jec", "logiqa-zh")
_ENGLISH_IN_GAOKAO = "gaokao-english"


def _agieval(cloze: bool, folder: Path, split: str) -> Loaded:
    root = folder / "v1" if (folder / "v1").is_dir() else folder
    paths = sorted(path for path in root.iterdir() if ".jsonl" in path.name)
    items = []
    for path in paths:
        subject = path.name.partition(".jsonl")[0]
        for number, (place, row) in enumerate(json_rows(path, "question", "options")):
            if (row["options"] is None) == cloze:
                items.append(_agieval_item(subject, f"agieval/{subject}/{number}", row, place))
    if not items:
        raise InputError(f"{folder} holds no AGIEval files: it needs aqua-rat.jsonl, gaokao-biology.jsonl and so on")
    return Loaded(items)


def _agieval_item(subject: str, name: str, row: dict[str, Any], place: str) -> Item:
    chinese = subject.startswith(_CHINESE) and subject != _ENGLISH_IN_GAOKAO
    said = (
        (row.get("passage") or "")
        + ("问题：" if chinese else "Q: ")
        + row["question"]
        + (" " if row["options"] else "")
    )
    if row["options"] is None:
        query = said + ("\n答案：" if chinese else "\nA: The answer is")
        return Item(name, subject, {"query": query}, answers=(str(row["answer"]),))
    options = tuple(row["options"])
    last, listed = LETTERS[len(options) - 1], " ".join(options)
    query = f"选项：{listed}\n答案：从A到{last}, 我们应选择" if chinese else f"Answer Choices: {listed}\n"
    query += "" if chinese else f"A: Among A through {last}, the answer is"
    # The published labels are letters, lists of letters, "A B D", and one list that ends in a full stop.
    letters = [letter for letter in "".join(row["label"]) if letter.isalnum()]
    gold = tuple(gold_letter(letter, options, LETTERS, place) for letter in letters)
    several = isinstance(row["label"], list) or len(gold) > 1
    return Item(name, subject, {"query": said + query, "several": "yes" if several else ""}, options, gold)


def _gaokao(folder: Path, split: str) -> Loaded:
    prompts = json.loads(read_text(need_file(folder, "Obj_Prompt.json")))["examples"]
    known = {one["keyword"]: one for one in prompts}
    path, rows = find_file(folder, "objective.jsonl"), list[tuple[str, dict[str, Any]]]()
    if path:
        rows = list(json_rows(path, "keyword", "question", "answer", "score"))
    for table in sorted((folder / "Objective_Questions").glob("*.json")):
        content = json.loads(read_text(table))
        rows += [(f"{table}:{number}", {"keyword": content["keywords"], **row})
                 for number, row in enumerate(content["example"])]  # fmt: skip
    items = []
    for number, (place, row) in enumerate(rows):
        prompt = known.get(row["keyword"])
        if prompt is None:
            raise InputError(f"{place}: Obj_Prompt.json has no prompt for {row['keyword']}")
        texts = {"prefix": prompt["prefix_prompt"], "question": row["question"], "kind": prompt["type"]}
        answers = tuple(row["answer"])
        name = row.get("id", f"gaokao/{row['keyword']}/{number}")
        items.append(Item(name, row["keyword"], texts, answers=answers, weight=float(row["score"]) * len(answers)))
    if not items:
        raise InputError(f"{folder} holds no objective.jsonl and no Objective_Questions/*.json of GAOKAO-Bench")
    return Loaded(items)


def _gsm8k(folder: Path, split: str) -> Loaded:
    def items(path: Path, part: str) -> list[Item]:
        found = []
        for number, (_, row) in enumerate(json_rows(path, "question", "answer")):
            # As prompts show it: without the calculator's notes, the result in words.
            explained = re.sub("<<.*?>>", "", row["answer"]).replace("#### ", "The answer is ")
            name, texts = row.get("id", f"gsm8k/{part}/{number}"), row | {"explained": explained}
            found.append(Item(name, "gsm8k", texts, answers=(row["answer"],)))
        return found

    train = find_file(folder, "train.jsonl", f"train-{ONE}")
    return Loaded(
        items(need_file(folder, "test.jsonl", f"test-{ONE}"), "test"), {"": items(train, "train") if train else []}
    )


def _cmrc(folder: Path, split: str) -> Loaded:
    path = need_file(folder, "cmrc2018_dev.jsonl", "dev.jsonl", f"validation-{ONE}")
    items = []
    for _, row in json_rows(path, "id", "context", "question", "answers"):
        said = row["answers"]["text"] if isinstance(row["answers"], dict) else row["answers"]
        texts = {"context": row["context"], "question": row["question"]}
        items.append(Item(row["id"], "cmrc", texts, answers=tuple(said)))
    return Loaded(items)


def _humaneval(folder: Path, split: str) -> Loaded:
    names = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    rows = json_rows(need_file(folder, "HumanEval.jsonl", "test.jsonl", f"test-{ONE}"), *names)
    return Loaded([Item(row["task_id"], "humaneval", row, answers=(row["canonical_solution"],)) for _, row in rows])


WRITTEN = {
    "agieval": Benchmark(partial(_agieval, False)),
    "agieval-cloze": Benchmark(partial(_agieval, True), folders=("agieval",)),
    "gaokao": Benchmark(_gaokao, folders=("gaokao", "gaokao_bench", "GAOKAO-Bench")),
    "gsm8k": Benchmark(_gsm8k),
    "humaneval": Benchmark(_humaneval),
    "cmrc": Benchmark(_cmrc, folders=("cmrc", "cmrc2018", "zh_extra")),
}
