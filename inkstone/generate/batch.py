"""Batch work: a file of prompts in, a file of answers out, several for each prompt if asked; a killed call goes on.

    answer_file(opened, Path("prompts.jsonl"), Path("answers.jsonl"), BatchWork(sampling, n=4), progress)

Every row is checked before anything is computed. Answers are appended to `answers.jsonl.part` as they are complete,
below a line that says what was asked; a second call with the same question goes on there, and the file that appears in
the end is in the order of the prompts, whatever was killed. Sample s of row r draws from seed + r * n + s.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inkstone.chat import encode_chat
from inkstone.chat.formats import read_prompt
from inkstone.chat.rows import Row, UnreadableFile, read_rows
from inkstone.errors import InputError
from inkstone.generate.engine import Engine
from inkstone.generate.grammar import constrain
from inkstone.generate.request import Request
from inkstone.generate.sampler import SamplingSettings
from inkstone.generate.text import Shown, TextStream
from inkstone.model import BLOCK, Opened
from inkstone.progress import Progress
from inkstone.storage import atomic_file, file_sha256, fingerprint
from inkstone.storage.atomic import append_line

_SHOWN = 20  # problems in one message


@dataclass(frozen=True)
class BatchWork:
    """What is asked of every prompt."""

    sampling: SamplingSettings
    model: str = ""
    """Whose answers these are: another model's are not gone on with."""
    n: int = 1
    stops: Sequence[str] = ()
    schema: dict[str, Any] | None = None
    rows: int = 32
    """Requests that are decoded together."""
    lookup: int = 0
    """Tokens guessed at a time."""


@dataclass(frozen=True)
class _Prompt:
    number: int
    name: object
    ids: list[int]
    chat: bool


def answer_file(opened: Opened, source: Path, output: Path, work: BatchWork, progress: Progress) -> None:
    """Answer every row of `source`. Raises InputError naming each row that is no prompt or too long."""
    prompts = _read(opened, source)
    part = output.with_name(f"{output.name}.part")
    asked = {
        "prompts": file_sha256(source), "model": work.model, "n": work.n, "stops": list(work.stops),
        "schema": work.schema, **work.sampling.model_dump(mode="json"),
    }  # fmt: skip
    known = _begin(part, fingerprint(asked))
    todo = [
        (place, sample) for place in range(len(prompts)) for sample in range(work.n) if (place, sample) not in known
    ]
    if known:
        progress.note(f"{len(known)} answers are there already; {len(todo)} are left")
    for place, sample, answer in _answers(opened, prompts, todo, work):
        known[place, sample] = answer
        append_line(part, json.dumps([place, sample, answer], ensure_ascii=False))
        progress.advance(len(known), len(prompts) * work.n, "answers")
    with atomic_file(output) as draft:
        lines = (json.dumps(known[key], ensure_ascii=False) + "\n" for key in sorted(known))
        draft.write_text("".join(lines), encoding="utf-8")
    part.unlink()


def _read(opened: Opened, source: Path) -> list[_Prompt]:
    prompts, problems = [], []
    try:
        for number, row in read_rows(source):
            try:
                ids, chat = ([], False) if isinstance(row, str) else _ids(opened, row)
                fault = row if isinstance(row, str) else _too_long(opened, ids)
            except InputError as error:
                ids, chat, fault = [], False, str(error)
            problems += [f"{source}:{number} {fault}"] if fault else []
            prompts.append(_Prompt(number, row.get("id", number) if isinstance(row, dict) else number, ids, chat))
    except UnreadableFile as error:
        raise InputError(f"{source} {error}") from error
    if problems or not prompts:
        more = [f"... and {len(problems) - _SHOWN} rows more"] if len(problems) > _SHOWN else []
        raise InputError(problems[:_SHOWN] + more or f"{source} holds no prompts")
    return prompts


