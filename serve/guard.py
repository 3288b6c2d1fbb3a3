"""What stands before every route: keys, limits, deadlines, and one shape for every error.

Knows nothing of models.
"""

import asyncio
import math
from base64 import b64decode
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.keys import Keyring
from serve.limits import Rates, TooLarge, TooSlow, header_bytes, limited
from serve.settings import Settings

OPEN = frozenset({"/health", "/ready"})
"""The routes that need no key and have no rate."""
BASIC = 'Basic realm="Icefloe: the key is the password", charset="UTF-8"'
"""What makes a browser ask its user for the key."""
ANYONE = "anyone"
"""The client whom a rate counts where there are no keys."""
TIMEOUT = "x-request-timeout-seconds"
"""The header by which a client allows less time than the settings do (Ray Serve's name)."""
TOLD = "x-icefloe-timeout-seconds"
"""Where `front` puts it, so that Serve does not end the request first, as plain text."""
AGAIN = {"retry-after": "1"}
"""Headers of a refusal that may be over in a second."""
TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error"}
TYPES |= {408: "timeout_error", 503: "unavailable_error", 504: "timeout_error"}


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


class Guard:
    """ASGI middleware: refuses what may not pass before anything is parsed, and ends what takes too
    long. `settings` is asked at every request."""

    def __init__(self, app: ASGIApp, keys: Keyring, settings: Callable[[], Settings]) -> None:
        self.app, self.keys, self.settings, self.rates = app, keys, settings, Rates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        settings = self.settings()
        more: dict[str, str] = {}
        answer, deadline = _Answer(send, more), asyncio.timeout(None)
        try:
            if scope["path"] not in OPEN:
                more |= self._admit(scope, settings)
            body = _refusing(limited(scope, receive, settings.max_body, settings.body_timeout_s))
            seconds = _seconds(Headers(scope=scope), settings.timeout_s)
            async with deadline:
                deadline.reschedule(asyncio.get_running_loop().time() + seconds)
                await self.app(scope, body, answer)
        except Refusal as e:
            await _say(e, scope)(scope, receive, answer)
        except TimeoutError:
            if not deadline.expired():
                raise
            message = f"no answer in {seconds:g} s: ask for less, or later"
            await answer.end(Refusal(504, message, code="timeout"), scope, receive)

    def _admit(self, scope: Scope, settings: Settings) -> dict[str, str]:
        """Headers that tell of the rate; Refusal where the request may not pass."""
        client = self._client(Headers(scope=scope))
        scope.setdefault("state", {})["client"] = client
        if header_bytes(scope) > settings.max_header:
            message = (
                f"the headers are over {settings.max_header:,} bytes: send fewer or shorter ones"
            )
            raise Refusal(431, message, headers={"connection": "close"})
        if settings.draining:
            message = "this server is going away; ask again, another may answer"
            raise Refusal(503, message, code="draining", headers={"retry-after": "5"})
        if settings.rate_per_minute is None:
            return {}
        allowance = self.rates.take(client, settings.rate_per_minute)
        if allowance.wait:
            message = (
                f"over {settings.rate_per_minute} requests a minute; wait as `retry-after` says"
            )
            raise Refusal(429, message, code="rate_limit_exceeded", headers=allowance.headers)
        return allowance.headers

    def _client(self, headers: Headers) -> str:
        """The hash of the key that was sent, or ANYONE where none is asked."""
        if not self.keys:
            _check_site(headers)
            return ANYONE
        key = _key(headers)
        known = None if key is None else self.keys.who(key)
        if known is None:
            message = "send a key this server knows: `Authorization: Bearer KEY`"
            asks = BASIC if "text/html" in headers.get("accept", "") else "Bearer"
            more = {"www-authenticate": asks}
            raise Refusal(401, message, code="invalid_api_key", headers=more)
        return known


def _seconds(headers: Headers, most: float) -> float:
    """How long an answer may take: what the client allows, at most `most`."""
    sent = headers.get(TOLD, headers.get(TIMEOUT))
    try:
        seconds = most if sent is None else float(sent)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise Refusal(400, f"{TIMEOUT} is {sent!r}: a number of seconds above 0", TIMEOUT)
    return min(seconds, most)


