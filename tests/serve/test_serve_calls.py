"""Forced calls of tools: a random model calls what it must, with arguments that satisfy their schema."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch
from serve_samples import Served, chat_model, nothing_held, post, running, wait_until

from inkstone.errors import InputError
from inkstone.generate.grammar import constrain, constrain_call
from inkstone.model import open_directory
from inkstone.serve import chat
from inkstone.serve.calls import split_calls
from inkstone.serve.guard import Guard
from inkstone.serve.models import Library, ServeSettings, find_models

SAID = [{"role": "user", "content": "天气 in Beijing"}]
SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {"city": {"enum": ["北京", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "查询": {
        "type": "object",
        "properties": {"words": {"type": "array", "items": {"$ref": "#/$defs/word"}, "minItems": 1, "maxItems": 3}},
        "required": ["words"],
        "additionalProperties": False,
        "$defs": {"word": {"type": "string", "pattern": "^[a-c]{1,3}$"}},
    },
    "no_arguments": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": one}} for name, one in SCHEMAS.items()]


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model with room for descriptions of tools, byte by byte."""
    folder = tmp_path_factory.mktemp("calling")
    chat_model(folder / "chat", chat=True, positions=2048)
    library = Library(find_models([folder]), ServeSettings(rows=4))
    with running(library, Guard([]), folder / "console.sqlite") as one:
        yield one


@pytest.fixture(scope="module")
def client(calling: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{calling.url}/v1", api_key="none", max_retries=0)


def check(name: str, arguments: str) -> None:
    told = json.loads(arguments)
    if name == "weather":
        assert told["city"] in ("北京", "Oslo") and 1 <= told["days"] <= 7 and len(told) == 2
    elif name == "查询":
        assert 1 <= len(told["words"]) <= 3 and all(word and set(word) <= set("abc") for word in told["words"])
    else:
        assert told == {} and name == "no_arguments"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("parallel", [None, False])
@pytest.mark.parametrize("choice", ["required", *SCHEMAS])
def test_a_forced_call_is_one_call_that_satisfies_its_schema(
    choice: str, parallel: bool | None, stream: bool, client: openai.OpenAI, calling: Served
) -> None:
    names = set()
    for seed in range(4):
        asked: dict[str, Any] = {
            "model": "chat", "messages": SAID, "tools": TOOLS, "temperature": 1.5, "seed": seed, "max_tokens": 140,
            "tool_choice": choice if choice == "required" else named(choice),
        }  # fmt: skip
        asked |= {} if parallel is None else {"parallel_tool_calls": parallel}
        if stream:
            chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
            [call] = [call for one in chunks for call in one.delta.tool_calls or []]
            assert not "".join(one.delta.content or "" for one in chunks) and call.index == 0
            finish = chunks[-1].finish_reason
        else:
            answer = client.chat.completions.create(**asked).choices[0]
            [call] = answer.message.tool_calls
            assert answer.message.content is None
            finish = answer.finish_reason
        assert finish == "tool_calls"
        names.add(call.function.name)
        check(call.function.name, call.function.arguments)
    assert names <= set(SCHEMAS) if choice == "required" else names == {choice}
    wait_until(lambda: nothing_held(calling))


def test_a_forced_call_goes_back_into_the_conversation(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "chat", "tools": TOOLS, "temperature": 0, "max_tokens": 140}
    first = client.chat.completions.create(**asked, messages=SAID, tool_choice=named("weather")).choices[0].message
    [call] = first.tool_calls
    told = [*SAID, first.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "晴"}]
    second = client.chat.completions.create(model="chat", messages=told, tools=TOOLS, max_tokens=4)
    assert second.usage.prompt_tokens > 20


def test_a_call_that_is_cut_off_is_text_and_says_so(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="chat", messages=SAID, tools=TOOLS, tool_choice=named("weather"), max_tokens=12
    ).choices[0]
    assert answer.finish_reason == "length" and answer.message.content.startswith("<tool_call>")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tool_choice": named("nosuch")}, 'names "nosuch", which is none of tools'),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": "required", "tools": [{"type": "function"}]}, "each of tools must be"),
        ({"tool_choice": "required", "tools": [*TOOLS, TOOLS[0]]}, "a name of its own"),
        ({"tool_choice": "required", "tools": []}, "tool_choice needs tools"),
        ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "leave one out"),
        *(
            ({"tool_choice": "required", "tools": [{"function": {"name": "a", "parameters": schema}}]}, "JSON schema")
            for schema in (
                {"type": "unheard of"},
                {"$ref": "#/nowhere"},
                {"type": "object", "properties": {"x": False}, "required": ["x"]},
            )
        ),
    ],
)
def test_calls_that_cannot_be_forced_are_refused(fields: dict[str, Any], said: str, calling: Served) -> None:
    code, told = post(calling, "/v1/chat/completions", {"model": "chat", "messages": SAID, "tools": TOOLS} | fields)
    assert code == 400 and said in told["error"]["message"], told


