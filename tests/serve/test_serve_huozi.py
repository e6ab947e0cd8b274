"""Clients as Huozi publishes them, unchanged against our port: a plain script, and a page's loop over its history."""

import itertools
from collections.abc import Iterator

import pytest
from openai import OpenAI
from serve_samples import Served, chat_model, nothing_held, running, wait_until

from inkstone.chat import Message, encode_chat, template_named
from inkstone.generate import SamplingSettings, stream_reply
from inkstone.model import open_directory
from inkstone.serve.guard import Guard
from inkstone.serve.models import Library, ServeSettings, find_models


@pytest.fixture(scope="module")
def huozi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A random model with Huozi 3's markers and template, served as "huozi"."""
    folder = tmp_path_factory.mktemp("huozi")
    chat_model(folder / "huozi", chat=True, positions=1024, template=template_named("huozi3"))
    library = Library(find_models([folder / "huozi"]), ServeSettings(rows=4))
    with running(library, Guard([]), folder / "console.sqlite") as one:
        yield one


@pytest.fixture(scope="module")
def marker_ids(huozi: Served) -> list[int]:
    """57000 and 57001 in the published vocabulary."""
    tokenizer = open_directory(huozi.library.directories["huozi"]).tokenizer
    return [tokenizer.token_id("<|beginofutterance|>"), tokenizer.token_id("<|endofutterance|>")]


def own_reply(huozi: Served, messages: list[Message], tokens: int) -> str:
    opened = open_directory(huozi.library.directories["huozi"], chat=True)
    return "".join(stream_reply(opened, messages, SamplingSettings(max_new_tokens=tokens)))


def test_the_published_script_runs_and_hears_what_the_model_says(huozi: Served, marker_ids: list[int]) -> None:
    client = OpenAI(api_key="EMPTY", base_url=f"{huozi.url}/v1")
    chat_response = client.chat.completions.create(
        model="huozi",
        messages=[
            {"role": "system", "content": "你是一个智能助手"},
            {"role": "user", "content": "请你用python写一段快速排序的代码"},
        ],
        extra_body={"stop_token_ids": marker_ids},
        stream=True,
        max_tokens=24,
        temperature=0,
    )
    said = ""
    for chunk in chat_response:
        said += chunk.choices[0].delta.content or ""
    asked = [Message("system", "你是一个智能助手"), Message("user", "请你用python写一段快速排序的代码")]
    assert said and said == own_reply(huozi, asked, 24)


def test_the_prompt_is_huozis_own_to_the_id(huozi: Served) -> None:
    client = OpenAI(api_key="EMPTY", base_url=f"{huozi.url}/v1")
    answer = client.chat.completions.create(
        model="huozi", messages=[{"role": "user", "content": "你好"}], max_tokens=2, temperature=0
    )
    tokenizer = open_directory(huozi.library.directories["huozi"]).tokenizer
    begin = tokenizer.token_id("<|beginofutterance|>")
    ids, _ = encode_chat([Message("user", "你好")], template_named("huozi3"), tokenizer, add_generation_prompt=True)
    assert ids.count(begin) == 2 and ids[-len(tokenizer.encode("助手\n")) :] == tokenizer.encode("助手\n")
    assert answer.usage.prompt_tokens == len(ids)


def test_a_gradio_page_goes_through_its_history(huozi: Served, marker_ids: list[int]) -> None:
    """`predict(message, history)` of the field's example page: pairs in, growing answers out."""
    client = OpenAI(api_key="EMPTY", base_url=f"{huozi.url}/v1")

    def predict(message: str, history: list[list[str]]) -> Iterator[str]:
        history_openai_format = [{"role": "system", "content": "你是一个智能助手"}]
        for human, assistant in history:
            history_openai_format.append({"role": "user", "content": human})
            history_openai_format.append({"role": "assistant", "content": assistant})
        history_openai_format.append({"role": "user", "content": message})
        stream = client.chat.completions.create(
            model="huozi",
            messages=history_openai_format,
            temperature=0,
            stream=True,
            max_tokens=12,
            extra_body={"repetition_penalty": 1, "stop_token_ids": marker_ids},
        )
        partial_message = ""
        for chunk in stream:
            partial_message += chunk.choices[0].delta.content or ""
            yield partial_message

    history: list[list[str]] = []
    for message in ("你好", "你是谁？", "再见"):
        seen = list(predict(message, history))
        assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))
        turns = [Message("system", "你是一个智能助手")]
        for human, assistant in history:
            turns += [Message("user", human), Message("assistant", assistant)]
        assert seen[-1] == own_reply(huozi, [*turns, Message("user", message)], 12)
        history.append([message, seen[-1]])
    wait_until(lambda: nothing_held(huozi))