def _key(headers: Headers) -> str | None:
    """What was sent as a key: Bearer's, or Basic's password, which a browser sends for the page. Other
    sites' pages make it send that too, and are told by their origin."""
    scheme, _, sent = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return sent.strip()
    try:
        known = b64decode(sent).decode().partition(":")[2]
    except ValueError:
        return None
    return known if scheme.lower() == "basic" and _same_site(headers) else None


def _check_site(headers: Headers) -> None:
    """Refusal where a browser asks for another site's page: by its origin, or by a name of its own that
    was made to lead here (DNS rebinding; an address cannot be)."""
    host = headers.get("host", "")
    if not (_local(host) and _same_site(headers)):
        message = (
            f"without a key this server answers to localhost and addresses alone, and no other site's "
            f"pages: not {headers.get('origin', host)!r}. Give it a key to be reached by other names"
        )
        raise Refusal(403, message, code="host_not_allowed")


def _local(host: str) -> bool:
    """Whether a Host header is localhost or an IP address, with or without a port."""
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        return name == "localhost" or name.endswith(".localhost") or bool(ip_address(name))
    except ValueError:
        return False


def _same_site(headers: Headers) -> bool:
    """Whether no browser says that another site's page asks. A proxy may rewrite Host; no page can write
    the header that its browser then goes by."""
    if headers.get("sec-fetch-site") == "same-origin":
        return True
    origin = headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == headers.get("host")
    except ValueError:
        return False


class _Answer:
    """`send` that adds headers, and can still end an answer that has begun."""

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self._send, self._headers = send, headers
        self._events: bool | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers.setdefault(name, value)
            self._events = headers.get("content-type", "").startswith("text/event-stream")
        await self._send(message)

    async def end(self, refusal: Refusal, scope: Scope, receive: Receive) -> None:
        """As an answer, or as a stream's last event; an answer that is half out breaks off."""
        said = _say(refusal, scope)
        if self._events is None:
            return await said(scope, receive, self)
        if not self._events:
            raise refusal
        last = b"data: " + bytes(said.body) + b"\n\ndata: [DONE]\n\n"
        await self._send({"type": "http.response.body", "body": last, "more_body": False})


def _refusing(receive: Receive) -> Receive:
    """`receive` whose troubles are refusals; the rest of the body is not waited for."""
    close = {"connection": "close"}

    async def asked() -> Message:
        try:
            return await receive()
        except TooLarge:
            message = "the body is too large: send less, or more requests"
            raise Refusal(413, message, headers=close) from None
        except TooSlow:
            message = "the body did not come in time: send it at once"
            raise Refusal(408, message, headers=close) from None

    return asked


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
    """Answer every refusal of these routes with an envelope."""
    routes.add_exception_handler(StarletteHTTPException, _refused)
    routes.add_exception_handler(RequestValidationError, _malformed)


def _say(e: StarletteHTTPException, scope: Scope) -> JSONResponse:
    """The envelope of a refusal; its code is left for the meters."""
    param, code = getattr(e, "param", None), getattr(e, "code", None)
    scope.setdefault("state", {})["code"] = code
    return envelope(e.status_code, str(e.detail), param, code, e.headers)


async def _refused(request: Request, e: Exception) -> JSONResponse:
    assert isinstance(e, StarletteHTTPException)
    if e.status_code == 400 and not isinstance(e, Refusal):  # FastAPI's, for what json chokes on
        e.detail = "the body cannot be read: it nests too deep, or has too long a number"
    elif not isinstance(e, Refusal):  # the router's own 404 and 405
        e.detail = f"{request.method} {request.url.path}: {e.detail.lower()}; see /openapi.json"
    return _say(e, request.scope)


async def _malformed(request: Request, e: Exception) -> JSONResponse:
    assert isinstance(e, RequestValidationError)
    first, *_ = e.errors()
    if first["type"] == "json_invalid":
        return envelope(400, f"the body is not JSON: {first['ctx']['error']}")
    param = str(first["loc"][1]) if len(first["loc"]) > 1 else None
    if param is None and "json" not in request.headers.get("content-type", ""):
        return envelope(422, "send the body as JSON, with `content-type: application/json`")
    same: list[Any] = [p for p in e.errors() if p["loc"][1:2] == first["loc"][1:2]]
    says = "; or ".join(dict.fromkeys(f"{p['msg'][0].lower()}{p['msg'][1:]}" for p in same))
    return envelope(422, f"{param or 'the body'}: {says}", param)