def test_calls_in_an_answer_come_back_as_tool_calls() -> None:
    text = 'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'
    said, [call] = split_calls(text)
    assert said == "Let me see."
    assert call["function"] == {"name": "weather", "arguments": '{"city": "北京"}'}
    assert split_calls("<tool_call>{broken</tool_call>") == ("<tool_call>{broken</tool_call>", [])
    marks = json.dumps({"name": "a", "arguments": {"x": 'y"}}</tool_call><tool_call>{"name": "b"}</tool_call>'}})
    assert [one["function"]["name"] for one in split_calls(f"<tool_call>{marks}</tool_call>")[1]] == ["a"]


class Scripted:
    """A constraint under which a random model says what is written."""

    def __init__(self, tokens: list[int], vocab: int, end: int) -> None:
        self.left, self.vocab = [*tokens, end], vocab

    def allowed(self) -> torch.Tensor:
        return torch.zeros(self.vocab, dtype=torch.bool).index_fill(0, torch.tensor(self.left[:1]), True)

    def accept(self, token: int) -> None:
        self.left.pop(0)


@pytest.mark.parametrize("stream", [False, True])
def test_without_parallel_calls_an_answer_ends_after_its_first(
    stream: bool, calling: Served, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.chat.completions.create(model="chat", messages=SAID, max_tokens=1)
    opened = calling.library.open["chat"].opened
    two = 'I look.\n<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "b"}\n</tool_call>'
    ids = opened.tokenizer.encode(two)

    def answer(**more: Any) -> tuple[str, list[str]]:
        monkeypatch.setattr(
            chat, "_constraint", lambda *_: Scripted(ids, opened.tokenizer.vocab_size, min(opened.stop_ids))
        )
        asked = {"model": "chat", "messages": SAID, "max_tokens": 200, "stream": stream, **more}
        told = client.chat.completions.create(**asked)
        parts = [one.choices[0].delta for one in told] if stream else [told.choices[0].message]
        names = [call.function.name for part in parts for call in part.tool_calls or []]
        return "".join(part.content or "" for part in parts), names

    assert answer(tools=TOOLS) == ("I look.", ["a", "b"])
    assert answer(tools=TOOLS, parallel_tool_calls=False) == ("I look.", ["a"])
    assert answer(parallel_tool_calls=False) == (two, [])
    wait_until(lambda: nothing_held(calling))


def test_objects_hold_what_is_described_and_no_more_unless_they_may(calling: Served) -> None:
    """A small model never comes to an end of properties that it may invent."""
    opened = open_directory(calling.library.directories["chat"], chat=True)
    inner = {"type": "object", "properties": {"b": {"const": 1}}, "required": ["b"]}
    parts = {"$defs": {"one": inner}, "type": "object", "properties": {"c": {"const": 2}}, "required": ["c"]}
    union = {"type": "object", "properties": {"b": {"const": 1}}, "anyOf": [{"properties": {"c": {"const": 2}}}]}
    for schema, text, fits in (
        (inner, '{"b":1}', True),
        (inner, '{"b":1,"x":1}', False),
        ({**inner, "additionalProperties": True}, '{"b":1,"x":1}', True),
        ({"type": "object"}, '{"x":1}', True),
        ({"type": "array", "items": inner}, '[{"b":1,"x":1}]', False),
        ({"type": "array", "items": {"$ref": "#/$defs/one"}, "$defs": {"one": inner}}, '[{"b":1}]', True),
        ({**parts, "allOf": [{"$ref": "#/$defs/one"}]}, '{"c":2,"b":1}', True),
        (union, '{"b":1,"c":2}', True),
        ({"const": {"properties": {}}}, '{"properties":{}}', True),
    ):
        grammar = constrain(opened, schema, opened.stop_ids)
        tokens = opened.tokenizer.encode(text)
        assert (grammar.matcher.try_consume_tokens(tokens) == len(tokens)) == fits, (schema, text)
    deep: dict[str, Any] = {}
    for _ in range(700):
        deep = {"items": deep}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": deep}}
    asked = {"model": "chat", "messages": SAID, "max_tokens": 1, "response_format": wanted}
    assert post(calling, "/v1/chat/completions", asked)[0] in (200, 400)


def test_a_grammar_of_calls_is_bounded_like_a_schema(calling: Served) -> None:
    opened = open_directory(calling.library.directories["chat"])
    with pytest.raises(InputError, match="make it smaller"):
        constrain_call(opened, {"a": {"enum": ["x" * 200_000]}}, opened.stop_ids)