def _ids(opened: Opened, row: Row) -> tuple[list[int], bool]:
    """The ids of a row, and whether it is a conversation. Raises InputError for one that is neither."""
    strange = sorted(set(row) - {"id", "prompt", "messages", "tools"})
    if strange:
        raise InputError(f"{strange[0]}: is not read; a row has prompt, or messages (and tools), and an id if you like")
    if ("prompt" in row) == ("messages" in row):
        raise InputError("prompt: a row has either prompt (a text) or messages")
    if "messages" not in row:
        text = row["prompt"]
        if not isinstance(text, str) or text != text.encode("utf-8", "ignore").decode():
            raise InputError("prompt: is not a text")
        return [*opened.tokenizer.start_ids, *opened.tokenizer.encode(text)], False
    if opened.template is None:
        raise InputError("messages: this model has no chat template: give --template NAME, or rows with prompt")
    messages, faults = read_prompt(row)
    if faults:
        raise InputError("; ".join(f"{field}: {fault}" for field, fault in faults))
    ids, _ = encode_chat(messages, opened.template, opened.tokenizer, add_generation_prompt=True)
    return ids, True


def _too_long(opened: Opened, ids: Sequence[int]) -> str:
    limit = opened.model.position_limit
    if not ids:
        return "prompt: has no tokens"
    return f"has {len(ids)} tokens; the model takes {limit - 1}" if limit is not None and len(ids) >= limit else ""


def _begin(part: Path, asked: str) -> dict[tuple[int, int], dict[str, object]]:
    """The answers that an earlier call with this question left. Raises InputError where it was another question."""
    if not part.is_file():
        append_line(part, json.dumps(asked))
        return {}
    whole = part.read_bytes().rpartition(b"\n")[0]
    first, *lines = whole.split(b"\n")
    if json.loads(first or b"null") != asked:
        raise InputError(f"{part} was begun with other prompts, model or options: remove it, or choose another -o")
    part.write_bytes(whole + b"\n")  # a kill may have cut the last line
    return {(place, sample): answer for place, sample, answer in map(json.loads, lines)}


def _answers(
    opened: Opened, prompts: Sequence[_Prompt], todo: Sequence[tuple[int, int]], work: BatchWork
) -> Iterator[tuple[int, int, dict[str, object]]]:
    """(place of the prompt, sample, answer) as each is complete."""
    sizes = sorted((len(prompts[place].ids) for place, _ in todo), reverse=True)[: work.rows]
    blocks = sum(-(-(size + work.sampling.max_new_tokens) // BLOCK) for size in sizes)
    engine = Engine(opened.model, blocks * BLOCK, work.rows, lookup=work.lookup, draft=opened.draft)
    left = iter(todo)
    running: dict[int, tuple[int, int, TextStream, list[str], list[int]]] = {}
    while True:
        for place, sample in left:
            number = engine.submit(_request(opened, prompts[place], place * work.n + sample, work))
            running[number] = place, sample, _stream(opened, prompts[place], work.stops), [], []
            if len(engine.waiting) >= work.rows:
                break
        if not engine.busy:
            return
        for delta in engine.step():
            place, sample, stream, text, tokens = running[delta.id]
            if delta.token is not None:
                tokens.append(delta.token)
                text.append(stream.push(delta.token))
            stopped = stream.shown.stopped is not None
            if stopped and not delta.finish:
                engine.cancel(delta.id)
            if stopped or delta.finish:
                text.append(stream.close())
                del running[delta.id]
                yield place, sample, {
                    "id": prompts[place].name, "sample": sample, "text": "".join(text),
                    "finish": "stop" if stopped else delta.finish, "tokens": len(tokens),
                }  # fmt: skip


def _request(opened: Opened, prompt: _Prompt, offset: int, work: BatchWork) -> Request:
    sampling = work.sampling.model_copy(update={"seed": work.sampling.seed + offset})
    stops: Collection[int] = opened.stop_ids
    constraint = constrain(opened, work.schema, stops) if work.schema is not None else None
    return Request(prompt.ids, sampling, stops, constraint=constraint)


def _stream(opened: Opened, prompt: _Prompt, stops: Sequence[str]) -> TextStream:
    marks = opened.template.replacements if prompt.chat and opened.template else ()
    return TextStream(opened.tokenizer, Shown(stops, marks, from_first_word=prompt.chat))
