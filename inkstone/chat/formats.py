"""Turn one row of a known layout into messages, collecting every fault instead of stopping at the first.

A layout is detected once per file from the fields of its rows: a list of turns (OpenAI `messages`, ShareGPT
`conversations`) or an instruction and its answer (Alpaca). Faults are (field, what is wrong) pairs.
"""

import json
import re
from dataclasses import dataclass

from inkstone.chat.messages import Message, Preference, Role, Verdict
from inkstone.chat.rows import Row

Fault = tuple[str, str]
Labelled = tuple[str, Message]

_TURN_FIELDS = ("messages", "conversations", "conversation")
_MOSS = "chat"
"""Fudan's MOSS: an object of turns, each with marked texts of the person, the model and its tools."""
_PROMPT_FIELDS = ("instruction", "prompt", "question", "query", "content")
_ANSWER_FIELDS = ("output", "response", "answer", "completion", "summary")
_REJECTED_FIELDS = ("rejected", "reject")
_VERDICT_FIELDS = ("label", "kto_tag")
_SPEAKERS: dict[Role, str] = {
    "system": "system developer",
    "user": "user human",
    "assistant": "assistant gpt chatgpt bing bard model bot function_call tool_call",
    "tool": "tool function observation tool_response",
}
_ROLE_NAMES = {name: role for role, names in _SPEAKERS.items() for name in names.split()}
_FOREIGN_WEIGHTS = ("mask", "loss", "trainable", "training", "train_detail", "train_on_turn", "loss_mask")
"""Fields of a turn by which other trainers choose what is learned."""
_INPUT_FIELDS = ("input", "context")
"""What an instruction is about: Alpaca's name and Dolly's."""
_SYSTEM_FIELDS = ("system", "meta_instruction", "system_prompt")
_MEDIA_FIELDS = ("image", "images", "video", "videos", "audio", "audios")
_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""What a model thought before it answered, as servers give it; models write it in <think> marks (DeepSeek, Qwen)."""
EXPECTED_CHAT = (
    '"messages" or "conversations" with a list of turns, or "instruction" and "output" '
    f"(also {', '.join(_PROMPT_FIELDS[1:])} and {', '.join(_ANSWER_FIELDS[1:])})"
)
EXPECTED_PREFERENCE = (
    '"chosen" and "rejected" (or "reject") beside "prompt", "instruction", "messages" or "conversations"'
)

EXPECTED_TEXT = '"text"'
EXPECTED_VERDICT = f"{' or '.join(_VERDICT_FIELDS)} (true or false) beside a conversation"


@dataclass(frozen=True)
class Layout:
    """Which fields hold the conversation: a list of `turns`, or a `prompt` with its `answer`."""

    turns: str | None
    prompt: str = ""
    answer: str = ""


def detect_chat(row: Row) -> Layout | None:
    """The layout of a row with a conversation, or None."""
    for field in _TURN_FIELDS:
        if field in row:
            return Layout(field)
    if isinstance(row.get(_MOSS), dict):
        return Layout(_MOSS)
    prompt = next((field for field in _PROMPT_FIELDS if field in row), None)
    answer = next((field for field in _ANSWER_FIELDS if field in row), None)
    return Layout(None, prompt, answer) if prompt and answer else None


def detect_preference(row: Row) -> Layout | None:
    """The layout of a row with a prompt, a chosen and a rejected answer, or None."""
    if "chosen" not in row or _rejected(row) is None:
        return None
    row = _apart(row)
    for field in ("prompt", *_TURN_FIELDS):
        if isinstance(row.get(field), list):
            return Layout(field)
    prompt = next((field for field in _PROMPT_FIELDS if field in row), None)
    return Layout(None, prompt) if prompt else None


def _apart(row: Row) -> Row:
    """Whole conversations that differ in their last turn (UltraFeedback, TRL), as what was asked and two answers."""
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get(_rejected(row) or "")
    if not (isinstance(chosen, list) and isinstance(rejected, list) and len(chosen) > 1):
        return row
    asked = chosen[:-1]
    if asked != rejected[:-1] or (isinstance(prompt, list) and prompt != asked[: len(prompt)]):
        return row
    rest = {key: value for key, value in row.items() if key not in ("prompt", *_TURN_FIELDS)}
    return {**rest, "messages": asked, "chosen": chosen[-1], _rejected(row) or "": rejected[-1]}


def _rejected(row: Row) -> str | None:
    return next((field for field in _REJECTED_FIELDS if field in row), None)


def read_chat(row: Row, layout: Layout) -> tuple[list[Message], list[Fault]]:
    """The conversation of a row; it is usable when there are no faults."""
    faults: list[Fault] = []
    for field in _VERDICT_FIELDS:
        if isinstance(row.get(field), bool):
            faults.append(
                (field, "marks the answer as good or bad, so the row is not simply a conversation to imitate")
            )
    turns = _conversation(row, layout, faults)
    if layout.answer:
        turns.append((layout.answer, Message("assistant", _text(row.get(layout.answer), layout.answer, faults))))
    if turns:
        _check_order(turns, faults)
        if turns[-1][1].role != "assistant":
            faults.append((turns[-1][0], f"the last turn is the {turns[-1][1].role}'s, so there is no answer to learn"))
    return [message for _, message in turns], faults


def detect_verdict(row: Row) -> Layout | None:
    """The layout of a conversation with a verdict (TRL's `label`, LLaMA-Factory's `kto_tag`), or None."""
    return detect_chat(_one_list(row)) if any(field in row for field in _VERDICT_FIELDS) else None


def read_verdict(row: Row, layout: Layout) -> tuple[Verdict, list[Fault]]:
    """The conversation of a row and whether its last answer is good; it is usable when there are no faults."""
    field = next((field for field in _VERDICT_FIELDS if field in row), _VERDICT_FIELDS[0])
    chat, faults = read_chat({key: value for key, value in _one_list(row).items() if key != field}, layout)
    if not isinstance(row.get(field), bool):
        faults.append((field, "must be true or false"))
    return Verdict(chat, row.get(field) is True), faults


def _one_list(row: Row) -> Row:
    """TRL's `prompt` and `completion` as lists of turns are one conversation."""
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return {**row, "messages": [*prompt, *completion]}
    return row


