"""Models to take away: GGUF files that open again, adapters that are PEFT directories, and what is refused."""

import io
import json
import os
import shutil
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from serve_samples import KEY, Served, call, chat_model, get, made, running, wait_until

from inkstone.model import open_directory
from inkstone.serve.guard import Guard
from inkstone.serve.models import Library, ServeSettings, find_models
from inkstone.tokenizer import TokenizerSettings
from inkstone.tokenizer.bpe.train import train

pytest.importorskip("gguf")


@pytest.fixture
def tuned(models: Path, tmp_path: Path) -> Iterator[Served]:
    """run/own with a vocabulary that llama.cpp can have, run/chat with another, run/with with an adapter beside it."""
    for name in ("chat", "with"):
        shutil.copytree(models / "chat", tmp_path / "run" / name)
    words = ["你好，世界！Hello 12 world the then"] * 3
    chat_model(tmp_path / "run" / "own", chat=False, own=train(TokenizerSettings(vocab_size=400), [(words, 1.0)])[0])
    folder = tmp_path / "run" / "with" / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "secret").symlink_to("/etc/passwd")
    library = Library(find_models([tmp_path / "run"]), ServeSettings())
    with running(library, Guard([]), tmp_path / "c.sqlite") as one:
        yield one


def exported(served: Served, model: str, kind: str) -> Any:
    assert made(served, "/api/exports", {"model": model, "kind": kind})["state"] in ("running", "done", "failed")
    found: list[Any] = []

    def ended() -> bool:
        rows = made(served, "/api/exports", None, "GET")
        found[:] = [row for row in rows if (row["model"], row["kind"]) == (model, kind)]
        return bool(found[0]["state"] != "running")

    wait_until(ended, 60)
    return found[0]


def fetched(served: Served, kind: str, model: str) -> tuple[bytes, str]:
    with urllib.request.urlopen(f"{served.url}/api/exports/{kind}/{model}", timeout=30) as response:
        return response.read(), response.headers["Content-Disposition"]


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_a_gguf_file_of_a_model_opens_with_its_weights(kind: str, tuned: Served, tmp_path: Path) -> None:
    row = exported(tuned, "own", kind)
    assert row["state"] == "done", row
    content, name = fetched(tuned, kind, "own")
    assert len(content) == row["bytes"] and f'filename="own-{kind}.gguf"' in name
    (tmp_path / "got.gguf").write_bytes(content)
    ids = torch.arange(8)[None]
    with torch.inference_mode():
        got = open_directory(tmp_path / "got.gguf").model.hidden(ids).float()
        own = open_directory(tmp_path / "run" / "own").model.hidden(ids).float()
    bound = {"f16": 0.01, "q8_0": 0.05, "q4_0": 0.6}[kind]
    assert (got - own).norm() / own.norm() < bound


def test_an_adapter_is_a_zip_of_its_own_files(tuned: Served) -> None:
    assert exported(tuned, "with", "adapter")["state"] == "done"
    with zipfile.ZipFile(io.BytesIO(fetched(tuned, "adapter", "with")[0])) as packed:
        assert packed.namelist() == ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
        assert packed.read("adapter/adapter_model.safetensors") == b"weights"
    told = {row["name"]: row["adapter"] for row in made(tuned, "/api/models", None, "GET")}
    assert told == {"chat": False, "own": False, "with": True}
    code, said = call(tuned, "POST", "/api/exports", {"model": "chat", "kind": "adapter"})
    assert code == 400 and "has no adapter" in said["error"]["message"]


def test_what_cannot_be_made_says_why_and_may_be_asked_for_again(tuned: Served, tmp_path: Path) -> None:
    weights = next((tmp_path / "run" / "own").glob("*.safetensors"))
    content = weights.read_bytes()
    weights.write_bytes(content[:-200])
    row = exported(tuned, "own", "f16")
    assert row["state"] == "failed" and row["error"], row
    assert call(tuned, "GET", "/api/exports/f16/own")[0] == 404
    weights.write_bytes(content)
    assert exported(tuned, "own", "f16")["state"] == "done"
    row = exported(tuned, "chat", "q8_0")
    assert row["state"] == "failed" and "no GGUF of this model" in row["error"], "its vocabulary has no name there"
    os.utime(tmp_path / "run" / "own", (4e9, 4e9))
    assert [row["state"] for row in made(tuned, "/api/exports", None, "GET")] == ["failed"], (
        "the model has changed since"
    )
    for gone in ("f16/own", "q8_0/chat"):
        assert call(tuned, "DELETE", f"/api/exports/{gone}")[0] == 204
    assert list((tuned.jobs.folder / "exports").iterdir()) == []


def test_a_server_that_is_started_again_knows_its_files_and_makes_what_was_not_ready(
    models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "chat", tmp_path / "run" / "chat")
    own = train(TokenizerSettings(vocab_size=400), [(["Hello 12 world"] * 3, 1.0)])[0]
    chat_model(tmp_path / "run" / "own", chat=False, own=own)
    library = Library(find_models([tmp_path / "run"]), ServeSettings())
    with running(library, Guard([]), tmp_path / "c.sqlite") as one:
        assert exported(one, "own", "q8_0")["state"] == "done" and exported(one, "chat", "f16")["state"] == "failed"
        [file] = (one.jobs.folder / "exports").glob("*.gguf")
        # As a server leaves it that is killed while it makes a file.
        file.with_name(file.name.replace("q8_0", "f16")).with_suffix(".json").write_text('{"state": "running"}')
    with running(library, Guard([]), tmp_path / "c.sqlite") as one:
        wait_until(lambda: '"running"' not in get(one, "/api/exports")[1], 60)
        rows = made(one, "/api/exports", None, "GET")
        states = {(row["model"], row["kind"]): row["state"] for row in rows}
        assert states == {("own", "q8_0"): "done", ("own", "f16"): "done", ("chat", "f16"): "failed"}
        assert all(row["error"] for row in rows if row["state"] == "failed")


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("POST", "/api/exports", {"model": "nobody", "kind": "f16"}, 404),
        ("POST", "/api/exports", {"model": "../chat", "kind": "f16"}, 404),
        ("POST", "/api/exports", {"model": "/etc", "kind": "f16"}, 404),
        ("POST", "/api/exports", {"model": "chat", "kind": "f64"}, 400),
        ("POST", "/api/exports", {"model": "chat", "kind": "f16", "path": "/tmp/x"}, 400),
        ("GET", "/api/exports/f16/chat", None, 404),
        ("GET", "/api/exports/f16/..%2f..%2fetc%2fpasswd", None, 404),
        ("GET", "/api/exports/f16//etc/passwd", None, 404),
        ("GET", "/api/exports/x/chat", None, 400),
        ("DELETE", "/api/exports/f16/nobody", None, 404),
    ],
)
def test_only_models_of_the_server_and_known_kinds(
    method: str, path: str, body: Any, code: int, served: Served
) -> None:
    status, told = call(served, method, path, body)
    assert status == code, told
    assert json.dumps(told["error"]["message"])


def test_exports_need_the_key(locked: Served) -> None:
    assert get(locked, "/api/exports")[0] == 401 and get(locked, "/api/exports", KEY)[0] == 200
    assert get(locked, "/api/exports/f16/chat")[0] == 401
