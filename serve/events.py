"""Server-sent events: chunks to lines, a failure to one more event, `[DONE]` at the end.

Knows nothing of what a chunk says.
"""

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from serve.guard import Refusal, envelope

log = logging.getLogger(__name__)


def answer(content: Mapping[str, Any], response: Response) -> JSONResponse:
    """A whole answer, with the headers that were set on `response`."""
    return JSONResponse(content, headers=dict(response.headers))


def stream(
    chunks: AsyncIterator[Mapping[str, Any]], response: Response, end: str = "data: [DONE]\n\n"
) -> StreamingResponse:
    """The chunks as they come, then `end`."""
    headers = {**response.headers, "cache-control": "no-cache", "x-accel-buffering": "no"}
    return _Closing(_lines(chunks, end), headers=headers, media_type="text/event-stream")


class _Closing(StreamingResponse):
    """Ends its chunks, and the calls behind them, whatever ends it: a deadline's last event may wait for a
    reader that does not read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if isinstance(self.body_iterator, AsyncGenerator):
                await self.body_iterator.aclose()


async def _lines(chunks: Any, end: str) -> AsyncGenerator[str, None]:
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield _line(chunk)
    except Refusal as e:
        # The status line is out; the error can only be one more event.
        if e.status_code == 499:
            return
        yield _line(_error(e.status_code, str(e.detail), e.param, e.code))
    except Exception:
        log.exception("a stream failed")
        yield _line(_error(500, "internal error; the server's log has the traceback"))
    yield end


def _error(status: int, *args: Any) -> Any:
    return json.loads(bytes(envelope(status, *args).body))


def _line(chunk: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
