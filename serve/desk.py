"""One model's queue: calls run in a thread, one at a time, in order, and can be cancelled.

Knows nothing of what a call does.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastapi import Request

from serve.guard import Refusal

T = TypeVar("T")
Cancel = Callable[[], bool]
POLL = 0.1
"""Seconds between looks at whether the client is still there (ours)."""


class Desk:
    """Takes at most `places` calls, the running one included; refuses the next with 429."""

    def __init__(self, places: int) -> None:
        self._places = threading.Semaphore(places)
        self._thread = ThreadPoolExecutor(1)

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Queue `work`. Raises Refusal when the queue is full."""
        if not self._places.acquire(blocking=False):
            message = "too many requests wait for this model; try again shortly"
            raise Refusal(429, message, code="queue_full", headers={"retry-after": "1"})
        call = self._thread.submit(work)
        call.add_done_callback(lambda _: self._places.release())
        return asyncio.wrap_future(call)

    async def answer(self, request: Request, work: Callable[[Cancel], T]) -> T:
        """The result of `work(cancel)`; `cancel()` turns true once the client has gone."""
        gone = threading.Event()
        call = self.submit(lambda: work(gone.is_set))
        try:
            while not call.done():
                await asyncio.wait({call}, timeout=POLL)
                if not call.done() and await request.is_disconnected():
                    raise Refusal(499, "the client has gone")
            return call.result()
        finally:
            gone.set()
            call.cancel()

    def stream(self, work: Callable[[Cancel], Iterator[T]]) -> AsyncIterator[T]:
        """What `work(cancel)` yields, as it comes; leaving the iterator makes `cancel()` true.

        Queued at once: raises Refusal when the queue is full.
        """
        gone = threading.Event()
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[T | None] = asyncio.Queue()

        def fill() -> None:
            try:
                for piece in work(gone.is_set):
                    loop.call_soon_threadsafe(pieces.put_nowait, piece)
            finally:
                loop.call_soon_threadsafe(pieces.put_nowait, None)

        return _drain(pieces, self.submit(fill), gone)


async def _drain(
    pieces: asyncio.Queue[T | None], call: asyncio.Future[None], gone: threading.Event
) -> AsyncIterator[T]:
    """The pieces up to None, then the failure of `call` if it failed."""
    try:
        while (piece := await pieces.get()) is not None:
            yield piece
        await call
    finally:
        gone.set()
        call.cancel()
