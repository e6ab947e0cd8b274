"""The routes, on one page: the OpenAI API, tokens, health and figures.

    app = create_app(Library(find_models([Path("runs")]), ServeSettings()), Guard(keys))

Every body is read by `guard.read_body`; what goes wrong becomes an OpenAI error object with a sentence. A client that
goes away ends its requests, whether it was streaming or not.
"""

import asyncio
import base64
import logging
import struct
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inkstone.errors import Absent, InkstoneError, InputError
from inkstone.serve.answers import sse, token_text
from inkstone.serve.chat import Chat, chat_prompt
from inkstone.serve.completions import Completion, prompts_of
from inkstone.serve.guard import Guard, Refused, read_body
from inkstone.serve.metrics import Metrics
from inkstone.serve.models import Library, Loaded
from inkstone.serve.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)
from inkstone.serve.runner import Busy, EngineFailed

_log = logging.getLogger("inkstone.serve")


class Server:
    """What the routes share."""

    def __init__(self, library: Library, guard: Guard) -> None:
        self.library, self.guard = library, guard
        self.metrics = Metrics()
        self.draining = False

    async def model(self, name: str) -> Loaded:
        """The model of that name. Raises Refused for one that is not here or cannot be opened now."""
        if name not in self.library.names:
            known = ", ".join(self.library.names)
            raise Refused(404, f'there is no model "{name}" here, only {known}', code="model_not_found")
        try:
            return await self.library.get(name)
        except InputError as error:  # its files, or no room for it: nothing is wrong with the request
            raise Refused(503, str(error), "server_error", "model_not_ready", Retry_After="1") from error

    async def answer(self, request: Request, job: Chat | Completion) -> Response:
        """The job's answer, whole or as a stream; counted against the key that asks."""
        if not job.asked.stream:
            return await self.whole(request, job.loaded, job.whole)
        who: bytes = request.state.who
        self.guard.begin(who)
        pieces = self._stream(job, who)
        first = await anext(pieces)  # where there is no room this raises, while the status can still say so
        return StreamingResponse(
            _again(first, pieces), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )

    async def whole(self, request: Request, loaded: Loaded, work: Callable[[], Awaitable[dict[str, Any]]]) -> Response:
        """What the work says in the end; counted against the key that asks."""
        who: bytes = request.state.who
        self.guard.begin(who)
        try:
            whole = await _unless_gone(request, work())
        finally:
            self.guard.end(who)
        self.metrics.requests.labels(loaded.name, "gone" if whole is None else "answered").inc()
        return Response(status_code=499) if whole is None else JSONResponse(whole)

    async def _stream(self, job: Chat | Completion, who: bytes) -> AsyncIterator[str]:
        ended, last, model, begun = "gone", time.perf_counter(), job.loaded.name, False
        seconds, later = self.metrics.first_token.labels(model), self.metrics.next_token.labels(model)
        try:
            async for piece in job.chunks():
                if begun and piece and not piece.startswith(":"):
                    now = time.perf_counter()
                    seconds.observe(now - last)
                    seconds, last = later, now
                begun = True  # the first has no token
                if piece:
                    yield piece
            ended = "answered"
        except InkstoneError as error:
            ended = "failed"
            if not begun:
                raise
            yield sse({"error": _error(str(error), _kind_of(error))})
        finally:
            self.guard.end(who)
            self.metrics.requests.labels(job.loaded.name, ended).inc()


