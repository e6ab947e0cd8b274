"""Answers that satisfy a JSON schema, or are a call of a tool: llguidance says which tokens may come (extra `serve`).

    request = Request(prompt, sampling, stop_ids, constraint=constrain(opened, {"type": "object"}, stop_ids))
    request = Request(prompt, sampling, stop_ids, constraint=constrain_call(opened, {"weather": {...}}, stop_ids))

A grammar is bounded in size before it is compiled and in work by llguidance's own limits, so a hostile schema costs a
sentence.
"""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model import Opened
from inkstone.tokenizer import Tokenizer

_MAX_SCHEMA_BYTES = 100_000
_AS_TRAINED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Calls in training data are written by json.dumps."""
_AS_THEY_ARE = ("not", "const", "enum", "default", "examples")
_BESIDE = {"anyOf", "oneOf", "$ref", "patternProperties", "unevaluatedProperties"}
"""What may describe further properties of the same object."""


class Grammar:
    """A constraint of the engine."""

    def __init__(self, matcher: Any, vocab_size: int, stop_ids: Collection[int], end_id: int) -> None:
        self.matcher, self.vocab_size, self.end_id = matcher, vocab_size, end_id
        self.stop_ids = [token for token in stop_ids if token < vocab_size]

    def allowed(self) -> Tensor:
        """Marks [V] of what may come next; the stop tokens where the answer is complete."""
        if self.matcher.is_stopped():
            marks = torch.zeros(self.vocab_size, dtype=torch.bool)
            marks[self.stop_ids] = True
            return marks
        bits = torch.frombuffer(bytearray(self.matcher.compute_bitmask()), dtype=torch.uint8)
        marks = (bits[:, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten()[: self.vocab_size].bool()
        may_end = bool(marks[self.end_id])
        marks[self.stop_ids] = may_end
        return marks

    def accept(self, token: int) -> None:
        """The engine chose `token`."""
        self.matcher.consume_token(token)


def constrain(opened: Opened, schema: dict[str, Any], stop_ids: Collection[int]) -> Grammar:
    """What an answer must be to satisfy `schema`. Raises InputError for one that is too large or impossible."""
    return _grammar(opened, _written(schema), False, stop_ids)


def constrain_call(opened: Opened, functions: Mapping[str, dict[str, Any]], stop_ids: Collection[int]) -> Grammar:
    """An answer that is one call, written as chats are trained with; `functions` have the schemas of their arguments.

    Raises InputError as `constrain` does.
    """
    begins = [f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": ' for name in functions]
    calls = " | ".join(f"{json.dumps(begin, ensure_ascii=False)} a{place}" for place, begin in enumerate(begins))
    rules = [rf'start: "<tool_call>\n" ({calls}) "}}\n</tool_call>"']
    for place, schema in enumerate(functions.values()):
        rules.append(f"a{place}: %json {_written({**schema, 'x-guidance': _AS_TRAINED})}")
    return _grammar(opened, "\n".join(rules), True, stop_ids)


def _written(schema: dict[str, Any]) -> str:
    """The schema as JSON, with objects closed where no other part of it can speak of them too."""
    text = json.dumps(schema)
    with suppress(RecursionError):
        text = text if '"allOf"' in text else json.dumps(_closed(schema))
    return text


def _closed(schema: Any) -> Any:
    """Objects have the properties that are described and no others, unless the schema says that they may: a small model
    would go on inventing some."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict) or ("properties" in schema and schema.keys() & _BESIDE):
        return schema
    closed = {name: one if name in _AS_THEY_ARE else _closed(one) for name, one in schema.items()}
    return {"additionalProperties": False, **closed} if isinstance(closed.get("properties"), dict) else closed


def _grammar(opened: Opened, written: str, lark: bool, stop_ids: Collection[int]) -> Grammar:
    """A constraint from a JSON schema, or from a grammar that holds some."""
    try:
        from llguidance import LLMatcher
    except ImportError as error:
        raise InputError("structured output needs llguidance: pip install 'inkstone[serve]'") from error
    if len(written) > _MAX_SCHEMA_BYTES:
        raise InputError(f"the JSON schema has {len(written)} bytes, more than {_MAX_SCHEMA_BYTES}: make it smaller")
    end_id = min(stop_ids, default=None)
    if end_id is None:
        raise InputError("structured output needs a model with an end token")
    try:
        if lark:
            grammar = LLMatcher.grammar_from_lark(written)
        else:
            grammar = LLMatcher.grammar_from_json_schema(written, overrides={"whitespace_flexible": False})
        matcher = LLMatcher(_read(opened.tokenizer, end_id), grammar, log_level=0)
        problem = matcher.get_error() if matcher.is_error() else ""
    except ValueError as error:
        problem = str(error)
    if problem:
        raise InputError(f"the JSON schema cannot be followed: {problem.splitlines()[0][:300]}")
    return Grammar(matcher, opened.tokenizer.vocab_size, stop_ids, end_id)


@lru_cache(maxsize=8)
def _read(tokenizer: Tokenizer, end_id: int) -> Any:
    """The tokenizer as llguidance knows it; reading one takes a second."""
    import llguidance

    return llguidance.LLTokenizer(json.dumps(tokenizer.spec()), tokenizer.vocab_size, end_id)
