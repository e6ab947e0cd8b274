"""The routes of the console: files of its pages, and what it keeps."""

import asyncio
import json
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from pydantic import Field

from inkstone.serve.console.evaluations import mount_evaluations
from inkstone.serve.guard import Body, Refused, file_name, read_body
from inkstone.serve.jobs import Jobs, mount_jobs
from inkstone.serve.jobs.exports import Exports, has_adapter, mount_exports
from inkstone.serve.jobs.routes import Number
from inkstone.serve.knowledge import KINDS, MAX_BYTES, Knowledge, framed, ground, looked_for
from inkstone.serve.models import Library
from inkstone.serve.store import Store
from inkstone.storage import read_json_object

_FILES = Path(__file__).parent
_PASSAGES = 6
"""That are looked for to answer a question."""
_KINDS = {".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".html": "text/html"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Sampling(Body):
    """How an assistant answers; what is None is the model's own."""

    temperature: float | None = Field(None, ge=0, le=5)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=2**20)
    seed: int | None = Field(None, ge=0, lt=2**53)


class Assistant(Body):
    """Somebody to talk to."""

    name: str = Field(min_length=1, max_length=80)
    avatar: str = Field("", max_length=16)
    system: str = Field("", max_length=100_000)
    model: str = Field("", max_length=400)
    sampling: Sampling = Field(default_factory=Sampling)


class Conversation(Body):
    """A conversation, or what changes in one: only what is given."""

    title: str = Field("", max_length=200)
    assistant: int | None = Field(None, ge=1, lt=2**31)
    leaf: int | None = Field(None, ge=1, lt=2**31)


class Citation(Body):
    """A passage that was found for a question; `number` is the one the model was given it under, if it was."""

    number: int | None = Field(None, ge=1, le=99)
    file: str = Field(max_length=120)
    place: int = Field(ge=1, lt=2**31)
    text: str = Field(max_length=10_000)
    score: float


class Said(Body):
    """A message of a conversation, after the message `parent`."""

    parent: int | None = Field(None, ge=1, lt=2**31)
    role: Literal["user", "assistant"]
    content: str = Field(max_length=10**6)
    model: str = Field("", max_length=400)
    system: str = Field("", max_length=100_000)
    figures: dict[str, float | str | list[Citation] | None] | None = Field(None, max_length=20)


class Rating(Body):
    """A thumb, and perhaps a better answer."""

    rating: Literal[-1, 0, 1] = 0
    better: str | None = Field(None, max_length=10**6)


class Collection(Body):
    """Private knowledge under a name."""

    name: str = Field(min_length=1, max_length=80)


class Query(Body):
    """What is looked for in a collection."""

    query: str = Field(min_length=1, max_length=10_000)
    top: int = Field(5, ge=1, le=50)


class Turn(Body):
    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=10**6)


class Grounded(Body):
    """A conversation whose last message is to be answered from passages: of a collection for a model, or from these."""

    messages: list[Turn] = Field(min_length=1, max_length=4096)
    passages: list[Citation] = Field([], max_length=50)
    model: str = Field("", max_length=400)
    max_tokens: int | None = Field(None, ge=1, le=2**20)


_BODIES: dict[str, type[Body]] = {
    "assistants": Assistant,
    "conversations": Conversation,
    "messages": Rating,
    "collections": Collection,
}
_Kept = Literal["assistants", "conversations", "collections"]
_Table = Literal["assistants", "conversations", "messages"]


