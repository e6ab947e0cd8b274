"""From deltas to the parts of an OpenAI answer: text, log-probabilities, usage, and why it ended."""

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inkstone.generate import Delta, SamplingSettings, Shown, TextStream
from inkstone.generate.request import Top
from inkstone.serve.models import Loaded
from inkstone.serve.requests import Asked
from inkstone.serve.runner import Flow
from inkstone.tokenizer import Tokenizer

_SAMPLING = (
    "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias",
    "min_tokens",
)  # fmt: skip
_encode = json.JSONEncoder(ensure_ascii=False).encode


@dataclass
class Answer:
    """One choice as it grows."""

    stream: TextStream
    text: str = ""
    deltas: list[Delta] = field(default_factory=list)
    finish: str | None = None


@dataclass(frozen=True)
class Event:
    """A new piece of one choice; with `index` None nothing but a sign of life."""

    index: int | None
    text: str = ""
    deltas: Sequence[Delta] = ()
    finish: str | None = None


def answers_of(loaded: Loaded, count: int, stops: Sequence[str], chat: bool) -> list[Answer]:
    """Empty answers. A chat's begin at their first word and have the template's replacements."""
    template = loaded.opened.template if chat else None
    marks = template.replacements if template else ()
    return [
        Answer(TextStream(loaded.opened.tokenizer, Shown(stops, marks, from_first_word=chat))) for _ in range(count)
    ]


async def events(flow: Flow, answers: Sequence[Answer]) -> AsyncIterator[Event]:
    """What happens to the answers until all have ended."""
    while not flow.done:
        told = await flow.next()
        if not told:
            yield Event(None)
        for index in dict.fromkeys(index for index, _ in told if not answers[index].finish):
            answer = answers[index]
            new, used = _grow(answer, [delta for one, delta in told if one == index])
            if answer.finish and not used[-1].finish:
                flow.cancel(index)
            yield Event(index, new, used, answer.finish)


def _grow(answer: Answer, deltas: Sequence[Delta]) -> tuple[str, list[Delta]]:
    """The text that an answer gets, and the deltas that count: none after a stop string."""
    new, used = "", list[Delta]()
    for delta in deltas:
        used.append(delta)
        if delta.token is not None:
            answer.deltas.append(delta)
            new += answer.stream.push(delta.token)
        stopped = answer.stream.shown.stopped is not None
        if stopped or delta.finish:
            new += answer.stream.close()
            answer.finish = "stop" if stopped else delta.finish
            break
    answer.text += new
    return new, used


def sampling_of(loaded: Loaded, asked: Asked, longest: int | None, prompt: Sequence[int]) -> SamplingSettings:
    """The request's sampling: what it leaves open is the model's own."""
    own = loaded.sampling
    room = (loaded.opened.model.position_limit or 2**31) - len(prompt)
    limit = min(own.max_new_tokens, max(room, 1)) if longest is None else max(longest, 1)
    said = {name: value for name in _SAMPLING if (value := getattr(asked, name)) is not None}
    said["top_k"] = own.top_k if asked.top_k is None else max(asked.top_k, 0)
    said["seed"] = uuid.uuid4().int % 2**63 if asked.seed is None else asked.seed
    return own.model_copy(update=said | {"max_new_tokens": limit})


def head(kind: str, loaded: Loaded, prefix: str) -> dict[str, Any]:
    """The fields that every answer begins with."""
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": loaded.name}


def sse(content: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {_encode(content)}\n\n"


def usage(prompts: Sequence[Sequence[int]], answers: Sequence[Answer]) -> dict[str, int]:
    """Tokens of the prompts, each counted once, and of all choices."""
    given, made = sum(map(len, prompts)), sum(len(answer.deltas) for answer in answers)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; one that is only a part of a character by its name."""
    text = tokenizer.decode([token], continued=True)
    return tokenizer.token_name(token) if not text or "\N{REPLACEMENT CHARACTER}" in text else text


def chat_logprobs(tokenizer: Tokenizer, deltas: Sequence[Delta], most: int) -> list[dict[str, Any]]:
    """The `content` of a chat choice's logprobs."""
    return [
        {
            **_one(tokenizer, delta.token, delta.logprob),
            "top_logprobs": [_one(tokenizer, token, value) for token, value in delta.top[:most]],
        }
        for delta in deltas
        if delta.token is not None and delta.logprob is not None
    ]


def _one(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    text = token_text(tokenizer, token)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8"))}


def completion_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[int], logprobs: Sequence[float | None], tops: Sequence[Top], offset: int = 0
) -> dict[str, Any]:
    """A completion choice's logprobs: four lists of equal length."""
    texts = [token_text(tokenizer, token) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    best = [{token_text(tokenizer, token): value for token, value in top} or None for top in tops]
    return {"tokens": texts, "token_logprobs": list(logprobs), "top_logprobs": best, "text_offset": offsets}
