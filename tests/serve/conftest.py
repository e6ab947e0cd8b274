"""A real server on a port of its own, with tiny models of random weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_samples import KEY, Served, chat_model, postgresql, running

pytest.importorskip("fastapi")

from inkstone.serve.guard import Guard
from inkstone.serve.jobs import process
from inkstone.serve.models import Library, ServeSettings, find_models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/chat and models/base: one that talks and one that only continues."""
    folder = tmp_path_factory.mktemp("models")
    chat_model(folder / "chat", chat=True)
    chat_model(folder / "base", chat=False)
    return folder


@pytest.fixture(scope="session")
def served(models: Path) -> Iterator[Served]:
    """Open to everybody on this machine."""
    library = Library(find_models([models]), ServeSettings(rows=4, waiting=8, cache_gib=0.05))
    with running(library, Guard([]), models.parent / "open.sqlite") as one:
        yield one
        for row in one.jobs.store.rows("jobs"):
            process.end(row["process"] or "0 ", now=True)


@pytest.fixture(scope="session")
def locked(models: Path) -> Iterator[Served]:
    """With a key, one request at once and few in a minute."""
    library = Library(find_models([models]), ServeSettings(rows=2, waiting=1))
    with running(library, Guard([KEY], 1, 40), models.parent / "locked.sqlite") as one:
        yield one


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with postgresql() as dsn:
        yield dsn


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def kept(request: pytest.FixtureRequest, models: Path) -> Iterator[Served]:
    """Open to everybody on this machine, with either database."""
    if request.param == "sqlite":
        yield request.getfixturevalue("served")
        return
    library = Library(find_models([models]), ServeSettings(rows=4, waiting=8, cache_gib=0.05))
    with running(library, Guard([]), models.parent / "kept.sqlite", request.getfixturevalue("postgres")) as one:
        yield one