def detect_text(row: Row) -> Layout | None:
    """Any row may be a text, or lack it."""
    return Layout(None)


def read_text(row: Row, layout: Layout) -> tuple[str, list[Fault]]:
    """Plain text to learn whole."""
    text = row.get("text")
    return (text, []) if isinstance(text, str) else ("", [("text", "is missing or no string")])


def read_prompt(row: Row, goes_on: bool = False) -> tuple[list[Message], list[Fault]]:
    """OpenAI messages to be answered: they end before the assistant's turn, or in it where it `goes_on`.

    Clients send what no training row has: several system turns, several of the user in a row (joined by an empty line),
    an answer that was stopped before its first word (left out), a greeting, a system turn alone.
    """
    faults: list[Fault] = []
    turns: list[Labelled] = []
    for label, turn in _turns(row.get("messages"), "messages", faults, silent=("system", "assistant")):
        if turns and turn.role in ("system", "user") and turns[-1][1].role == turn.role:
            label, before = turns.pop()
            turn = Message(turn.role, f"{before.content}\n\n{turn.content}")
        turns.append((label, turn))
    turns = _with_system(row, turns, faults)
    if turns:
        _check_order(turns, faults, prompt=True)
        ends_open = turns[-1][1].role == "assistant"
        if ends_open and not goes_on:
            faults.append((turns[-1][0], "is the assistant's, so there is nothing to answer: end with the user's turn"))
        if goes_on and not ends_open:
            faults.append((turns[-1][0], "is not the assistant's, so there is no message to go on with"))
    return [message for _, message in turns], faults


def read_preference(row: Row, layout: Layout) -> tuple[Preference, list[Fault]]:
    """The pair of a row; it is usable when there are no faults."""
    faults: list[Fault] = []
    row = _apart(row)
    turns = _conversation(row, layout, faults)
    if turns:
        _check_order(turns, faults)
        if turns[-1][1].role == "assistant":
            faults.append((turns[-1][0], "the prompt ends with an assistant turn, before the answers"))
    worse = _rejected(row) or _REJECTED_FIELDS[0]
    chosen, rejected = (_answer(row.get(field), field, faults) for field in ("chosen", worse))
    if chosen and chosen.strip() == rejected.strip():
        faults.append((worse, "is the same text as chosen"))
    lang = row.get("lang")
    return Preference(
        [message for _, message in turns], chosen, rejected, lang if isinstance(lang, str) else None
    ), faults


