"""Calls of tools in the text of an answer, as ChatML models write them (Hermes, Qwen)."""

import json
import re
import uuid
from typing import Any

CALL_END = "</tool_call>"
_BEGIN, _END = re.compile(r"<tool_call>\s*(?=\{)"), re.compile(rf"\s*{CALL_END}")


def split_calls(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The text without its calls, and the calls that are complete and valid."""
    calls: list[dict[str, Any]] = []
    kept, place = "", 0
    for begin in _BEGIN.finditer(text):
        try:
            call, end = json.JSONDecoder().raw_decode(text, begin.end())
        except (ValueError, RecursionError):
            continue
        closed = _END.match(text, end)
        if begin.start() < place or not closed or not isinstance(call.get("name"), str):
            continue  # the first: marks in an argument's text
        arguments = json.dumps(call.get("arguments", {}), ensure_ascii=False)
        function = {"name": call["name"], "arguments": arguments}
        calls.append({"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function})
        kept, place = kept + text[place : begin.start()], closed.end()
    return ((kept + text[place:]).strip() if calls else text), calls
