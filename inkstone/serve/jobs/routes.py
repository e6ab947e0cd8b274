"""The pages' way to tasks and their data, under /api: uploads, plans, starting and stopping, what happens meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Literal

import fastapi
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from inkstone.errors import InputError
from inkstone.serve.answers import sse
from inkstone.serve.guard import Refused, read_body
from inkstone.serve.jobs.datasets import Datasets, plain
from inkstone.serve.jobs.preview import preview
from inkstone.serve.jobs.queue import ENDED, STAGE, Jobs, Row
from inkstone.serve.jobs.reading import events_since, tail
from inkstone.serve.jobs.task import Task, Tasks, prepare
from inkstone.storage import read_json_object

Number = Annotated[int, fastapi.Path(ge=1, le=2**31 - 1)]
_STREAM_S, _LOOK_S = 10, 0.5
"""A stream of events ends after so long, and the browser takes it up again where it was: a server that is told to end
does not wait for pages that are open."""


def mount_jobs(app: FastAPI, jobs: Jobs) -> None:
    """Add the routes, and find the jobs again that a former server left."""
    store, datasets = jobs.store, Datasets(jobs.store, jobs.folder / "data")
    jobs.begin()

    @app.post("/api/datasets")
    async def upload(request: Request, name: str) -> Row:
        return await datasets.receive(name, request.stream())

    @app.delete("/api/datasets/{number}")
    @app.delete("/api/tasks/{number}")
    def remove(number: Number, request: Request) -> Response:
        (jobs if request.url.path.startswith("/api/tasks/") else datasets).remove(number)
        return Response(status_code=204)

    @app.get("/api/datasets/{number}/preview")
    def look(number: Number, model: str, length: Annotated[int | None, fastapi.Query(ge=16, le=2**20)] = None) -> Row:
        data = store.row("datasets", number)
        return preview(datasets.path(data), data["about"]["kind"], _base(jobs, model), length)

    @app.post("/api/tasks/plan")
    async def plan(request: Request) -> list[Row]:
        asked = await read_body(request, Tasks)
        return await asyncio.to_thread(lambda: [_planned(jobs, datasets, task) for task in asked.tasks])

    @app.get("/api/tasks")
    def tasks() -> list[Row]:
        return [jobs.shown(row) for row in reversed(store.rows("jobs"))]

    @app.post("/api/tasks")
    async def start(request: Request) -> list[Row]:
        asked = await read_body(request, Tasks)

        def begin() -> list[Row]:
            # All are prepared before the first is queued: one that cannot start keeps the others from starting.
            ready = [_prepare(jobs, datasets, task) for task in asked.tasks]
            return [jobs.shown(jobs.add(*one)) for one in ready]

        return await asyncio.to_thread(begin)

    @app.get("/api/tasks/{number}")
    def task(number: Number) -> Row:
        row = store.row("jobs", number)
        place, done = jobs.run_dir(row).parent, jobs.run_dir(row) / STAGE / "stage.json"
        recipe = tail(place / "recipe.toml")
        result = read_json_object(done)["result"] if done.is_file() else {}
        return {**jobs.shown(row), "recipe": recipe, "log": tail(place / "log.txt"), "result": result}

    @app.post("/api/tasks/{number}/{act}")
    def turn(number: Number, act: Literal["stop", "resume"]) -> Row:
        return jobs.shown(jobs.stop(number) if act == "stop" else jobs.resume(number))

    @app.get("/api/tasks/{number}/events")
    async def events(number: Number, request: Request) -> Response:
        row = await asyncio.to_thread(store.row, "jobs", number)
        last = request.headers.get("last-event-id", "")
        following = _follow(jobs, row, int(last) if last.isdecimal() and last.isascii() and len(last) < 16 else 0)
        return StreamingResponse(following, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _follow(jobs: Jobs, row: Row, place: int) -> AsyncIterator[str]:
    """What happens in a run after a place in its events, and every change of the job's state. Of progress the last says
    all."""
    path, said, until = jobs.run_dir(row) / "events.jsonl", "", time.monotonic() + _STREAM_S
    yield "retry: 300\n\n"
    while time.monotonic() < until:
        row = await asyncio.to_thread(jobs.store.row, "jobs", row["id"])
        new = await asyncio.to_thread(events_since, path, place)
        place = new[-1][0] if new else place
        for end, event in new:
            if event["kind"] != "progress" or end == place:
                yield f"id: {end}\n{sse(event)}"
        if row["state"] != said:
            said = row["state"]
            yield f"event: state\n{sse(jobs.shown(row))}"
        if said in ENDED:
            return
        await asyncio.sleep(_LOOK_S)


def _prepare(jobs: Jobs, datasets: Datasets, task: Task) -> tuple[str, Row, str]:
    """A task's name, itself with what it will take, and its recipe. Raises Refused and InputError."""
    base = _base(jobs, task.model)
    data = datasets.store.row("datasets", task.data)
    test = datasets.store.row("datasets", task.test) if task.test else None
    kind, name = data["about"]["kind"], plain(data["name"].partition(".json")[0])
    if test and test["about"]["kind"] != kind:
        raise InputError(f"the test data has {test['about']['kind']} rows, the training data {kind} rows: choose alike")
    if test and kind == "verdict":
        raise InputError("answers that are good or bad are learned from without test data: choose none")
    recipe, takes = prepare(task, base, datasets.path(data), data["about"], datasets.path(test) if test else None)
    return f"{name}-{task.method}", {**task.model_dump(), "takes": takes}, recipe


def _base(jobs: Jobs, model: str) -> Path:
    if model not in jobs.library.directories:
        raise Refused(404, f'there is no model "{model[:100]}" here', code="model_not_found")
    return jobs.library.directories[model]


def _planned(jobs: Jobs, datasets: Datasets, task: Task) -> Row:
    """A task with what it will take, or with the `problem` for which it cannot start."""
    try:
        return _prepare(jobs, datasets, task)[1]
    except (InputError, Refused) as error:
        return {**task.model_dump(), "problem": str(error)}