def mount_console(app: FastAPI, store: Store, jobs: Jobs) -> None:
    """Add the console to a server."""
    _mount_pages(app)
    mount_jobs(app, jobs)
    mount_exports(app, Exports(jobs.folder / "exports", jobs.library))
    _mount_models(app, jobs.library)
    mount_evaluations(app, jobs.library)
    _mount_knowledge(app, Knowledge(store))

    @app.get("/api/conversations")
    async def conversations(search: str = "") -> list[dict[str, Any]]:
        return await asyncio.to_thread(store.conversations, search[:200])

    @app.post("/api/{table}")
    async def add(table: _Kept, request: Request) -> dict[str, Any]:
        given = await read_body(request, _BODIES[table])
        return await asyncio.to_thread(store.add, table, given.model_dump())

    @app.get("/api/conversations/{number}")
    async def conversation(number: Number) -> dict[str, Any]:
        return await asyncio.to_thread(store.conversation, number)

    @app.delete("/api/{table}/{number}")
    async def remove(table: _Kept, number: Number) -> Response:
        await asyncio.to_thread(store.remove, table, number)
        return Response(status_code=204)

    @app.post("/api/conversations/{number}/messages")
    async def say(number: Number, request: Request) -> dict[str, Any]:
        given = await read_body(request, Said)
        return await asyncio.to_thread(store.say, number, given.model_dump())

    @app.patch("/api/{table}/{number}")
    async def change(table: _Table, number: Number, request: Request) -> dict[str, Any]:
        given = await read_body(request, _BODIES[table])
        return await asyncio.to_thread(store.change, table, number, given.model_dump(exclude_unset=True))

    @app.get("/api/{rated}.jsonl")
    async def feedback(rated: Literal["preferences", "verdicts"]) -> Response:
        told = store.preferences if rated == "preferences" else store.verdicts
        rows = await asyncio.to_thread(lambda: list(told()))
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        headers = {"Content-Disposition": f'attachment; filename="{rated}.jsonl"'}
        return Response(lines, media_type="application/jsonl", headers=headers)

    # After the routes with names of their own, of which it would take the place.
    @app.get("/api/{table}")
    def listed(table: Literal["assistants", "datasets"]) -> list[dict[str, Any]]:
        return store.rows(table)


def _mount_knowledge(app: FastAPI, knowledge: Knowledge) -> None:
    place = "/api/collections/{number}"

    @app.get("/api/collections")
    def collections() -> list[dict[str, Any]]:
        return knowledge.store.collections()

    @app.post(f"{place}/files")
    async def keep(number: Number, name: str, request: Request) -> dict[str, Any]:
        name = file_name(name, *KINDS)
        content = bytearray()
        async for piece in request.stream():
            content += piece
            if len(content) > MAX_BYTES:
                raise Refused(413, f"{name} has more than {MAX_BYTES // 2**20} MiB: split it")
        return await asyncio.to_thread(knowledge.keep, number, name, bytes(content))

    @app.delete(f"{place}/files")
    def forget(number: Number, name: str) -> Response:
        knowledge.store.keep_file(number, name, [])
        return Response(status_code=204)

    @app.post(f"{place}/search")
    async def search(number: Number, request: Request) -> list[dict[str, Any]]:
        asked = await read_body(request, Query)
        return await asyncio.to_thread(knowledge.search, number, asked.query, asked.top)

    @app.post(f"{place}/ground")
    async def prompt(number: Number, request: Request) -> dict[str, Any]:
        """The conversation as the model is to see it, and the passages that were found."""
        asked = await read_body(request, Grounded)
        turns, loaded = asked.model_dump()["messages"], await app.state.server.model(asked.model)
        hits = await asyncio.to_thread(knowledge.search, number, looked_for(turns), _PASSAGES)
        messages, told = await asyncio.to_thread(ground, loaded, turns, hits, asked.max_tokens)
        return {"messages": messages, "passages": told}

    @app.post("/api/ground")
    async def again(request: Request) -> dict[str, Any]:
        """The same with passages that were found before, for a look at what the model saw."""
        told = (await read_body(request, Grounded)).model_dump()
        *before, last = told["messages"]
        return {"messages": [*before, last | {"content": framed(last["content"], told["passages"])}]}


def _mount_models(app: FastAPI, library: Library) -> None:
    @app.get("/api/models")
    def models() -> list[dict[str, Any]]:
        """Where each comes from, by the stage.json beside its weights; adapters that are served, with their `base`."""
        places = [(name, place, place / "stage.json") for name, place in library.directories.items()]
        told = [read_json_object(file) if file.is_file() else None for _, _, file in places]
        own = [
            {"name": n, "directory": str(p), "stage": one, "adapter": bool(has_adapter(p))}
            for (n, p, _), one in zip(places, told, strict=True)
        ]
        return own + [
            {"name": name, "directory": str(one.directory), "stage": None, "adapter": False, "base": one.base}
            for name, one in library.adapters.items()
            if one.base in library.directories
        ]


def _mount_pages(app: FastAPI) -> None:
    files = {
        str(path.relative_to(_FILES)): path
        for path in sorted(_FILES.rglob("*"))
        if path.suffix in _KINDS and path.is_file()
    }

    @app.get("/")
    async def page() -> Response:
        return FileResponse(files["index.html"], media_type="text/html", headers=_HEADERS)

    @app.get("/console/{name:path}")
    async def file(name: str) -> Response:
        # Only names of the list above: what a browser sends never becomes a path.
        if name not in files:
            raise Refused(404, f"the console has no file {name}")
        return FileResponse(files[name], media_type=_KINDS[files[name].suffix], headers=_HEADERS)
