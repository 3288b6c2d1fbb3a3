"""What stands before every route: the key, the size of the body, and one shape for every error.

Knows nothing of models.
"""

import hmac
import logging
import os
import stat
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.core.errors import RecipeError

log = logging.getLogger(__name__)

KEY = "ICEFLOE_API_KEY"
MAX_BODY = 2_000_000
"""Bytes of one request (Text Embeddings Inference's limit)."""
OPEN = "/health"
"""The one route that needs no key."""
TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error"}
TYPES |= {408: "timeout_error", 503: "unavailable_error"}


class Refusal(HTTPException):
    """A request that is not served; the message says what to send instead."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.param, self.code = param, code


def read_keys(path: str | None) -> tuple[str, ...]:
    """SHA-256 of each accepted key: the lines of the file `path`, and ICEFLOE_API_KEY.

    Empty when neither is set. RecipeError for a file that others may read or that has no key.
    """
    keys = [] if path is None else _lines(Path(path))
    if KEY in os.environ:
        keys.append(os.environ[KEY].strip())
        if not keys[-1]:
            raise RecipeError(f"{KEY} is set but empty: give it a key, or unset it to serve anyone")
    return tuple(sha256(key.encode()).hexdigest() for key in keys)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise RecipeError(f"no keys file {path}")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise RecipeError(f"{path} has mode {mode:04o}: others may read it; chmod 600 {path}")
    lines = [line.strip() for line in path.read_text().splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise RecipeError(f"{path} has no key: write one a line")
    return keys


class Guard:
    """ASGI middleware: 401 without a key, 413 past `MAX_BODY`, before anything is parsed."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if self.keys and scope["path"] != OPEN and not _admits(self.keys, Headers(scope=scope)):
            message = "send a key this server knows: `Authorization: Bearer KEY`"
            headers = {"www-authenticate": "Bearer"}
            answer = envelope(401, message, code="invalid_api_key", headers=headers)
            return await answer(scope, receive, send)
        await self.app(scope, _limited(scope, receive), send)


def _admits(keys: Sequence[str], headers: Headers) -> bool:
    """Whether a known key was sent; takes as long for any wrong one."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    sent = sha256(key.strip().encode()).hexdigest()
    found = [hmac.compare_digest(sent, known) for known in keys]
    return scheme.lower() == "bearer" and any(found)


def _limited(scope: Scope, receive: Receive) -> Receive:
    declared = Headers(scope=scope).get("content-length", "")
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY or (declared.isdecimal() and int(declared) > MAX_BODY):
            raise Refusal(413, f"the body is over {MAX_BODY:,} bytes: send less, or more requests")
        return message

    return counted


def envelope(
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The one shape of an error (OpenAI's)."""
    kind = TYPES.get(status, "invalid_request_error")
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status, dict(headers or {}))


def handle_errors(routes: FastAPI) -> None:
    """Answer every failure of these routes with an envelope."""
    routes.add_exception_handler(StarletteHTTPException, _refused)
    routes.add_exception_handler(RequestValidationError, _malformed)
    routes.add_exception_handler(Exception, _failed)


async def _refused(request: Request, e: Exception) -> JSONResponse:
    assert isinstance(e, StarletteHTTPException)
    message = str(e.detail)
    if not isinstance(e, Refusal):  # the router's own 404 and 405
        message = f"{request.method} {request.url.path}: {message.lower()}; see /openapi.json"
    param, code = getattr(e, "param", None), getattr(e, "code", None)
    return envelope(e.status_code, message, param, code, e.headers)


async def _malformed(request: Request, e: Exception) -> JSONResponse:
    assert isinstance(e, RequestValidationError)
    first, *_ = e.errors()
    if first["type"] == "json_invalid":
        return envelope(400, f"the body is not JSON: {first['ctx']['error']}")
    param = str(first["loc"][1]) if len(first["loc"]) > 1 else None
    if param is None and "json" not in request.headers.get("content-type", ""):
        return envelope(422, "send the body as JSON, with `content-type: application/json`")
    same = [p for p in e.errors() if p["loc"][1:2] == first["loc"][1:2]]
    says = "; or ".join(dict.fromkeys(f"{p['msg'][0].lower()}{p['msg'][1:]}" for p in same))
    return envelope(422, f"{param or 'the body'}: {says}", param)


async def _failed(request: Request, e: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=e)
    return envelope(500, "internal error; the server's log has the traceback")
