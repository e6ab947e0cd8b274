"""A real server on a port of its own, with tiny models of random weights."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from serve_samples import KEY, Served, chat_model

pytest.importorskip("fastapi")
import uvicorn

from inkstone.serve.app import create_app
from inkstone.serve.console import mount_console
from inkstone.serve.guard import Guard
from inkstone.serve.jobs import Jobs
from inkstone.serve.models import Library, ServeSettings, find_models
from inkstone.serve.store import Store


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/chat and models/base: one that talks and one that only continues."""
    folder = tmp_path_factory.mktemp("models")
    chat_model(folder / "chat", chat=True)
    chat_model(folder / "base", chat=False)
    return folder


@contextlib.contextmanager
def running(library: Library, guard: Guard, database: Path) -> Iterator[Served]:
    """A server in a thread, until the block ends."""
    app = create_app(library, guard)
    store = Store(str(database))
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


@pytest.fixture(scope="session")
def served(models: Path) -> Iterator[Served]:
    """Open to everybody on this machine."""
    library = Library(find_models([models]), ServeSettings(rows=4, waiting=8, cache_gib=0.05))
    with running(library, Guard([]), models.parent / "open.sqlite") as one:
        yield one


@pytest.fixture(scope="session")
def locked(models: Path) -> Iterator[Served]:
    """With a key, one request at once and few in a minute."""
    library = Library(find_models([models]), ServeSettings(rows=2, waiting=1))
    with running(library, Guard([KEY], 1, 40), models.parent / "locked.sqlite") as one:
        yield one
