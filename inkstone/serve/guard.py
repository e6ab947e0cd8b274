"""Who may ask, and how much: API keys, limits for each key, sizes of bodies.

Keys are kept as SHA-256 digests and compared in constant time. When any exists, every route but /health needs one.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError

M = TypeVar("M", bound=BaseModel)


class Body(BaseModel):
    """What a request may hold. A field that is not known would be ignored, so it is refused."""

    model_config = ConfigDict(extra="forbid")


MAX_BODY_BYTES = 8 * 2**20


class Refused(Exception):
    """A request that is not served: status, sentence, the OpenAI type and code of the error, headers."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", code: str | None = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code = status, kind, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass
class _Use:
    """What one key does now and did in the last minute."""

    running: int = 0
    begun: deque[float] = field(default_factory=deque)


class Guard:
    """The keys of a server and their limits: requests at once and in a minute, None for no limit."""

    def __init__(self, keys: Sequence[str], at_once: int | None = None, in_a_minute: int | None = None) -> None:
        self.digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self.at_once, self.in_a_minute = at_once, in_a_minute
        self._uses = {digest: _Use() for digest in [*self.digests, b""]}

    def admit(self, request: Request) -> bytes:
        """Whose request it is. Raises Refused for one without a key that is known, and for another site's page."""
        _same_site(request, bool(self.digests))
        if not self.digests:
            return b""
        digest = hashlib.sha256(_key_of(request.headers.get("authorization", ""))).digest()
        known = [one for one in self.digests if hmac.compare_digest(one, digest)]
        if not known:
            # A browser asks for a name and a password, which is the key; programs of /v1 are only told.
            asks = (
                {} if request.url.path.startswith("/v1/") else {"WWW_Authenticate": 'Basic realm="Inkstone: API key"'}
            )
            said = "this server needs an API key: send it as Authorization: Bearer KEY"
            raise Refused(401, said, code="invalid_api_key", **asks)
        return digest

    def begin(self, who: bytes) -> None:
        """Count a generation. Raises Refused when the key has as many as it may."""
        use, now = self._uses[who], time.monotonic()
        while use.begun and now - use.begun[0] >= 60:
            use.begun.popleft()
        if self.at_once is not None and use.running >= self.at_once:
            raise _too_many(f"this key may have {self.at_once} requests at once", 1)
        if self.in_a_minute is not None and len(use.begun) >= self.in_a_minute:
            wait = 60 - (now - use.begun[0])
            raise _too_many(f"this key may begin {self.in_a_minute} requests in a minute", int(wait) + 1)
        use.running += 1
        use.begun.append(now)

    def end(self, who: bytes) -> None:
        """It is over, however it went."""
        self._uses[who].running -= 1


def _key_of(authorization: str) -> bytes:
    """The key in a header: a bearer's token, or the password of a browser's prompt."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return given.strip().encode("latin-1")  # as headers are decoded
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given, validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""


def _same_site(request: Request, keyed: bool) -> None:
    """Raises Refused for what another site's page sends through somebody's browser.

    Without keys the server answers this machine only, so it must have been asked for by this machine's name: a page
    whose own name was made to point here (DNS rebinding) gives its name.
    """
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        raise Refused(403, f"a page of {origin[:200]} may not ask this server", code="foreign_origin")
    name = urlsplit(f"//{host}").hostname or ""
    if not keyed and not stays_here(name):
        raise Refused(403, f'without an API key this server answers to 127.0.0.1 and localhost, not to "{name[:200]}"')


def stays_here(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _too_many(what: str, wait_s: int) -> Refused:
    return Refused(
        429, f"{what}: try again in {wait_s} s", "rate_limit_error", "rate_limit_exceeded", Retry_After=str(wait_s)
    )


def file_name(name: str, kinds: str, example: str) -> str:
    """The name of a file that is sent, its ending in small letters. It is shown and kept, and never becomes a path.

    Raises Refused for one that could do harm, and for a kind that is not read.
    """
    found = re.fullmatch(rf"([^./\\\0-\x1f\x7f][^/\\\0-\x1f\x7f]*)(\.({kinds})(\.(gz|zst|xz))?)", name, re.IGNORECASE)
    if not found or len(name) > 100:
        said = f"at most 100 characters, no slashes, ending in {example} (and perhaps .gz, .zst or .xz)"
        raise Refused(400, f'"{name[:100]}" is no file that can be read here: its name must have {said}')
    return found[1] + found[2].lower()


async def read_body(request: Request, kind: type[M]) -> M:
    """The body as what it should be. Raises Refused with every fault: too large, no JSON, unknown or wrong fields."""
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > MAX_BODY_BYTES:
            raise Refused(413, f"the body has more than {MAX_BODY_BYTES} bytes: send less at once")
    try:
        told = json.loads(content.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not valid JSON ({error})") from error
    if not isinstance(told, dict):
        raise Refused(400, "the body must be a JSON object")
    try:
        return kind.model_validate(told)
    except ValidationError as error:
        faults = [_sentence(one, kind) for one in error.errors(include_url=False, include_context=False)[:8]]
        raise Refused(400, "; ".join(dict.fromkeys(faults))) from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _sentence(error: Any, kind: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in error["loc"] if not str(part).startswith(("function-", "constrained-")))
    if error["type"] == "extra_forbidden":
        return f"{place}: this server knows no such field; it would be ignored, so it is refused"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {message[0].lower()}{message[1:]}" if place else message
