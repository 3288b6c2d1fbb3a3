"""How long a connection may take to say what it wants: uvicorn itself waits for headers without an end.

A subclass of its protocol, put in its place where Serve starts a server. Knows nothing of requests' bodies.
"""

from asyncio import TimerHandle, Transport
from typing import Any

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SECONDS = 10.0
"""From a connection, or from a request's first byte, to the end of its headers (ours; nginx's is 60)."""
ROOM = 1 << 16
"""Most bytes of a request line and headers; more are not even collected (ours; h11's is 64 KiB too)."""


class Patient(HttpToolsProtocol):
    """Closes a connection whose headers are late or without an end."""

    _late: TimerHandle | None = None
    _unread = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        if self._late is not None:
            self._unread += len(data)
            if self._unread > ROOM and b"\r\n\r\n" not in data:  # else the rest is a body's
                return self._cut()
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._late is None:  # one more request of the same connection
            self._wait()

    def on_headers_complete(self) -> None:
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._unread, self._late = 0, self.loop.call_later(SECONDS, self._cut)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _cut(self) -> None:
        self._stop()
        self.transport.abort()


def install() -> None:
    """Have the servers that are started from now on in this process use it."""
    place: Any = auto
    if issubclass(place.AutoHTTPProtocol, HttpToolsProtocol):
        place.AutoHTTPProtocol = Patient
