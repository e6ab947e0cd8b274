"""What tests of the server share: a tiny model with a chat template, a client, and a request by hand."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from fastapi import FastAPI
from tiny_tokenizers import byte_level

from inkstone.chat import CHATML, Template, attach_template
from inkstone.model import Decoder, DecoderConfig, save_model
from inkstone.model.decoder.decoder import initialise
from inkstone.serve.app import create_app
from inkstone.serve.console import mount_console
from inkstone.serve.guard import Guard
from inkstone.serve.jobs import Jobs
from inkstone.serve.models import Library
from inkstone.serve.store import Store
from inkstone.tokenizer import Tokenizer

KEY = "a-key-of-this-test"
CONTROL = ("<|bos|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    url: str
    app: FastAPI
    library: Library
    jobs: Jobs


def chat_model(
    directory: Path,
    chat: bool,
    seed: int = 3,
    own: Tokenizer | None = None,
    positions: int = 256,
    template: Template = CHATML,
) -> None:
    """A model directory with random weights, large enough that its answers differ."""
    tokenizer = own or byte_level(CONTROL if template is CHATML else template.stop_tokens)
    shape = DecoderConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2,
        num_kv_heads=1, head_dim=16, max_positions=positions, tie_embeddings=False,
    )  # fmt: skip
    model = Decoder(shape)
    initialise(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    directory.mkdir(parents=True)
    stops = sorted(template.stop_ids(tokenizer)) if chat else tokenizer.end_ids
    save_model(
        model, directory, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id, stop_ids=stops
    )
    tokenizer.save(directory)
    if chat:
        attach_template(template, tokenizer, directory)


@contextlib.contextmanager
def running(library: Library, guard: Guard, database: Path, dsn: str | None = None) -> Iterator[Served]:
    """A server in a thread, until the block ends."""
    app = create_app(library, guard)
    store = Store(dsn or str(database))
    jobs = Jobs(store, database.with_suffix(".tasks"), library)
    mount_console(app, store, jobs)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Served(f"http://127.0.0.1:{port}", app, library, jobs)
    server.should_exit = True
    thread.join(10)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The DSN of a PostgreSQL that runs until the block ends: in a folder, on a socket there, without a port."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'inkstone[postgres]'")
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), *map(Path, filter(None, [shutil.which("initdb")]))]
    if not found:
        pytest.skip("needs Debian's postgresql, whose initdb is not here")
    programs, user = found[0].resolve().parent, "postgres" if os.getuid() == 0 else None  # it refuses to be root
    with tempfile.TemporaryDirectory() as folder:
        if user:
            shutil.chown(folder, user)

        def run(program: str, *options: str) -> None:
            command = [str(programs / program), "-D", "data", *options]
            subprocess.run(command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)

        run("initdb", "-U", "ink", "-A", "trust", "-N", "-E", "UTF8", "--no-locale")
        run("pg_ctl", "-w", "-l", "log", "-o", f"-k {folder} -h '' -F", "start")
        yield f"postgresql+psycopg://ink:secret@/postgres?host={folder}"
        run("pg_ctl", "-m", "fast", "stop")


def post(served: Served, path: str, body: Any, key: str | None = None) -> tuple[int, dict[str, Any]]:
    """Status and answer; a body of bytes is sent as it is."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(served.url + path, content, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def call(
    served: Served, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(served.url + path, content, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            told = response.read()
            return response.status, json.loads(told) if told else None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def made(served: Served, path: str, body: Any, method: str = "POST") -> Any:
    code, row = call(served, method, path, body)
    assert code == 200, row
    return row


def send(served: Served, path: str, content: bytes) -> tuple[int, Any]:
    """A file as a browser uploads it."""
    request = urllib.request.Request(served.url + path, content, {"Content-Type": "application/octet-stream"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def get(served: Served, path: str, key: str | None = None) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(served.url + path, headers=headers), timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def wait_until(reached: Any, limit_s: float = 10) -> None:
    """Poll; fails after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < deadline, "never reached"
        time.sleep(0.01)


def nothing_held(served: Served) -> bool:
    """Whether no engine holds a block or has a request."""
    engines = [one.runner.engine for one in served.library.open.values()]
    return all(engine is None or (engine.figures()["held"] == 0 and not engine.busy) for engine in engines)
