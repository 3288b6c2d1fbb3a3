"""One line of JSON a request, with its id; the id is in the answer too. Never a word of a prompt.

Knows nothing of keys or of models: both leave what is to be told in the request's state.
"""

import asyncio
import json
import logging
import re
import sys
import time
import uuid
from datetime import UTC, datetime
from http import HTTPMethod
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.guard import envelope
from serve.metrics import Meters

log = logging.getLogger("serve.requests")

ID = "x-request-id"
SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What a client's own id may be, so that it cannot forge a line of a log (ours)."""
METHODS = frozenset(HTTPMethod)
"""Those that are counted by their name; a client may make up as many as it likes."""
GONE = 499
"""The status of a request whose client went away (nginx's)."""


def setup() -> None:
    """Lines of JSON on stderr, for all of this package; Ray keeps a replica's with its logs."""
    handler = logging.StreamHandler(sys.__stderr__)  # Serve puts its own log in place of sys.stderr
    handler.setFormatter(Lines())
    ours = logging.getLogger("serve")
    ours.handlers, ours.propagate = [handler], False
    ours.setLevel(logging.INFO)


class Lines(logging.Formatter):
    """A record as one JSON object; `extra={"told": {...}}` adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": at, "level": record.levelname, "logger": record.name}
        line |= {"message": record.getMessage(), **getattr(record, "told", {})}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class Access:
    """ASGI middleware: gives each request its id, times it, counts it, logs it; answers 500 for what
    nobody foresaw."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self.app, self.meters = app, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        sent = Headers(scope=scope).get(ID, "")
        state: dict[str, Any] = scope.setdefault("state", {})
        state["began"] = time.monotonic()
        state["id"] = sent if SANE.fullmatch(sent) else uuid.uuid4().hex
        answer = _Seen(send, state["id"])
        try:
            await self.app(scope, receive, answer)
        except asyncio.CancelledError:
            answer.status = GONE
            raise
        except Exception:
            log.exception("a route failed", extra={"told": {"request": state["id"]}})
            if answer.status:
                raise
            message = "internal error; the server's log has the traceback"
            await envelope(500, message)(scope, receive, answer)
        finally:
            self._tell(scope, answer.status or GONE)

    def _tell(self, scope: Scope, status: int) -> None:
        state = scope["state"]
        if state.get("gone"):  # a stream's 200 is out before its client goes
            status = GONE
        seconds = time.monotonic() - state["began"]
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.meters.answered(route, method, status, seconds)
        if status >= 400:
            self.meters.erred(str(state.get("code") or status))
        told = {"request": state["id"], "key": state.get("client", "")[:8], "route": route}
        told |= {"method": scope["method"], "status": status, "ms": round(1000 * seconds, 1)}
        log.info("request", extra={"told": told | state.get("told", {})})


class _Seen:
    """`send` that adds the id and remembers the status; 0 while there is none."""

    def __init__(self, send: Send, name: str) -> None:
        self._send, self._name, self.status = send, name, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)[ID] = self._name
        await self._send(message)
