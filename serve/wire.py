"""What one connection may do: uvicorn's HTTP/1.1, with an end to a head that never comes, an answer that
is never read, and bytes that are no request. Refusals have the shape that all errors have.

Knows nothing of routes; what a request may be once its head is there is `guard`'s.
"""

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.guard import envelope

HEAD_S = 10.0
"""Most seconds until a request's head is there, or the rest of a refused one's body (ours)."""
UNREAD_S = 30.0
"""Most seconds that an answer may wait for its reader (ours)."""
HEAD = 65_536
"""Most bytes of a head (h11's and HAProxy's are 16 KiB; Node's was 80)."""


def install() -> None:
    """Have every server that this process starts from now on speak so, Ray Serve's too."""
    auto.AutoHTTPProtocol = Wire


class Wire(HttpToolsProtocol):
    """One connection."""

    _timer: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _head = 0
    _whole = True
    _begun, _ahead, _heading = 0, 0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._hurry()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._stuck):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        begun = self._begun
        super().data_received(data)
        self._ahead += len(data) if self._heading and self._begun == begun else 0
        if (
            self._busy and self._ahead > HEAD
        ):  # of the next request: an answer is under way, so no refusal
            self.transport.close()
        if self.transport.is_closing() or self._busy:
            return
        self._hurry()
        self._head += len(data) if self._whole else 0
        if self._head > HEAD:
            self._refuse(431, f"the headers are over {HEAD:,} bytes: send fewer or shorter ones")

    def on_message_begin(self) -> None:
        self._begun, self._ahead, self._heading = self._begun + 1, 0, True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._heading = False
        self._head, self._whole = 0, False
        if self._timer:
            self._timer.cancel()
            self._timer = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._whole = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck:
            self._stuck.cancel()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for bytes that are no request."""
        self._refuse(400, "this is no HTTP/1.1 request")

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _hurry(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_S, self._late)

    def _late(self) -> None:
        self._timer = None
        if self._busy:
            return
        if self._head:
            self._refuse(408, f"the headers did not come in {HEAD_S:g} s: send them at once")
        self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        body = bytes(envelope(status, message).body)
        head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/json"]
        head += [f"content-length: {len(body)}", "connection: close", "", ""]
        self.transport.write("\r\n".join(head).encode() + body)
        self.transport.close()