def _conversation(row: Row, layout: Layout, faults: list[Fault]) -> list[Labelled]:
    """System and turns as they stand in the row; for an instruction also its history, but not its answer."""
    media = [field for field in _MEDIA_FIELDS if row.get(field)]
    faults += [(field, "is not read, so the model would learn to speak of what it never sees") for field in media]
    if layout.turns:
        value = row.get(layout.turns)
        turns = _turns(_moss_turns(value) if layout.turns == _MOSS else value, layout.turns, faults)
    else:
        turns = _history(row.get("history"), faults)
        request = [row.get(field) for field in (layout.prompt, *_INPUT_FIELDS)]
        parts = [part for part in request if not (part is None or (isinstance(part, str) and not part.strip()))]
        texts = [_text(part, layout.prompt, faults) for part in parts or [row.get(layout.prompt)]]
        input_at = len(texts[0]) + 1 if len(texts) > 1 else None
        turns.append((layout.prompt, Message("user", "\n".join(texts), input_at=input_at)))
    return _with_system(row, turns, faults)


def _with_system(row: Row, turns: list[Labelled], faults: list[Fault]) -> list[Labelled]:
    """Put the row's `system` (unless the turns bring one) and its `tools` into a first system turn."""
    label, system = "system", ""
    if turns and turns[0][1].role == "system":
        (label, message), *turns = turns
        system = message.content
    elif field := next((field for field in _SYSTEM_FIELDS if row.get(field)), None):
        system = _text(row[field], field, faults)
    tools = row.get("tools") or row.get("functions")
    described = tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False) if tools else ""
    if described.strip() not in ("", "[]"):
        system = f"{system}\n\n{described}".strip()
    return [(label, Message("system", system)), *turns] if system else turns


def _turns(value: object, field: str, faults: list[Fault], silent: tuple[Role, ...] = ("system",)) -> list[Labelled]:
    """The turns of a list; empty ones of a `silent` role are left out."""
    if not isinstance(value, list) or not value:
        faults.append((field, "is missing" if value is None else "must be a list with at least one turn"))
        return []
    turns: list[Labelled] = []
    readable = True
    for number, turn in enumerate(value):
        label = f"{field}[{number}]"
        if not isinstance(turn, dict):
            faults.append((label, "must be an object with a role and a content"))
            readable = False
            continue
        name = turn.get("role", turn.get("from"))
        role = _ROLE_NAMES.get(name.lower()) if isinstance(name, str) else None
        if role is None:
            faults.append((label, f"unknown role {json.dumps(name, ensure_ascii=False)}"))
            readable = False
            continue
        if role in silent and not turn.get("tool_calls") and turn.get("content", turn.get("value")) in ("", None):
            continue
        turns.append((label, Message(role, _content(turn, label, faults), _loss_weight(turn, label, faults))))
    return turns if readable else []  # the order of half a conversation says nothing


def _moss_turns(value: object) -> object:
    """MOSS's turns as others write them; a call of tools and its results stand before the answer, thoughts do not."""
    turns: list[Row] = []
    for turn in value.values() if isinstance(value, dict) else ():
        said = turn if isinstance(turn, dict) else {}
        human, call, results, answer = (
            _unmarked(said.get(name)) for name in ("Human", "Commands", "Tool Responses", "MOSS")
        )
        turns.append({"role": "user", "content": human})
        if call not in (None, "None"):
            turns += [{"role": "assistant", "content": call}, {"role": "tool", "content": results}]
        turns.append({"role": "assistant", "content": answer})
    return turns


def _unmarked(text: object) -> object:
    """Without MOSS's marks: <|Human|>: ... <eoh>."""
    return re.sub(r"^\s*<\|[\w ]+\|>:\s*|\s*<eo[a-z]>\s*$", "", text) if isinstance(text, str) else text


def _content(turn: Row, label: str, faults: list[Fault]) -> str:
    """What a turn says, and before it what was thought."""
    said, field = _said(turn, label, faults), next((field for field in _THOUGHT_FIELDS if turn.get(field)), None)
    if field is None:
        return said
    return f"<think>\n{_text(turn[field], f'{label}.{field}', faults).strip()}\n</think>\n\n{said.lstrip()}"


