"""The openai client against a real server: chat, streams, logprobs, tools, schemas, completions, embeddings."""

import asyncio
import json
import math

import openai
import pytest
from serve_samples import Served, nothing_held, post, wait_until

from inkstone.chat import Message
from inkstone.generate import SamplingSettings, generate, score, stream_reply
from inkstone.model import open_directory

HELLO = [{"role": "user", "content": "你好 <|im_end|> hello"}]


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def own_reply(served: Served, tokens: int) -> str:
    opened = open_directory(served.library.directories["chat"], chat=True)
    return "".join(
        stream_reply(opened, [Message("user", HELLO[0]["content"])], SamplingSettings(max_new_tokens=tokens))
    )


def test_a_chat_answers_what_inkstone_chat_answers(client: openai.OpenAI, served: Served) -> None:
    answer = client.chat.completions.create(model="chat", messages=HELLO, max_tokens=12, temperature=0)
    assert answer.choices[0].message.content == own_reply(served, 12)
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage.completion_tokens <= 12 < answer.usage.prompt_tokens


def test_a_stream_joins_to_the_whole_answer_and_ends_with_usage(client: openai.OpenAI) -> None:
    asked = {"model": "chat", "messages": HELLO, "max_tokens": 12, "temperature": 1.0, "seed": 5}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason


def test_choices_have_seeds_of_their_own_and_the_same_seed_says_the_same(client: openai.OpenAI) -> None:
    asked = {"model": "chat", "messages": HELLO, "max_tokens": 8, "temperature": 1.5, "seed": 1, "n": 3}
    first, second = (client.chat.completions.create(**asked) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) == 3
    assert [choice.index for choice in first.choices] == [0, 1, 2]


def test_logprobs_are_those_of_the_model(client: openai.OpenAI, served: Served) -> None:
    answer = client.chat.completions.create(
        model="chat", messages=HELLO, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert all(
        len(one.top_logprobs) == 3 and one.top_logprobs[0].logprob == pytest.approx(one.logprob) for one in content
    )


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="base", prompt="abc", max_tokens=24, temperature=0).choices[0].text
    stop = whole[6:8]
    cut = client.completions.create(model="base", prompt="abc", max_tokens=24, temperature=0, stop=[stop]).choices[0]
    assert cut.text == whole[: whole.find(stop)]
    assert cut.finish_reason == "stop"


def test_completions_are_the_engines_and_echo_scores_the_prompt(client: openai.OpenAI, served: Served) -> None:
    """What lm-eval's local-completions asks: echo, logprobs, one token."""
    opened = open_directory(served.library.directories["base"])
    ids = [*opened.tokenizer.start_ids, *opened.tokenizer.encode("ab ab")]
    made = client.completions.create(model="base", prompt=ids, max_tokens=5, temperature=0)
    [expected] = generate(opened.model, [ids], SamplingSettings(max_new_tokens=5), opened.stop_ids)
    assert made.choices[0].text == opened.tokenizer.decode(expected, skip_control=True, continued=False)
    told = client.completions.create(model="base", prompt=[ids], max_tokens=1, temperature=0, echo=True, logprobs=2)
    logprobs = told.choices[0].logprobs
    assert logprobs.token_logprobs[0] is None and len(logprobs.tokens) == len(ids) + 1
    for place in range(1, len(ids)):
        [own] = score(opened.model, [(ids[:place], [ids[place]])])
        assert logprobs.token_logprobs[place] == pytest.approx(own.logprob, abs=1e-4)


def test_an_answer_follows_its_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["是", "否"]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="chat", messages=HELLO, max_tokens=60, temperature=1.0, seed=2,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )  # fmt: skip
    told = json.loads(answer.choices[0].message.content)
    assert 0 <= told["a"] <= 99 and told["b"] in ("是", "否")
    assert answer.choices[0].finish_reason == "stop"


def test_tools_are_described_and_their_results_are_read(client: openai.OpenAI) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    call = {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}
    plain = client.chat.completions.create(model="chat", messages=HELLO, max_tokens=2)
    with_tools = client.chat.completions.create(model="chat", messages=HELLO, tools=tools, max_tokens=2)
    assert with_tools.usage.prompt_tokens > plain.usage.prompt_tokens + 20
    unused = client.chat.completions.create(model="chat", messages=HELLO, tools=tools, tool_choice="none", max_tokens=2)
    assert unused.usage.prompt_tokens == plain.usage.prompt_tokens
    told = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": "晴"},
    ]
    after = client.chat.completions.create(model="chat", messages=told, tools=tools, max_tokens=2)
    assert after.usage.prompt_tokens > with_tools.usage.prompt_tokens + 20


