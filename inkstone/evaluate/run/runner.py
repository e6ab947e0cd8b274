"""One runner for every benchmark: asks what is missing, keeps each answer as it comes, and reads it.

    rows = run_task(model, protocol, loaded, output / "cmmlu@official.jsonl", progress)

A row is kept under the fingerprints of model and protocol and the hash of its prompt, so a second call after a kill
asks only what is missing, and an answer to another prompt is never taken for this one's.
"""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inkstone.errors import InkstoneError
from inkstone.evaluate.protocols import Ask, Protocol, build, choose_examples
from inkstone.evaluate.protocols.code import READERS
from inkstone.evaluate.run.model import Model, Said
from inkstone.evaluate.tally import likeliest
from inkstone.evaluate.tasks import Item, Loaded
from inkstone.progress import Progress
from inkstone.storage import append_line, atomic_file, fingerprint, write_json_lines

Row = dict[str, Any]


def ask_all(protocol: Protocol, loaded: Loaded, items: Sequence[Item]) -> list[Ask]:
    """Every item's question. Examples are chosen over all of the benchmark, so that a part of it is asked alike."""
    pools = [loaded.examples_of(item.subject) for item in loaded.items]
    chosen = dict(zip((item.id for item in loaded.items), choose_examples(protocol, loaded.items, pools), strict=True))
    return [build(protocol, item, chosen[item.id]) for item in items]


def run_task(
    model: Model, protocol: Protocol, loaded: Loaded, items: Sequence[Item], path: Path, progress: Progress
) -> list[Row]:
    """One row per item, in order; what `path` holds already is not asked again."""
    asks = ask_all(protocol, loaded, items)
    asked = fingerprint([model.fingerprint, protocol.fingerprint])[:12]
    pairs = zip(items, asks, strict=True)
    keys = [f"{asked}-{fingerprint([item.id, prompt_hash(ask)])[:12]}" for item, ask in pairs]
    # What was asked in another way is dropped; what another --limit asked stays.
    found = read_rows(path)
    kept = {row["key"]: row for row in found if row["key"].startswith(asked)}
    if len(kept) < len(found):
        _write(path, list(kept.values()))
    rows = {index: kept.pop(key) for index, key in enumerate(keys) if key in kept}
    missing = [index for index in range(len(items)) if index not in rows]
    before = time.perf_counter()
    for index, said in model.answer(protocol, asks, missing) if missing else ():
        now = time.perf_counter()
        if index not in rows:
            facts = {"key": keys[index], "prompt": prompt_hash(asks[index]), "seconds": round(now - before, 6)}
            rows[index] = verdict(protocol, items[index], said) | facts
            append_line(path, json.dumps(rows[index], ensure_ascii=False))
        before = now
        progress.advance(len(rows), len(items), "questions", task=protocol.label)
    ordered = [rows[index] for index in range(len(items))]
    if missing:
        _write(path, [*ordered, *kept.values()])
    return ordered


def verdict(protocol: Protocol, item: Item, said: Said) -> Row:
    """What was answered and what it is worth, as one row."""
    row: Row = {"id": item.id, "subject": item.subject, "tokens": said.tokens}
    row |= {"dropped": said.dropped, "cut": said.cut}
    if protocol.score != "write":
        return row | _chosen(protocol, item, said)
    read = [READERS[protocol.read](text, item) for text in said.texts]
    row |= {"texts": list(said.texts), "prediction": read[0].prediction, "gold": list(item.answers or item.gold)}
    row |= {"score": math.fsum(one.score for one in read) / len(read), "also": dict(read[0].also)}
    row["parsed"] = all(one.prediction is not None for one in read)
    return row | ({"scores": [one.score for one in read]} if len(read) > 1 else {})


def _chosen(protocol: Protocol, item: Item, said: Said) -> Row:
    if any(map(math.isnan, said.values)):
        raise InkstoneError(f"The model gives NaN for {item.id}: its weights are damaged or its training diverged.")
    row: Row = {"values": [round(value, 5) for value in said.values], "gold": list(item.gold or item.answers)}
    if not item.choices:  # one ending: is it what the model would write?
        found = {"score": float(said.greedy[0]), "also": {"nats": -said.values[0]}, "parsed": True}
        return row | found | {"prediction": said.greedy[0]}
    chosen = likeliest(said.values)
    row |= {"prediction": chosen, "parsed": True, "score": float(chosen in item.gold)}
    if protocol.score == "character":
        by_length = [value / len(choice) for value, choice in zip(said.values, item.choices, strict=True)]
        row |= {"prediction": likeliest(by_length), "also": {"by_sum": row["score"]}}
        row["score"] = float(row["prediction"] in item.gold)
    return row


def prompt_hash(ask: Ask) -> str:
    return fingerprint(
        [ask.system, ask.rounds(ask.examples) if ask.turns else ask.prompt(), ask.contexts, ask.endings]
    )[:16]


def read_rows(path: Path) -> list[Row]:
    """The rows that are whole; a kill may have cut the last one."""
    if not path.is_file():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    try:
        rows = [json.loads(line) for line in whole.splitlines() if line]
    except ValueError as error:
        raise InkstoneError(f"{path} is damaged ({error}): remove it, and its questions are asked again") from error
    if len(whole) + 1 < path.stat().st_size:
        _write(path, rows)
    return rows


def _write(path: Path, rows: Sequence[Row]) -> None:
    with atomic_file(path) as draft:
        write_json_lines(draft, rows)
