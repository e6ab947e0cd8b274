"""Models to take away: a GGUF file, or the adapter as a .zip, made in a thread and then downloaded.

Only models that the server has are named, and a file's place comes from the model's directory, never from what a
browser sends. A file is offered until its model changes. What is being made, or could not be, is said by a .json beside
the file's place, so a server that is started again makes what the last one did not end.
"""

import hashlib
import json
import logging
import threading
import zipfile
from pathlib import Path
from typing import Literal

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from pydantic import Field

from inkstone.errors import Absent, InkstoneError, InputError
from inkstone.model.files.adapter import CONFIG, FOLDER
from inkstone.model.gguf import write_gguf
from inkstone.progress import Silent
from inkstone.serve.guard import Body, Refused, read_body
from inkstone.serve.models import Library
from inkstone.serve.store.store import Row
from inkstone.storage import atomic_file, read_json_object

Kind = Literal["f16", "q8_0", "q4_0", "adapter"]
KINDS: tuple[Kind, ...] = ("f16", "q8_0", "q4_0", "adapter")
_log = logging.getLogger("inkstone.serve")


class Export(Body):
    """What somebody wants."""

    model: str = Field(max_length=400)
    kind: Kind


class Exports:
    """The files in `folder`; one is made at a time."""

    def __init__(self, folder: Path, library: Library) -> None:
        self.folder, self.library = folder.resolve(), library
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def path(self, model: str, kind: Kind) -> Path:
        """The place of a file. Raises Refused for a model that is not here."""
        place = self.library.directories.get(model)
        if place is None:
            raise Refused(404, f'there is no model "{model[:100]}" here', code="model_not_found")
        number = hashlib.sha256(str(place).encode()).hexdigest()[:16]
        return self.folder / f"{number}-{kind}{'.zip' if kind == 'adapter' else '.gguf'}"

    def shown(self, model: str, kind: Kind) -> Row:
        """How far it is: nothing, running, failed or done."""
        file, place = self.path(model, kind), self.library.directories[model]
        told = {"model": model, "kind": kind, "state": "none", "error": "", "bytes": None}
        if said := _said(file):
            return {**told, **said}
        if file.is_file() and file.stat().st_mtime >= place.stat().st_mtime:
            return {**told, "state": "done", "bytes": file.stat().st_size}
        return told

    def begin(self, model: str, kind: Kind) -> Row:
        """Make a file anew, unless it is being made."""
        file, place = self.path(model, kind), self.library.directories[model]
        if kind == "adapter" and not has_adapter(place):
            raise InputError(f"{model} has no adapter: only a model tuned with LoRA or a prefix has")
        with self._lock:
            if _said(file).get("state") != "running":
                self._start(place, file, kind)
        return self.shown(model, kind)

    def resume(self) -> None:
        """When a server starts: make what the last one was making."""
        for model, place in self.library.directories.items():
            for kind in KINDS:
                if _said(file := self.path(model, kind)).get("state") == "running":
                    self._start(place, file, kind)

    def _start(self, place: Path, file: Path, kind: Kind) -> None:
        _say(file, "running")
        threading.Thread(target=self._make, args=(place, file, kind), daemon=True, name="export").start()

    def _make(self, place: Path, file: Path, kind: Kind) -> None:
        try:
            with self._turn:
                if kind == "adapter":
                    _zip(has_adapter(place) or place, file)
                else:
                    write_gguf(place, file, kind, Silent())
            file.with_suffix(".json").unlink(missing_ok=True)
        except InkstoneError as error:
            _say(file, "failed", str(error))
        except Exception as error:  # whatever it is, the page must not wait for ever
            _log.exception("%s could not be made of %s", file.name, place)
            _say(file, "failed", f"{type(error).__name__}: {error}")


def _say(file: Path, state: str, error: str = "") -> None:
    with atomic_file(file.with_suffix(".json")) as draft:
        draft.write_text(json.dumps({"state": state, "error": error[:4000]}), encoding="utf-8")


def _said(file: Path) -> Row:
    try:
        return read_json_object(file.with_suffix(".json"))
    except FileNotFoundError:
        return {}


def has_adapter(place: Path) -> Path | None:
    """Where a model directory keeps an adapter of its own."""
    return next((place / name for name in ("adapter", FOLDER) if (place / name / CONFIG).is_file()), None)


def _zip(folder: Path, file: Path) -> None:
    """The files of a folder; weights hardly shrink, so they are stored as they are."""
    with atomic_file(file) as draft, zipfile.ZipFile(draft, "w") as packed:
        for one in sorted(folder.iterdir()):
            if one.is_file() and not one.is_symlink():
                packed.write(one, f"adapter/{one.name}")


def mount_exports(app: FastAPI, exports: Exports) -> None:
    """Add the routes, and go on with what the last server was making."""
    exports.resume()

    @app.get("/api/exports")
    def listed() -> list[Row]:
        rows = [exports.shown(model, kind) for model in exports.library.directories for kind in KINDS]
        return [row for row in rows if row["state"] != "none"]

    @app.post("/api/exports")
    async def begin(request: Request) -> Row:
        asked = await read_body(request, Export)
        return exports.begin(asked.model, asked.kind)

    @app.get("/api/exports/{kind}/{model:path}")
    def download(kind: Kind, model: str) -> Response:
        if exports.shown(model, kind)["state"] != "done":
            raise Absent(f"there is no {kind} file of {model}: make it first")
        file = exports.path(model, kind)
        return FileResponse(file, filename=f"{model.replace('/', '-')}-{kind}{file.suffix}")

    @app.delete("/api/exports/{kind}/{model:path}")
    def remove(kind: Kind, model: str) -> Response:
        file = exports.path(model, kind)
        file.unlink(missing_ok=True)
        file.with_suffix(".json").unlink(missing_ok=True)
        return Response(status_code=204)
