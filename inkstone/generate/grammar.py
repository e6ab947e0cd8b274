"""Answers that satisfy a JSON schema: llguidance says which tokens may come next (extra `serve`).

    request = Request(prompt, sampling, stop_ids, constraint=constrain(opened, {"type": "object"}, stop_ids))

A grammar is bounded in size before it is compiled and in work by llguidance's own limits, so a hostile schema costs a
sentence.
"""

import json
from collections.abc import Collection
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from inkstone.errors import InputError
from inkstone.model import Opened
from inkstone.tokenizer import Tokenizer

_MAX_SCHEMA_BYTES = 100_000


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
    try:
        import llguidance
    except ImportError as error:
        raise InputError("structured output needs llguidance: pip install 'inkstone[serve]'") from error
    written = json.dumps(schema)
    if len(written) > _MAX_SCHEMA_BYTES:
        raise InputError(f"the JSON schema has {len(written)} bytes, more than {_MAX_SCHEMA_BYTES}: make it smaller")
    end_id = min(stop_ids, default=None)
    if end_id is None:
        raise InputError("structured output needs a model with an end token")
    try:
        grammar = llguidance.LLMatcher.grammar_from_json_schema(written, overrides={"whitespace_flexible": False})
        matcher = llguidance.LLMatcher(_read(opened.tokenizer, end_id), grammar, log_level=0)
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
