"""`inkstone evaluate MODEL --tasks ...`: every task of one model, into one folder that a second call completes.

OUT/run.json          the model, the protocols as values, the versions
OUT/TASK@NAME.jsonl   one row per question
OUT/scores.json       both means, categories, intervals, counts
    OUT/report.md, .html  the same to read, with charts
"""

import json
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock

from inkstone.errors import InputError, gathering
from inkstone.evaluate.protocols import Protocol, find
from inkstone.evaluate.report.figures import figures
from inkstone.evaluate.report.page import write_report
from inkstone.evaluate.run.judged import run_judged
from inkstone.evaluate.run.model import Model
from inkstone.evaluate.run.runner import run_task
from inkstone.evaluate.run.sandbox import require_sandbox
from inkstone.evaluate.tally import evenly
from inkstone.evaluate.tasks import BENCHMARKS, Item, Loaded, load
from inkstone.evaluate.tasks.item import LETTERS
from inkstone.progress import Progress
from inkstone.storage import atomic_file, write_json


def wanted_protocols(tasks: Sequence[str], shots: int | None = None, **written: float | None) -> list[Protocol]:
    """The protocols that `tasks` name, with `written` (max_new_tokens, samples, temperature) where models write.

    Raises InputError naming all that are unknown.
    """
    changes: dict[str, Any] = {name: value for name, value in written.items() if value is not None}
    found, wrong = dict[str, Protocol](), list[str]()
    for text in tasks:
        with gathering(wrong):
            protocol = find(text)
            if shots is not None:
                protocol = replace(protocol, shots=shots)
            if protocol.score in ("write", "judge"):
                protocol = replace(protocol, **changes)
            found.setdefault(file_name(protocol), protocol)
    if wrong or not found:
        raise InputError(wrong or "no tasks: give --tasks, e.g. --tasks cmmlu,mmlu")
    return list(found.values())


def file_name(protocol: Protocol) -> str:
    """Label, and the number of examples where it is not the protocol's own."""
    own = find(protocol.label).shots
    return protocol.label if protocol.shots == own else f"{protocol.label}-{protocol.shots}shot"


def run_benchmarks(
    model: Model,
    protocols: Sequence[Protocol],
    data: Path,
    output: Path,
    progress: Progress,
    limit: int | None = None,
    split: str = "",
    published: bool = False,
    allow_unsandboxed: bool = False,
    judge: Model | None = None,
) -> dict[str, Any]:
    """Answer everything that is missing and return the contents of scores.json."""
    if judge is None and (judged := [one.label for one in protocols if one.score == "judge"]):
        raise InputError(f"{', '.join(judged)}: a judge scores this; give one with --judge URL")
    protocols = [replace(one, judge=judge.name) if judge and one.score == "judge" else one for one in protocols]
    if any(protocol.read.startswith("code") for protocol in protocols):
        require_sandbox(allow_unsandboxed)
    loaded = load_all(protocols, data, split)
    output.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(output / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise InputError(f"another evaluation writes into {output}: wait for it, or give another folder") from error
    with lock:
        _same_model(output, model)
        scores: dict[str, Any] = {"model": model.name, "fingerprint": model.fingerprint, "tasks": _kept(output)}
        for protocol in protocols:
            benchmark, questions = BENCHMARKS[protocol.task], loaded[protocol.task]
            items = [questions.items[index] for index in evenly(len(questions.items), limit or len(questions.items))]
            name = file_name(protocol)
            _note_examples(protocol, questions, items, progress)
            path = output / f"{name}.jsonl"
            if judge and protocol.score == "judge":
                rows = run_judged(model, judge, protocol, items, path, progress)
            else:
                rows = run_task(model, protocol, questions, items, path, progress)
            if protocol.task == "ceval" and split == "test":
                write_submission(rows, output / "ceval_submission.json")
            weights = {item.id: item.weight for item in items}
            found = figures(rows, benchmark.subjects, weights if set(weights.values()) != {1.0} else None)
            found |= {"fingerprint": protocol.fingerprint, "shots": protocol.shots, "score": protocol.score}
            found |= {"limit": limit, "split": split or benchmark.splits[0], "note": protocol.note}
            scores["tasks"][name] = found
            _write_json(output / "scores.json", scores)
        _write_run(output, model, protocols)
        write_report(output, published)
    return scores


def write_submission(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The file that C-Eval's site takes: subject, number of the question, letter."""
    letters: dict[str, dict[str, str]] = {}
    for row in rows:
        chosen = row["prediction"]
        letter = LETTERS[chosen] if isinstance(chosen, int) else chosen or ""
        letters.setdefault(row["subject"], {})[row["id"].rsplit("/", 1)[-1]] = letter
    _write_json(path, letters)


def load_all(protocols: Sequence[Protocol], data: Path, split: str) -> dict[str, Loaded]:
    """Every benchmark once; all that is missing is said in one error."""
    loaded, wrong = dict[str, Loaded](), list[str]()
    for task in dict.fromkeys(protocol.task for protocol in protocols):
        with gathering(wrong):
            loaded[task] = load(task, data, split if split in BENCHMARKS[task].splits else "")
    if wrong:
        raise InputError(wrong)
    return loaded


def _same_model(output: Path, model: Model) -> None:
    path = output / "run.json"
    facts: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        facts = json.loads(path.read_text(encoding="utf-8"))
    if facts.get("fingerprint", model.fingerprint) != model.fingerprint:
        raise InputError(
            f"{output} holds answers of {facts.get('model')} ({facts['fingerprint']}), and this is {model.name} "
            f"({model.fingerprint}): give another folder"
        )
    _write_json(path, facts | {"model": model.name, "fingerprint": model.fingerprint})


def _kept(output: Path) -> dict[str, Any]:
    """Scores of tasks that an earlier call left here."""
    with suppress(OSError, ValueError, KeyError):
        return dict(json.loads((output / "scores.json").read_text(encoding="utf-8"))["tasks"])
    return {}


def _note_examples(protocol: Protocol, loaded: Loaded, items: Sequence[Item], progress: Progress) -> None:
    missing = {item.subject for item in items if len(loaded.examples_of(item.subject)) < protocol.shots}
    if missing:
        progress.note(
            f"{protocol.label} wants {protocol.shots} worked examples and {len(missing)} subjects have fewer "
            f"(e.g. {min(missing)}): they are asked with what there is",
            task=protocol.label,
        )


def _write_run(output: Path, model: Model, protocols: Sequence[Protocol]) -> None:
    path = output / "run.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    known = {file_name(one): asdict(one) | {"fingerprint": one.fingerprint} for one in protocols}
    versions = {name: version(name) for name in ("inkstone", "torch", "tokenizers")}
    facts |= {"protocols": facts.get("protocols", {}) | known, "versions": versions, "machine": platform.machine()}
    _write_json(path, facts)


def _write_json(path: Path, values: object) -> None:
    with atomic_file(path) as draft:
        write_json(draft, values)
