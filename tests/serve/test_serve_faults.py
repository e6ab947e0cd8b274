"""Bad input is a sentence, clients may vanish, an engine may die: the server lives and nothing stays held."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from serve_samples import KEY, Served, get, nothing_held, post, running, wait_until
from typer.testing import CliRunner

from inkstone.cli.commands import app
from inkstone.serve import runner
from inkstone.serve.guard import Guard
from inkstone.serve.models import Library, ServeSettings, find_models

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "水"}], "max_tokens": 4}
TEXT = {"model": "base", "prompt": "水", "max_tokens": 4}


def refused(served: Served, path: str, body: Any, status: int = 400) -> str:
    code, answer = post(served, path, body)
    assert code == status, answer
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    message: str = answer["error"]["message"]
    return message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temprature": 1}, "temprature: this server knows no such field"),
        ({"temperature": -1}, "temperature: "),
        ({"temperature": "hot"}, "temperature: "),
        ({"top_p": 0}, "top_p: "),
        ({"top_p": 1.1}, "top_p: "),
        ({"top_k": -2}, "top_k: "),
        ({"n": 0}, "n: "),
        ({"n": 10**9}, "n: "),
        ({"max_tokens": -1}, "max_tokens: "),
        ({"max_tokens": 10**6}, "tokens"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 10_000}, "stop: "),
        ({"stop": ["x" * 10**6]}, "stop"),
        ({"logit_bias": {"999999": 1}}, "logit_bias names the id 999999"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {str(n): 1 for n in range(2000)}}, "logit_bias: "),
        ({"seed": 2**65}, "seed: "),
        ({"presence_penalty": 10**9}, "presence_penalty: "),
        ({"stream_options": {"include_usage": True}}, "stream_options is for streams"),
        ({"response_format": {"type": "xml"}}, "response_format.type: "),
    ],
)
def test_wrong_parameters_are_named(change: dict[str, Any], said: str, served: Served) -> None:
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", TEXT)):
        message = refused(served, path, body | change)
        assert said in message, message
    assert post(served, "/v1/chat/completions", CHAT)[0] == 200


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "messages: "),
        ("hello", "messages: "),
        ([{"role": "user", "content": ""}], "messages[0].content is empty"),
        ([{"role": "user", "content": "\ud800"}], "lone surrogate"),
        ([{"role": "robot", "content": "x"}], 'unknown role "robot"'),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "nothing to answer"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "only parts of type text"),
        ([{"role": "user", "content": "水" * 3000}], "shorten them"),
    ],
)
def test_wrong_messages_are_named(messages: Any, said: str, served: Served) -> None:
    assert said in refused(served, "/v1/chat/completions", CHAT | {"messages": messages})


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ([[1], []], "text 1 has no tokens"),
        ([10**9], "text 0 has the id 1000000000, but the model has 0 to"),
        ([-1], "the id -1"),
        (["水" * 3000], "text 0 has "),
        (["a", 5], "must be a text, a list of token ids, or a list of texts or of such lists"),
    ],
)
def test_wrong_prompts_are_named(prompt: Any, said: str, served: Served) -> None:
    assert said in refused(served, "/v1/completions", TEXT | {"prompt": prompt})
    assert said in refused(served, "/v1/embeddings", {"model": "base", "input": prompt})


def test_more_prompts_than_ever_fit_are_no_matter_of_waiting(served: Served) -> None:
    assert "empty list" in refused(served, "/v1/completions", TEXT | {"prompt": []})
    assert "takes 12 at once: ask in parts" in refused(served, "/v1/completions", TEXT | {"prompt": ["水"] * 13})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"store": True}, "store: "),
        ({"reasoning_effort": "high"}, "reasoning_effort: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"tool_choice": "any"}, "tool_choice: must be auto, none, required, or"),
        ({"tools": [{"type": "web_search"}]}, "each of tools must be"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 2}, "a name of its own"),
        ({"response_format": {"type": "json_schema"}}, "needs json_schema"),
        ({"response_format": {"type": "json_object", "json_schema": {"schema": {}}}}, "needs json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"type": "object"}}}, "json_schema.schema: "),
        ({"ignore_eos": True, "response_format": {"type": "json_object"}}, "has no end"),
    ],
)
def test_what_a_chat_cannot_have_is_named(change: dict[str, Any], said: str, served: Served) -> None:
    assert said in refused(served, "/v1/chat/completions", CHAT | change)


def test_a_fault_of_the_server_is_an_error_object_too(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise LookupError("secret")

    monkeypatch.setattr("inkstone.serve.app.chat_prompt", broken)
    said = refused(served, "/tokenize", {"model": "chat", "messages": CHAT["messages"]}, 500)
    assert "LookupError" in said and "secret" not in said
    monkeypatch.setattr("inkstone.serve.completions._piece", broken)  # when the answer has begun
    body = json.dumps(TEXT | {"stream": True}).encode()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        urllib.request.urlopen(f"{served.url}/v1/completions", body, timeout=10).read()
    monkeypatch.undo()
    assert post(served, "/v1/completions", TEXT)[0] == 200
    wait_until(lambda: nothing_held(served))


def test_a_model_whose_files_are_gone_takes_nothing_else_with_it(tmp_path: Path, models: Path) -> None:
    for name in ("one", "two", "three"):
        shutil.copytree(models / "base", tmp_path / name)
    with running(Library(find_models([tmp_path]), ServeSettings()), Guard([]), tmp_path / "x.sqlite") as own:
        shutil.rmtree(tmp_path / "two")
        (tmp_path / "three" / "config.json").write_text("{")
        assert [one["id"] for one in json.loads(get(own, "/v1/models")[1])["data"]] == ["one", "three", "two"]
        assert "does not exist" in refused(own, "/v1/completions", TEXT | {"model": "two"}, 503)
        assert "not valid JSON" in refused(own, "/v1/completions", TEXT | {"model": "three"}, 503)
        assert post(own, "/v1/completions", TEXT | {"model": "one"})[0] == 200


def test_a_base_url_without_v1_and_a_monitor_s_head_are_answered(served: Served) -> None:
    assert "Found; the base URL of a client ends in /v1, and GET" in refused(served, "/chat/completions", CHAT, 404)
    for path, code in (("/health", 200), ("/v1/models", 200), ("/nothing", 404)):
        connection = http.client.HTTPConnection(urlsplit(served.url).netloc)
        connection.request("HEAD", path)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (code, b"")


def test_a_port_that_is_taken_is_a_sentence_before_anything_begins(models: Path, served: Served) -> None:
    told = CliRunner().invoke(app, ["serve", str(models), "--port", str(urlsplit(served.url).port)])
    assert told.exit_code == 2
    said = " ".join(told.output.split())
    assert "cannot be had (Address already in use): choose another" in said and "speaks" not in said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"model": "chat", "temperature": NaN}', "NaN is no JSON number"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b'{"model": 1e999}', "model: "),
    ],
)
def test_bodies_that_are_no_requests_are_refused(body: bytes, said: str, served: Served) -> None:
    assert said in refused(served, "/v1/chat/completions", body)


def test_a_body_that_is_too_large_is_413_and_an_unknown_model_404(served: Served) -> None:
    assert "send less" in refused(served, "/v1/completions", {"prompt": "x" * 9 * 2**20}, 413)
    assert "only base, chat" in refused(served, "/v1/completions", TEXT | {"model": "gpt-4"}, 404)
    assert "no chat template" in refused(served, "/v1/chat/completions", CHAT | {"model": "base"})
    assert get(served, "/nothing")[0] == 404


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "unheard of"},
        {"$ref": "#/nowhere"},
        {"type": "string", "pattern": "(a"},
        {"enum": ["x" * 200_000]},
    ],
)
def test_schemas_that_cannot_be_followed_are_refused(schema: dict[str, Any], served: Served) -> None:
    answer_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    said = refused(served, "/v1/chat/completions", CHAT | {"response_format": answer_format})
    assert "JSON schema" in said


def test_user_text_never_becomes_a_control_token(served: Served) -> None:
    """The markers of the template, typed by a user, are encoded as text."""
    _, plain = post(served, "/tokenize", {"model": "chat", "messages": [{"role": "user", "content": "x"}]})
    _, typed = post(served, "/tokenize", {"model": "chat", "messages": [{"role": "user", "content": "<|im_end|>"}]})
    tokenizer = next(iter(served.library.open.values())).opened.tokenizer
    end = tokenizer.token_id("<|im_end|>")
    assert plain["tokens"].count(end) == typed["tokens"].count(end)
    _, back = post(served, "/detokenize", {"model": "chat", "tokens": typed["tokens"]})
    assert "<|im_end|>" in back["prompt"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_request(stream: bool, served: Served) -> None:
    post(served, "/v1/chat/completions", CHAT)
    engine = served.library.open["chat"].runner.engine
    assert engine is not None
    before = engine.figures()
    address = urlsplit(served.url)
    client = http.client.HTTPConnection(address.hostname or "", address.port)
    body = CHAT | {"max_tokens": 200, "stream": stream, "n": 12, "min_tokens": 200}
    client.request("POST", "/v1/chat/completions", json.dumps(body))
    wait_until(lambda: engine.figures()["running"] > 0)
    assert client.sock is not None
    client.sock.shutdown(socket.SHUT_RDWR)
    client.close()
    wait_until(lambda: nothing_held(served))
    after = engine.figures()
    assert after["cancelled"] > before["cancelled"]
    assert after["new_tokens"] - before["new_tokens"] < 12 * 200


@pytest.mark.parametrize("count", [1, 3])
def test_tokens_that_come_soon_after_one_another_come_together_and_none_is_lost(count: int, served: Served) -> None:
    """Streamed and whole are the same text, tokens and end; a stop string may lie within what comes together."""
    asked = CHAT | {"max_tokens": 60, "min_tokens": 60, "temperature": 1, "seed": 5, "n": count, "logprobs": True}
    whole = post(served, "/v1/chat/completions", asked)[1]["choices"]
    for stop in ([], [whole[0]["message"]["content"][20:22]]):
        whole = post(served, "/v1/chat/completions", asked | {"stop": stop})[1]["choices"]
        content = json.dumps(asked | {"stop": stop, "stream": True}).encode()
        request = urllib.request.Request(served.url + "/v1/chat/completions", content)
        with urllib.request.urlopen(request, timeout=30) as response:
            pieces = [json.loads(line[6:])["choices"][0] for line in response.read().splitlines() if b"{" in line]
        for choice in whole:
            own = [one for one in pieces if one["index"] == choice["index"]]
            assert "".join(one["delta"].get("content", "") for one in own) == choice["message"]["content"]
            tokens = [token["token"] for one in own if one["logprobs"] for token in one["logprobs"]["content"]]
            assert tokens == [token["token"] for token in choice["logprobs"]["content"]]
            assert len(own) < 2 + len(tokens) / 2
            assert [one["finish_reason"] for one in own if one["finish_reason"]] == [choice["finish_reason"]]


def test_a_stream_that_waits_says_that_it_is_alive(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    post(served, "/v1/chat/completions", CHAT)
    engine = served.library.open["chat"].runner.engine
    assert engine is not None
    step, slow = engine.step, iter((0.4, 0.4))
    monkeypatch.setattr(runner, "QUIET_S", 0.05)
    monkeypatch.setattr(engine, "step", lambda: (time.sleep(next(slow, 0)), step())[1])
    request = urllib.request.Request(served.url + "/v1/chat/completions", json.dumps(CHAT | {"stream": True}).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        said = response.read().decode()
    assert said.count(": still here\n\n") >= 4 and said.endswith("data: [DONE]\n\n")


def test_more_than_may_wait_is_429_with_a_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    post(served, "/v1/completions", TEXT)
    own = served.library.open["base"].runner
    with monkeypatch.context() as full:
        full.setattr(own, "pending", own.most)
        for more in ({}, {"stream": True}):  # a stream's status says it too, for clients that try again
            code, answer = post(served, "/v1/completions", TEXT | more)
            assert (code, answer["error"]["code"]) == (429, "queue_full")
    assert post(served, "/v1/completions", TEXT)[0] == 200


def test_an_engine_that_fails_is_503_and_comes_back(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    post(served, "/v1/completions", TEXT)
    own = served.library.open["base"].runner
    assert own.engine is not None

    def broken() -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(own.engine, "step", broken)
    code, answer = post(served, "/v1/completions", TEXT)
    assert (code, answer["error"]["code"]) == (503, "engine_failed")
    assert post(served, "/v1/completions", TEXT)[0] == 200
    assert own.failures == 1
    wait_until(lambda: own.pending == 0)


def test_every_route_but_health_needs_the_key(locked: Served) -> None:
    """The listing of routes is asked, so a new route cannot be forgotten."""
    paths = json.loads(get(locked, "/openapi.json", KEY)[1])["paths"]
    assert len(paths) > 8
    for path, methods in paths.items():
        for method in methods:
            asked = path.replace("{name}", "chat")
            code = get(locked, asked)[0] if method == "get" else post(locked, asked, {})[0]
            assert code == (200 if path == "/health" else 401), path
    assert get(locked, "/openapi.json")[0] == 401
    assert post(locked, "/v1/chat/completions", CHAT, "another-key")[0] == 401
    assert post(locked, "/v1/chat/completions", CHAT, KEY)[0] == 200


def test_a_key_has_its_limits(locked: Served) -> None:
    codes = [post(locked, "/v1/completions", TEXT | {"max_tokens": 1}, KEY)[0] for _ in range(45)]
    assert codes[0] == 200 and codes[-1] == 429


def first_token(served: Served) -> float:
    name = 'inkstone_first_token_seconds_sum{model="base"}'
    lines = [line for line in get(served, "/metrics")[1].splitlines() if line.startswith(name)]
    return float(lines[0].split()[-1]) if lines else 0.0


def test_figures_are_there_for_prometheus(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    post(served, "/v1/completions", TEXT)
    engine, before = served.library.open["base"].runner.engine, first_token(served)
    assert engine is not None
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: (time.sleep(0.2), step())[1])
    with urllib.request.urlopen(f"{served.url}/v1/completions", json.dumps(TEXT | {"stream": True}).encode()) as stream:
        stream.read()
    assert first_token(served) - before >= 0.2, "until the first token, not until the first piece"
    page = get(served, "/metrics")[1]
    for name in ("inkstone_first_token_seconds_bucket", "inkstone_requests_total", "inkstone_engine_held"):
        assert name in page


def test_serve_starts_from_the_command_line_drains_and_ends(models: Path) -> None:
    command = [sys.executable, "-m", "inkstone", "serve", str(models), "--host", "::1", "--port", "0", "--rows", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "models: base, chat\n"
        address = process.stdout.readline().partition("/v1")[0] + "/ready"
        assert address.startswith("http://[::1]:")

        def is_up() -> bool:
            try:
                return bool(urllib.request.urlopen(address, timeout=1).status == 200)
            except OSError:
                return False

        wait_until(is_up, 60)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode in (0, -signal.SIGTERM), out
