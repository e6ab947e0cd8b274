"""/v1/chat/completions: messages in the model's own template, answers whole or as they come, tool calls read."""

from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from typing import Any

from inkstone.chat import encode_chat, prompt_to_fit
from inkstone.chat.formats import read_prompt
from inkstone.errors import InputError
from inkstone.generate import Request
from inkstone.generate.grammar import Grammar, constrain, constrain_call
from inkstone.model import Opened
from inkstone.serve.answers import Answer, Event, answers_of, chat_logprobs, events, head, sampling_of, sse, usage
from inkstone.serve.calls import CALL_END, split_calls
from inkstone.serve.models import Loaded
from inkstone.serve.requests import ChatRequest


class Chat:
    """One request on its way: `prompt` as ids, `requests` for the engine, one answer for each choice."""

    def __init__(self, loaded: Loaded, asked: ChatRequest) -> None:
        self.loaded, self.asked = loaded, asked
        self.prompt = chat_prompt(loaded, asked)
        opened = loaded.opened
        how = sampling_of(loaded, asked, asked.longest, self.prompt)
        stop_ids = asked.stop_ids(opened.stop_ids)
        logprobs = max(asked.top_logprobs or 0, 1) if asked.logprobs else 0
        one = Request(self.prompt, how, stop_ids, logprobs)
        self.requests = [
            replace(
                one,
                sampling=how.model_copy(update={"seed": how.seed + index}),
                constraint=_constraint(opened, asked, stop_ids),
            )
            for index in range(asked.n)
        ]
        # A call is only known when its JSON is complete, so an answer that may hold one comes in one piece.
        self.may_call = bool(asked.tools) and asked.tool_choice != "none"
        one_call = self.may_call and not asked.parallel_tool_calls
        self.answers = answers_of(loaded, asked.n, [*asked.stop, *[CALL_END] * one_call], chat=True)

    async def whole(self) -> dict[str, Any]:
        """The answer when it is complete."""
        with self.loaded.runner.open(self.requests) as flow:
            async for _ in events(flow, self.answers):
                pass
        choices = [self._choice(index, answer) for index, answer in enumerate(self.answers)]
        return {
            **head("chat.completion", self.loaded, "chatcmpl"),
            "choices": choices,
            "usage": usage([self.prompt], self.answers),
        }

    async def chunks(self) -> AsyncIterator[str]:
        """The answer as server-sent events, of which the first means that there is room for it."""
        start = head("chat.completion.chunk", self.loaded, "chatcmpl")
        with self.loaded.runner.open(self.requests) as flow:
            roles = {"role": "assistant", "content": ""}
            yield "".join(_chunk(start, index, roles, None) for index in range(len(self.answers)))
            async for event in events(flow, self.answers):
                if event.index is None:
                    yield ": still here\n\n"
                elif not self.may_call:
                    yield self._plain_chunk(start, event)
                elif event.finish:
                    yield self._whole_chunk(start, event.index)
        if self.asked.stream_options and self.asked.stream_options.include_usage:
            yield sse({**start, "choices": [], "usage": usage([self.prompt], self.answers)})
        yield "data: [DONE]\n\n"

    def _whole_chunk(self, start: dict[str, Any], index: int) -> str:
        choice = self._choice(index, self.answers[index])
        said = {key: value for key, value in choice["message"].items() if key != "role" and value is not None}
        calls = [{"index": place, **call} for place, call in enumerate(said.get("tool_calls", []))]
        said |= {"tool_calls": calls} if calls else {}
        return _chunk(start, index, said, choice["finish_reason"], choice["logprobs"])

    def _plain_chunk(self, start: dict[str, Any], event: Event) -> str:
        logprobs = None
        if self.asked.logprobs and event.deltas:
            content = chat_logprobs(self.loaded.opened.tokenizer, event.deltas, self.asked.top_logprobs or 0)
            logprobs = {"content": content}
        if not (event.text or event.finish or logprobs):
            return ""
        return _chunk(start, event.index or 0, {"content": event.text} if event.text else {}, event.finish, logprobs)

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        whole = answer.text + CALL_END * (answer.stream.shown.stopped == CALL_END)
        text, calls = split_calls(whole) if self.may_call else (answer.text, [])
        message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
        if calls:
            message["tool_calls"] = calls
        logprobs = None
        if self.asked.logprobs:
            content = chat_logprobs(self.loaded.opened.tokenizer, answer.deltas, self.asked.top_logprobs or 0)
            logprobs = {"content": content}
        finish = "tool_calls" if calls and answer.finish == "stop" else answer.finish
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}


def chat_prompt(loaded: Loaded, asked: ChatRequest) -> list[int]:
    """The ids of the conversation. Raises InputError for messages that are none and for one that is too long."""
    template = loaded.opened.template
    if template is None:
        raise InputError(f"{loaded.name} has no chat template: use /v1/completions")
    row: dict[str, object] = {"messages": asked.messages}
    if asked.tools and asked.tool_choice != "none":
        row["tools"] = asked.tools
    messages, faults = read_prompt(row, goes_on=asked.continue_final_message)
    if faults:
        raise InputError([f"{field} {fault}" for field, fault in faults])
    model = loaded.opened.model
    if asked.drop_oldest and not asked.continue_final_message:
        room = asked.longest or loaded.sampling.max_new_tokens
        fitting = prompt_to_fit(messages, template, loaded.opened.tokenizer, model.max_positions, room)
        if fitting is not None:
            return fitting
    begun: list[int] = []
    if asked.continue_final_message:
        *messages, last = messages
        begun = loaded.opened.tokenizer.encode(last.content, continued=True)
    ids, _ = encode_chat(messages, template, loaded.opened.tokenizer, add_generation_prompt=True)
    ids += begun
    limit, longest = model.position_limit, asked.longest
    if limit is not None and len(ids) + (longest or 1) > limit:
        raise InputError(
            f"the messages have {len(ids)} tokens{f' and the answer may have {longest}' if longest else ''}, and the "
            f"model takes {limit} in all: shorten them or lower max_tokens"
        )
    return ids


def _constraint(opened: Opened, asked: ChatRequest, stop_ids: Collection[int]) -> Grammar | None:
    """What the answer must look like, where the request says so."""
    if asked.forced:
        return constrain_call(opened, asked.forced, stop_ids)
    schema = asked.response_format.schema_ if asked.response_format else None
    return constrain(opened, schema, stop_ids) if schema is not None else None


def _chunk(
    start: dict[str, Any],
    index: int,
    delta: dict[str, Any],
    finish: str | None,
    logprobs: dict[str, Any] | None = None,
) -> str:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return sse({**start, "choices": [choice]})