async def _again(first: str, pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for piece in pieces:
        yield piece


async def _unless_gone(request: Request, work: Awaitable[dict[str, Any]]) -> dict[str, Any] | None:
    """The work's result; None, and the work given up, when the client goes away first."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    done, _ = await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if working in done:
        return working.result()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    return None


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(library: Library, guard: Guard) -> FastAPI:
    """The application for an ASGI server."""
    server = Server(library, guard)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        server.draining = True
        await asyncio.to_thread(library.close)

    app = FastAPI(title="Inkstone", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    app.state.server = server
    app.add_middleware(_Guarded, server=server)
    _errors(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> Response:
        return JSONResponse({"status": "stopping" if server.draining else "ok"}, 503 if server.draining else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(server.metrics.page(library.open.values()))

    @app.get("/openapi.json")
    async def listing() -> dict[str, Any]:
        return app.openapi()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(library, name) for name in library.names]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name not in library.names:
            await server.model(name)
        return _model(library, name)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await read_body(request, ChatRequest)
        # A long prompt and a large schema take a second to read: other streams go on meanwhile.
        return await server.answer(request, await asyncio.to_thread(Chat, await server.model(asked.model), asked))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = await read_body(request, CompletionRequest)
        return await server.answer(request, await asyncio.to_thread(Completion, await server.model(asked.model), asked))

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        asked = await read_body(request, EmbeddingRequest)
        loaded = await server.model(asked.model)
        return await server.whole(request, loaded, partial(_embeddings, loaded, asked))

    @app.post("/tokenize")
    async def tokenize(request: Request) -> dict[str, Any]:
        asked = await read_body(request, TokenizeRequest)
        loaded = await server.model(asked.model)
        if asked.messages is not None:
            ids = chat_prompt(
                loaded, ChatRequest(model=asked.model, messages=asked.messages, drop_oldest=asked.drop_oldest)
            )
        else:
            start = loaded.opened.tokenizer.start_ids if asked.add_special_tokens else []
            ids = [*start, *loaded.opened.tokenizer.encode(asked.prompt or "")]
        told = {"tokens": ids, "count": len(ids), "max_model_len": loaded.opened.model.position_limit}
        if asked.return_token_strs:
            told["token_strs"] = [token_text(loaded.opened.tokenizer, token) for token in ids]
        return told

    @app.post("/detokenize")
    async def detokenize(request: Request) -> dict[str, str]:
        asked = await read_body(request, DetokenizeRequest)
        tokenizer = (await server.model(asked.model)).opened.tokenizer
        strange = [token for token in asked.tokens if not 0 <= token < tokenizer.vocab_size]
        if strange:
            raise Refused(400, f"tokens: the model has no id {strange[0]}, only 0 to {tokenizer.vocab_size - 1}")
        return {"prompt": tokenizer.decode(asked.tokens)}

    return app


class _Guarded:
    """Keys, request ids and one line of log for every request; no prompt is written down.

    Plain ASGI: Starlette's middleware of functions hides from a route that its client has gone.
    """

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # what GET says, of which the server leaves the body out
            scope = {**scope, "method": "GET"}
        request, started = Request(scope), time.perf_counter()
        number = request.headers.get("x-request-id", "")[:128] or uuid.uuid4().hex
        path = request.url.path

        async def numbered(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = number
                seconds = time.perf_counter() - started
                _log.info("%s %s %s %d %.3f s", number, request.method, path, message["status"], seconds)
            await send(message)

        try:
            scope.setdefault("state", {})["who"] = b"" if path == "/health" else self.server.guard.admit(request)
        except Refused as refused:
            await _refusal(refused)(scope, receive, numbered)
            return
        try:
            await self.app(scope, receive, numbered)
        except ClientDisconnect:
            _log.info("%s %s: the client left before it had asked", number, path)
        except Exception as error:  # a fault of ours: the client gets its kind and number, the log all of it
            _log.exception("%s %s failed", number, path)
            said = f"the server failed ({type(error).__name__}); its log says more under {number}"
            with suppress(RuntimeError):  # an answer that has begun cannot become another: it is cut
                await _refusal(Refused(500, said, "server_error"))(scope, receive, numbered)


def _errors(app: FastAPI) -> None:
    """What routes raise, as OpenAI error objects."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return _refusal(error)

    @app.exception_handler(RequestValidationError)
    async def strange(_: Request, error: RequestValidationError) -> Response:
        return _refusal(Refused(400, "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())))

    @app.exception_handler(InkstoneError)
    async def failed(_: Request, error: InkstoneError) -> Response:
        if isinstance(error, Busy):
            return _refusal(Refused(429, str(error), "rate_limit_error", "queue_full", Retry_After="1"))
        if isinstance(error, EngineFailed):
            return _refusal(Refused(503, str(error), "server_error", "engine_failed", Retry_After="1"))
        if isinstance(error, Absent):
            return _refusal(Refused(404, str(error), code="not_found"))
        return _refusal(Refused(400 if isinstance(error, InputError) else 500, str(error), _kind_of(error)))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        said = f"{request.method} {request.url.path}: {error.detail}"
        if error.status_code == 404:
            said += "; the base URL of a client ends in /v1, and GET /openapi.json lists all that there is"
        return _refusal(Refused(error.status_code, said))


def _kind_of(error: InkstoneError) -> str:
    return "invalid_request_error" if isinstance(error, InputError) else "server_error"


def _refusal(refused: Refused) -> Response:
    return JSONResponse({"error": _error(str(refused), refused.kind, refused.code)}, refused.status, refused.headers)


def _error(message: str, kind: str, code: str | None = None) -> dict[str, str | None]:
    """OpenAI's error object. A sentence may quote what the client sent, which need not be valid Unicode."""
    said = message.encode("utf-8", "backslashreplace").decode()
    return {"message": said, "type": kind, "param": None, "code": code}


def _model(library: Library, name: str) -> dict[str, Any]:
    place, chat = library.place(name), library.talks(name)
    created = int(place.stat().st_mtime) if place.exists() else 0  # somebody may have removed it meanwhile
    told = {"id": name, "object": "model", "created": created, "owned_by": "inkstone", "chat": chat}
    return told | ({"parent": library.adapters[name].base} if name in library.adapters else {})


async def _embeddings(loaded: Loaded, asked: EmbeddingRequest) -> dict[str, Any]:
    """The mean of the last hidden states of a text's tokens, of length 1."""
    prompts = prompts_of(loaded, asked.input)
    model = loaded.opened.model
    if asked.dimensions not in (None, model.config.hidden_size):
        raise InputError(f"dimensions: this model's vectors have {model.config.hidden_size} numbers: leave it out")
    for number, prompt in enumerate(prompts):
        if model.position_limit is not None and len(prompt) > model.position_limit:
            raise InputError(f"text {number} has {len(prompt)} tokens; the model takes {model.position_limit}")
    rows = [await asyncio.to_thread(_embedding, loaded, prompt) for prompt in prompts]
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(row) if asked.encoding_format == "base64" else row}
        for index, row in enumerate(rows)
    ]
    tokens = sum(map(len, prompts))
    used = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": loaded.name, "usage": used}


@torch.inference_mode()
def _embedding(loaded: Loaded, prompt: list[int]) -> list[float]:
    model = loaded.opened.model
    hidden_D = model.hidden(torch.tensor([prompt], device=model.device))[0].float().mean(0)
    row: list[float] = (hidden_D / hidden_D.norm().clamp(min=1e-12)).tolist()
    return row


def _packed(row: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()
