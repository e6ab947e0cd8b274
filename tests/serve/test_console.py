"""The console without a browser: what it keeps, what it refuses, and what its pages may load."""

import base64
import gzip
import hashlib
import json
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from serve_samples import KEY, Served, call, get, made, running

from inkstone.chat.datasets import read_preferences
from inkstone.serve.guard import Guard
from inkstone.serve.models import Library, ServeSettings, find_models

CONSOLE = Path(__file__).parents[2] / "inkstone" / "serve" / "console"


def test_a_conversation_is_kept_as_a_tree_is_found_and_goes_with_its_messages(kept: Served) -> None:
    helper = made(kept, "/api/assistants", {"name": "老师", "system": "请简短。", "sampling": {"temperature": 0}})
    talk = made(kept, "/api/conversations", {"title": "水", "assistant": helper["id"]})
    path = f"/api/conversations/{talk['id']}"
    asked = made(kept, f"{path}/messages", {"role": "user", "content": "水是什么？100%_"})
    answers = [
        made(kept, f"{path}/messages", {"role": "assistant", "content": text, "parent": asked["id"]}) for text in "ab"
    ]
    whole = made(kept, path, None, "GET")
    assert whole["leaf"] == answers[1]["id"]
    assert [one["parent"] for one in whole["messages"]] == [None, asked["id"], asked["id"]]
    assert [one["id"] for one in made(kept, "/api/conversations?search=100%25_", None, "GET")] == [talk["id"]]
    assert made(kept, "/api/conversations?search=100%25%25", None, "GET") == []
    assert call(kept, "DELETE", f"/api/assistants/{helper['id']}")[0] == 204
    assert made(kept, path, None, "GET")["assistant"] is None
    assert call(kept, "DELETE", path)[0] == 204
    code, told = call(kept, "PATCH", f"/api/messages/{asked['id']}", {"rating": 1})
    assert code == 404 and "removed" in told["error"]["message"]


def test_thumbs_and_better_answers_become_a_preference_set_that_training_reads(kept: Served, tmp_path: Path) -> None:
    talk = made(kept, "/api/conversations", {})
    path = f"/api/conversations/{talk['id']}/messages"
    asked = made(kept, path, {"role": "user", "content": "天为什么蓝？"})
    bad, good, plain = (
        made(kept, path, {"role": "assistant", "content": text, "parent": asked["id"], "system": "请简短。"})
        for text in ("不知道", "因为散射", "也许")
    )
    made(kept, f"/api/messages/{bad['id']}", {"rating": -1, "better": "短波散射更强"}, "PATCH")
    made(kept, f"/api/messages/{good['id']}", {"rating": 1}, "PATCH")
    made(kept, f"/api/messages/{plain['id']}", {"rating": -1, "better": "也许"}, "PATCH")
    _, lines = get(kept, "/api/preferences.jsonl")
    file = tmp_path / "preferences.jsonl"
    file.write_text(lines, encoding="utf-8")
    read = read_preferences([file]).preferences
    pairs = [(one.chosen, one.rejected) for one in read[-3:]]  # other tests rate answers too
    assert pairs == [("短波散射更强", "不知道"), ("因为散射", "不知道"), ("因为散射", "也许")]
    assert [message.role for message in read[-1].prompt] == ["system", "user"]
    # Stopped before its first word, and answered with nothing: neither is a part of what the next answer saw.
    asked = made(kept, path, {"role": "user", "content": "海呢？", "parent": good["id"]})
    asked = made(kept, path, {"role": "user", "content": "海为什么蓝？", "parent": asked["id"]})
    empty = made(kept, path, {"role": "assistant", "content": "", "parent": asked["id"]})
    asked = made(kept, path, {"role": "user", "content": "海的颜色？", "parent": empty["id"]})
    late = made(kept, path, {"role": "assistant", "content": "蓝", "parent": asked["id"]})
    made(kept, f"/api/messages/{late['id']}", {"rating": -1, "better": "蓝色"}, "PATCH")
    file.write_text(get(kept, "/api/preferences.jsonl")[1], encoding="utf-8")
    [prompt] = [one.prompt for one in read_preferences([file]).preferences if one.chosen == "蓝色"]
    assert [message.content for message in prompt] == ["天为什么蓝？", "因为散射", "海的颜色？"]


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("POST", "/api/assistants", {"name": ""}, 400),
        ("POST", "/api/assistants", {"name": "x", "script": "y"}, 400),
        ("POST", "/api/assistants", {"name": "x", "sampling": {"temperature": -1}}, 400),
        ("POST", "/api/conversations", {"assistant": 10**6}, 404),
        ("POST", "/api/conversations/1000000/messages", {"role": "user", "content": "x"}, 404),
        ("POST", "/api/conversations/1000000/messages", {"role": "system", "content": "x"}, 400),
        ("PATCH", "/api/messages/1", {"rating": 2}, 400),
        ("GET", f"/api/conversations/{2**70}", None, 400),
        ("GET", "/api/conversations/x", None, 400),
        ("DELETE", "/api/messages/1", None, 400),
        ("GET", "/console/../app.py", None, 404),
        ("GET", "/console/%2e%2e/app.py", None, 404),
        ("GET", "/console/routes.py", None, 404),
    ],
)
def test_what_the_console_refuses(method: str, path: str, body: Any, code: int, served: Served) -> None:
    status, told = call(served, method, path, body)
    assert (status, set(told["error"])) == (code, {"message", "type", "param", "code"}), told