def test_models_and_embeddings(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} >= {"chat", "base"}
    one, two = client.embeddings.create(model="base", input=["水", "fire"]).data
    assert math.isclose(sum(x * x for x in one.embedding), 1, rel_tol=1e-4)
    assert one.embedding != two.embedding


def test_streams_at_once_get_what_each_gets_alone(served: Served, client: openai.OpenAI) -> None:
    """More than are decoded together, in the asynchronous client."""
    asked = [
        {
            "model": "chat",
            "messages": [{"role": "user", "content": f"{n} 水"}],
            "max_tokens": 10,
            "temperature": 0.9,
            "seed": n,
        }
        for n in range(8)
    ]
    alone = [client.chat.completions.create(**one).choices[0].message.content for one in asked]

    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as together:

            async def one_stream(one: dict[str, object]) -> str:
                chunks = await together.chat.completions.create(**one, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

            return await asyncio.gather(*(one_stream(one) for one in asked))

    assert asyncio.run(all_at_once()) == alone
    wait_until(lambda: nothing_held(served))


def test_what_clients_send_beside_their_question_changes_nothing(client: openai.OpenAI, served: Served) -> None:
    """Nulls, labels, and fields that ask for nothing special: LangChain, LiteLLM, Open WebUI and Dify send them."""
    asked = {"model": "chat", "messages": HELLO, "max_tokens": 4, "temperature": 0}
    plain = client.chat.completions.create(**asked).choices[0].message.content
    told = client.chat.completions.create(
        **asked,
        **dict.fromkeys(("tools", "stop", "logit_bias", "response_format", "audio", "seed", "n", "stream_options")),
        metadata={"team": "x"}, store=False, service_tier="auto", user="u", safety_identifier="u", prompt_cache_key="k",
        tool_choice="none", parallel_tool_calls=True, top_logprobs=0, modalities=["text"], reasoning_effort="none",
        extra_body={"min_tokens": None, "drop_oldest": None, "ignore_eos": None},
    )  # fmt: skip
    assert told.choices[0].message.content == plain
    options = {"include_usage": True, "include_obfuscation": False}
    stream = list(client.chat.completions.create(**asked, stream=True, stream_options=options))
    assert stream[-1].usage.completion_tokens == 4
    nulls = {"echo": None, "logprobs": None, "best_of": None, "suffix": ""}
    assert client.completions.create(model="chat", prompt=[[5, 6], [7]], max_tokens=1, **nulls).usage.prompt_tokens == 3
    one = client.embeddings.create(model="base", input="水", dimensions=None, encoding_format="base64").data[0]
    assert one.embedding
    with pytest.raises(openai.BadRequestError, match="numbers: leave it out"):
        client.embeddings.create(model="base", input="水", dimensions=1)
    with pytest.raises(openai.NotFoundError, match="POST /v1/responses"):
        client.responses.create(model="chat", input="hi")


def test_ignore_eos_goes_on_past_the_end(client: openai.OpenAI, served: Served) -> None:
    """Load generators want answers of one length."""
    ends = {str(token): 100 for token in served.library.open["chat"].opened.stop_ids}
    asked = {"model": "chat", "messages": HELLO, "max_tokens": 6, "temperature": 0, "logit_bias": ends}
    assert client.chat.completions.create(**asked).usage.completion_tokens == 0
    assert client.chat.completions.create(**asked, extra_body={"ignore_eos": True}).usage.completion_tokens == 6


def test_streamed_answers_with_tools_have_their_logprobs(client: openai.OpenAI) -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}]
    asked = {"model": "chat", "messages": HELLO, "tools": tools, "max_tokens": 4, "logprobs": True, "temperature": 0}
    stream = list(client.chat.completions.create(**asked, stream=True))
    one, two = (stream[-1].choices[0].logprobs, client.chat.completions.create(**asked).choices[0].logprobs)
    assert [token.token for token in one.content] == [token.token for token in two.content] != []


def test_conversations_as_clients_write_them_are_read(served: Served) -> None:
    """What is said twice by one side is one turn; an answer stopped before its first word is none; greetings stand."""

    def seen(*turns: tuple[str, str]) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        told = post(served, "/tokenize", {"model": "chat", "messages": messages})[1]
        return str(post(served, "/detokenize", {"model": "chat", "tokens": told["tokens"]})[1]["prompt"])

    one = seen(("system", "a\n\nb"), ("user", "c\n\nd"))
    assert seen(("system", "a"), ("developer", "b"), ("user", "c"), ("assistant", ""), ("user", "d")) == one
    assert "assistant\ne<|im_end|>\n<|im_start|>user\nc" in seen(("assistant", "e"), ("user", "c"))
    assert "a" in seen(("system", "a"))