def _said(turn: Row, label: str, faults: list[Fault]) -> str:
    """The text of a turn: a string, or OpenAI's list of text parts; calls of tools behind it."""
    field = "content" if "content" in turn or "role" in turn else "value"
    value = turn.get(field)
    if called := next((name for name in ("tool_calls", "function_call") if turn.get(name)), None):
        calls = _calls(turn[called], f"{label}.{called}", faults)
        return "\n".join([value, *calls] if isinstance(value, str) and value else calls)
    if not isinstance(value, list):
        return _text(value, f"{label}.{field}", faults)
    texts = []
    for number, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or kind != "text":
            faults.append((f"{label}.{field}[{number}]", f"only parts of type text are read, not {json.dumps(kind)}"))
        else:
            texts.append(_text(part.get("text", part.get("value")), f"{label}.{field}[{number}]", faults))
    if not value:
        faults.append((f"{label}.{field}", "is empty"))
    return "".join(texts)


def _calls(calls: object, label: str, faults: list[Fault]) -> list[str]:
    """OpenAI's calls as ChatML models write them (Hermes, Qwen): a JSON object in <tool_call> marks for each."""
    written = []
    for number, call in enumerate(calls if isinstance(calls, list) else [calls]):
        function = call.get("function", call) if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str):
            faults.append((f"{label}[{number}]", "must be an object with a function's name and arguments"))
            continue
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                faults.append((f"{label}[{number}].arguments", "is not valid JSON"))
        said = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
        written.append(f"<tool_call>\n{said}\n</tool_call>")
    return written


def _loss_weight(turn: Row, label: str, faults: list[Fault]) -> float | None:
    """Ours is `loss_weight`; `weight` is OpenAI's, `train` false means 0."""
    foreign = [field for field in _FOREIGN_WEIGHTS if field in turn]
    faults += [(f"{label}.{field}", "is not read, but chooses what is learned: use loss_weight") for field in foreign]
    if turn.get("train") is False:
        return 0.0
    field = "loss_weight" if "loss_weight" in turn else "weight"
    value = turn.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        faults.append((f"{label}.{field}", "must be a number of at least 0"))
        return None
    return float(value)


def _history(value: object, faults: list[Fault]) -> list[Labelled]:
    if value is None:
        return []
    if not isinstance(value, list):
        faults.append(("history", "must be a list of [question, answer] pairs"))
        return []
    turns: list[Labelled] = []
    roles: tuple[Role, Role] = ("user", "assistant")
    for number, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) != 2:
            faults.append((f"history[{number}]", "must be a [question, answer] pair"))
            continue
        for place, (role, text) in enumerate(zip(roles, pair, strict=True)):
            label = f"history[{number}][{place}]"
            turns.append((label, Message(role, _text(text, label, faults))))
    return turns


def _answer(value: object, field: str, faults: list[Fault]) -> str:
    """A preferred or rejected answer: a string, one turn, or a list with one turn."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        return _content(value, field, faults)
    return _text(value, field, faults)


def _text(value: object, field: str, faults: list[Fault]) -> str:
    if not isinstance(value, str):
        faults.append((field, "is missing" if value is None else "must be a string"))
        return ""
    if not value.strip():
        faults.append((field, "is empty"))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        faults.append((field, f"has a lone surrogate at character {error.start}, which is not valid Unicode"))
    return value


def _check_order(turns: list[Labelled], faults: list[Fault], prompt: bool = False) -> None:
    """System first, then the user, then answers and questions in turn; a tool speaks between two assistant turns.

    A `prompt` may end after the system, and the assistant may speak first.
    """
    allowed = {"user": {"assistant"}, "assistant": {"user", "tool"}, "tool": {"assistant", "tool"}}
    spoken = turns[1:] if turns[0][1].role == "system" else turns
    if not spoken and not prompt:
        faults.append((turns[0][0], "is the only turn"))
    before: Role | None = None
    for label, message in spoken:
        role = message.role
        if role == "system":
            faults.append((label, "a system turn may only stand first"))
        elif before is None and role != "user" and not (prompt and role == "assistant"):
            faults.append((label, f"the conversation begins with the {role}, not with the user"))
        elif before == role != "tool":
            faults.append((label, f"two {role} turns in a row"))
        elif before is not None and before != "system" and before not in allowed[role]:
            faults.append((label, f"a {role} turn cannot follow a {before} turn"))
        before = role
