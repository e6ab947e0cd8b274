"""/v1/completions: prompts as text or ids, continued; with `echo` and `logprobs` they are scored too."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from inkstone.errors import InputError
from inkstone.generate import Delta, Request
from inkstone.generate.request import TokenScore
from inkstone.serve.answers import Answer, answers_of, completion_logprobs, events, head, sampling_of, sse, usage
from inkstone.serve.models import Loaded
from inkstone.serve.requests import CompletionRequest


class Completion:
    """One request on its way: `prompts` as ids, `requests` for the engine, one answer for each prompt and sample."""

    def __init__(self, loaded: Loaded, asked: CompletionRequest) -> None:
        if asked.response_format and asked.response_format.type != "text":
            raise InputError("response_format is for chat completions: leave it out")
        self.loaded, self.asked = loaded, asked
        self.prompts = prompts_of(loaded, asked.prompt)
        if not self.prompts:
            raise InputError("prompt is an empty list: give at least one prompt")
        opened = loaded.opened
        scored = asked.logprobs if asked.echo else None
        self.requests = []
        limit = opened.model.position_limit
        for number, prompt in enumerate(self.prompts):
            if limit is not None and len(prompt) + (asked.max_tokens or 0) > limit:
                raise InputError(
                    f"text {number} has {len(prompt)} tokens and max_tokens is {asked.max_tokens or 0}, more than the "
                    f"model's {limit} in all: shorten or lower it"
                )
            how = sampling_of(loaded, asked, asked.longest, prompt)
            one = Request(prompt, how, asked.stop_ids(opened.stop_ids), max(asked.logprobs or 0, 1), scored)
            self.requests += [
                replace(one, sampling=how.model_copy(update={"seed": how.seed + sample})) for sample in range(asked.n)
            ]
        self.answers = answers_of(loaded, len(self.requests), asked.stop, chat=False)
        self.scored: dict[int, tuple[TokenScore, ...]] = {}

    async def whole(self) -> dict[str, Any]:
        """The answer when it is complete."""
        with self.loaded.runner.open(self.requests) as flow:
            async for event in events(flow, self.answers):
                if event.index is not None and event.deltas[0].prompt:
                    self.scored[event.index] = event.deltas[0].prompt
        choices = [self._choice(index, answer) for index, answer in enumerate(self.answers)]
        return {**head("text_completion", self.loaded, "cmpl"), "choices": choices, "usage": self._usage()}

    async def chunks(self) -> AsyncIterator[str]:
        """The answer as server-sent events, of which the first means that there is room for it."""
        start = head("text_completion", self.loaded, "cmpl")
        with self.loaded.runner.open(self.requests) as flow:
            told = enumerate(map(self._prompt_text, self.requests) if self.asked.echo else ())
            echoed = "".join(sse({**start, "choices": [_piece(index, text, None)]}) for index, text in told)
            yield echoed or ": begins\n\n"
            async for event in events(flow, self.answers):
                if event.index is None:
                    yield ": still here\n\n"
                elif event.text or event.finish or self.asked.logprobs is not None:
                    piece = _piece(event.index, event.text, event.finish)
                    if self.asked.logprobs is not None and event.deltas[0].token is not None:
                        piece["logprobs"] = self._logprobs(event.deltas)
                    yield sse({**start, "choices": [piece]})
        if self.asked.stream_options and self.asked.stream_options.include_usage:
            yield sse({**start, "choices": [], "usage": self._usage()})
        yield "data: [DONE]\n\n"

    def _usage(self) -> dict[str, int]:
        return usage(self.prompts, self.answers)

    def _prompt_text(self, request: Request) -> str:
        return self.loaded.opened.tokenizer.decode(list(request.prompt), skip_control=True)

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        asked, request = self.asked, self.requests[index]
        silent = asked.max_tokens == 0
        deltas = [] if silent else answer.deltas
        text = "" if silent else answer.text
        logprobs = None
        if asked.echo:
            before = self._prompt_text(request)
            if asked.logprobs is not None:
                told = self.scored.get(index, ())  # a prompt of one token has nothing to score
                tokens = [*request.prompt, *(delta.token for delta in deltas if delta.token is not None)]
                own = [None, *(one.logprob for one in told), *(delta.logprob for delta in deltas)]
                tops = [(), *(one.top for one in told), *(delta.top[: asked.logprobs] for delta in deltas)]
                logprobs = completion_logprobs(self.loaded.opened.tokenizer, tokens, own, tops)
            text = before + text
        elif asked.logprobs is not None:
            logprobs = self._logprobs(deltas)
        return {**_piece(index, text, "length" if silent else answer.finish), "logprobs": logprobs}

    def _logprobs(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        tokens = [delta.token for delta in deltas if delta.token is not None]
        tops = [delta.top[: self.asked.logprobs] for delta in deltas]
        return completion_logprobs(self.loaded.opened.tokenizer, tokens, [delta.logprob for delta in deltas], tops)


def _piece(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def prompts_of(loaded: Loaded, given: str | list[int] | list[str] | list[list[int]]) -> list[list[int]]:
    """Each prompt as ids. Text gets the tokenizer's own beginning; what looks like a control token stays text."""
    several = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
    prompts = [_encode(loaded, one) if isinstance(one, str) else [*one] for one in several if not isinstance(one, int)]
    vocab = loaded.opened.model.config.vocab_size
    for number, prompt in enumerate(prompts):
        strange = [token for token in prompt if not 0 <= token < vocab]
        if strange or not prompt:
            has = f"the id {strange[0]}, but the model has 0 to {vocab - 1}" if strange else "no tokens"
            raise InputError(f"text {number} has {has}")
    return prompts


def _encode(loaded: Loaded, text: str) -> list[int]:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"prompt has a lone surrogate at character {error.start}, which is not valid Unicode"
        ) from error
    tokenizer = loaded.opened.tokenizer
    return [*tokenizer.start_ids, *tokenizer.encode(text)]
