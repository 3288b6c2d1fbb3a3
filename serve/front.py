"""What stands before Serve's own code, wherever that listens: in its proxy, or in a replica.

Serve answers some requests itself, as plain text: when it is full, when time is up, when it has no
such path; where a replica has died it raises, or returns without a word. Here all get the shape that
errors have. Knows nothing of keys.
"""

import logging
from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import wire
from serve.guard import AGAIN, TIMEOUT, TOLD, envelope
from serve.logs import ID, SANE

log = logging.getLogger(__name__)

GONE = "the replica that was to answer has ended; ask again, another will"
HIDDEN = "/-/routes"
"""Serve's list of applications; `/-/healthz`, which says no more than /health, stays for probes."""


def middlewares() -> Sequence[Middleware]:
    """For RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH: asked before the server is made."""
    wire.install()
    return [Middleware(Front)]


class Front:
    """ASGI middleware: Serve's own errors as envelopes, its routes hidden, one sane request id, and a
    client's time limit for us alone."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"] == HIDDEN:
            return await envelope(404, f"{HIDDEN}: not found; see /openapi.json")(
                scope, receive, send
            )
        headers = MutableHeaders(scope=scope)
        if not SANE.fullmatch(headers.get(ID, "-")):
            del headers[ID]
        if TIMEOUT in headers:
            headers[TOLD] = headers[TIMEOUT]
            del headers[TIMEOUT]
        answer = _Shaped(scope, receive, send)
        try:
            await self.app(scope, receive, answer)
        except Exception:
            if answer.begun:
                raise
            log.exception("Serve has lost request %s", headers.get(ID, ""))
        if not answer.begun:
            more = AGAIN | ({ID: headers[ID]} if ID in headers else {})
            await envelope(503, GONE, code="serve", headers=more)(scope, receive, send)


class _Shaped:
    """`send` that holds back a plain error until its text is there."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._held: Message | None = None
        self._text = b""
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if name := headers.get(ID):  # Serve adds its own to the one that is there
                headers[ID] = name
            plain = headers.get("content-type", "").startswith("text/plain")
            if message["status"] >= 400 and plain:
                self._held = message
                return
        if self._held is None:
            self.begun = True
            return await self._send(message)
        self._text += message.get("body", b"")
        if not message.get("more_body", False):
            await self._say(self._held)

    async def _say(self, held: Message) -> None:
        self.begun = True
        before = MutableHeaders(scope=held)
        kept = {k: before[k] for k in (ID, "retry-after") if k in before}
        text = self._text.decode(errors="replace").strip() or "no reason was given"
        answer = envelope(held["status"], text, code="serve", headers=kept)
        await answer(self._scope, self._receive, self._send)