def test_another_sites_page_is_refused(served: Served) -> None:
    """Neither a page that posts here, nor one whose own name was pointed here, gets anything."""
    assert call(served, "POST", "/api/conversations", {}, {"Origin": "https://evil.example"})[0] == 403
    assert call(served, "POST", "/api/conversations", {}, {"Origin": served.url})[0] == 200
    assert call(served, "GET", "/api/conversations", None, {"Host": "evil.example:8000"})[0] == 403


def test_a_browser_gives_the_key_as_a_password(locked: Served) -> None:
    request = urllib.request.Request(locked.url + "/")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.headers["WWW-Authenticate"].startswith("Basic ")
    for password, status in ((KEY, 200), ("a-wrong-key", 401)):
        token = base64.b64encode(f"me:{password}".encode()).decode()
        assert call(locked, "GET", "/api/assistants", None, {"Authorization": f"Basic {token}"})[0] == status
    assert call(locked, "GET", "/api/assistants", None, {"Authorization": "Basic ???"})[0] == 401


def test_pages_may_load_from_this_server_only(served: Served) -> None:
    with urllib.request.urlopen(served.url + "/", timeout=30) as response:
        policy, page = response.headers["Content-Security-Policy"], response.read().decode()
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for name in re.findall(r'(?:src|href)="/console/([^"]+)"', page):
        assert get(served, f"/console/{name}")[0] == 200


def test_modules_import_what_is_there_and_parse_no_html() -> None:
    for file in CONSOLE.glob("*.js"):
        text = file.read_text(encoding="utf-8")
        for name in re.findall(r'from "/console/([^"]+)"', text):
            assert (CONSOLE / name).is_file(), (file.name, name)
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?!www\.w3)\w", text
        )


def test_the_console_is_small_and_what_is_vendored_is_what_was_published() -> None:
    files = [file for file in CONSOLE.rglob("*") if file.suffix in (".js", ".css", ".json", ".html")]
    assert sum(len(gzip.compress(file.read_bytes())) for file in files) < 120 * 1024
    for line in (CONSOLE / "vendor" / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((CONSOLE / "vendor" / name).read_bytes()).hexdigest() == digest


def test_both_languages_say_the_same_things_and_all_that_is_asked_for() -> None:
    zh, en = (json.loads((CONSOLE / "locales" / f"{name}.json").read_text(encoding="utf-8")) for name in ("zh", "en"))
    assert zh.keys() == en.keys()
    holes = re.compile(r"\{\w+\}")
    assert {key: sorted(holes.findall(text)) for key, text in zh.items()} == {
        key: sorted(holes.findall(text)) for key, text in en.items()
    }
    sources = "".join(file.read_text(encoding="utf-8") for file in CONSOLE.glob("*.js"))
    assert set(re.findall(r'\bt\("(\w+)"', sources)) <= zh.keys()


def test_a_long_conversation_loses_its_oldest_rounds_where_asked_to(served: Served) -> None:
    rounds = [{"role": role, "content": "水" * 30} for _ in range(9) for role in ("user", "assistant")]
    body = {"model": "chat", "messages": [*rounds, {"role": "user", "content": "火"}], "max_tokens": 8}
    assert call(served, "POST", "/v1/chat/completions", body)[0] == 400
    code, told = call(served, "POST", "/v1/chat/completions", body | {"drop_oldest": True})
    assert code == 200 and told["usage"]["prompt_tokens"] <= 248
    _, shown = call(served, "POST", "/tokenize", {
        "model": "chat", "messages": body["messages"], "drop_oldest": True, "return_token_strs": True
    })  # fmt: skip
    assert "".join(shown["token_strs"]).count("<|im_start|>") == len(
        [t for t in shown["token_strs"] if t == "<|im_start|>"]
    )
    assert shown["count"] == len(shown["token_strs"]) < 256


def test_only_models_with_a_template_are_offered_for_a_chat(served: Served) -> None:
    listed = made(served, "/v1/models", None, "GET")["data"]
    assert {"chat": True, "base": False}.items() <= {one["id"]: one["chat"] for one in listed}.items()


def test_models_tell_where_they_come_from_and_runs_their_scores(models: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(models / "chat", run / "sft")
    (run / "evaluate").mkdir()
    stage = {"settings": {"sft": {"base": "pretrain", "inputs": ["a.jsonl"]}}, "result": {"steps": 3}}
    (run / "sft" / "stage.json").write_text(json.dumps(stage), encoding="utf-8")
    scores = {"models": {"sft": {"problems": {"accuracy": 0.5, "stderr": 0.1, "n": 4, "correct": 2}}}}
    (run / "evaluate" / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    library = Library(find_models([models, run]), ServeSettings())
    with running(library, Guard([]), tmp_path / "c.sqlite") as one:
        told = {row["name"]: row for row in made(one, "/api/models", None, "GET")}
        assert told["sft"]["stage"] == stage and told["base"]["stage"] is None
        [table] = made(one, "/api/evaluations", None, "GET")
        assert table["run"] == "run" and table["table"][0] == ["score", "sft"]
        (run / "evaluate" / "scores.json").write_text("{}", encoding="utf-8")
        code, said = call(one, "GET", "/api/evaluations")
        assert code == 400 and "scores.json" in said["error"]["message"]
