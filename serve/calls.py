"""One request's calls on an engine, followed from the event loop that answers it.

The engine tells its pieces from its own thread; here they arrive in one queue, and so does the
client's leaving, which ends all calls. Knows nothing of any shape of request or answer.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Literal, NamedTuple

from fastapi import Request

from pipeline.model.engine import Call, Engine, Full, Piece, Sampling
from serve.guard import AGAIN, Refusal
from serve.metrics import Watch

RETRY = 0.05
"""Seconds until a row finds out whether a full queue still is (ours)."""


class Row(NamedTuple):
    """One completion to make: of these token ids, drawing as this sample of the seed."""

    ids: list[int]
    sample: int


class Calls:
    """The rows of one request. As many run at once as the engine has slots; the rest wait here,
    so that a long list does not take the whole queue.

    Iterate for (row number, piece), in the order in which they come; a row's last piece has a
    finish_reason. Raises Refusal: 429 at once where the queue is full, later 499 when the client
    has gone. Whatever ends the iteration ends the calls.
    """

    def __init__(
        self,
        engine: Engine,
        rows: Sequence[Row],
        sampling: Sampling,
        request: Request,
        watch: Watch,
    ) -> None:
        self._engine, self._sampling = engine, sampling
        self._watch, self._lengths = watch, [len(row.ids) for row in rows]
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Piece] | Exception | None] = asyncio.Queue()
        self._waiting = deque(enumerate(rows))
        self._running: dict[int, Call] = {}
        self._begun: set[int] = set()
        self._again: asyncio.TimerHandle | None = None
        self._at_once = max(1, engine.load().slots)
        try:
            self._submit()
        except BaseException:  # a row that the engine refuses takes those before it along
            self.cancel()
            raise
        if not self._running:
            raise full()
        self._guard = self._loop.create_task(self._leave(request))

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        try:
            while self._running or self._waiting:
                event = await self._events.get()
                if isinstance(event, Exception):
                    raise event
                if event:
                    self._count(*event)
                    yield event
                self._submit()
        finally:
            self._guard.cancel()
            self.cancel()

    def cancel(self) -> None:
        """End every row; those that run still tell a last piece."""
        self._waiting.clear()
        self._calm()
        for call in self._running.values():
            call.cancel()

    def _submit(self) -> None:
        self._calm()
        while self._waiting and len(self._running) < self._at_once:
            k, row = self._waiting[0]
            try:
                call = self._engine.submit(row.ids, self._sampling, self._tell(k), row.sample)
            except Full:
                self._again = self._loop.call_later(RETRY, self._events.put_nowait, None)
                return
            except ValueError as e:  # what this engine alone does not take
                raise Refusal(400, str(e), str(e).split()[0]) from None
            self._running[k] = call
            self._waiting.popleft()

    def _calm(self) -> None:
        """Forget that it would be tried again: each event tries, and there is one timer at most."""
        if self._again:
            self._again.cancel()

    def _count(self, k: int, piece: Piece) -> None:
        if k not in self._begun:
            self._begun.add(k)
            self._watch.prompt(self._lengths[k], piece.cached_tokens)
        self._watch.piece(len(piece.tokens), k)
        if piece.finish_reason:
            del self._running[k]

    def _tell(self, k: int) -> Callable[[Piece | Exception], None]:
        def tell(piece: Piece | Exception) -> None:
            event = piece if isinstance(piece, Exception) else (k, piece)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._events.put_nowait, event)

        return tell

    async def _leave(self, request: Request) -> None:
        await left(request)
        request.state.gone = True
        self.cancel()  # at once: whoever iterates may be stuck writing to the client
        self._events.put_nowait(gone())


async def wholes(calls: Calls) -> list[Piece]:
    """Every row as one piece, in order, once all have ended."""
    pieces: dict[int, list[Piece]] = {}
    async for k, piece in calls:
        pieces.setdefault(k, []).append(piece)
    return [whole(pieces[k]) for k in sorted(pieces)]


def whole(pieces: Sequence[Piece]) -> Piece:
    """All pieces of a row as one."""
    return Piece(
        text="".join(p.text for p in pieces),
        tokens=list(chain.from_iterable(p.tokens for p in pieces)),
        logprobs=list(chain.from_iterable(p.logprobs for p in pieces)),
        top=list(chain.from_iterable(p.top for p in pieces)),
        finish_reason=pieces[-1].finish_reason,
        prompt=pieces[0].prompt,
        cached_tokens=pieces[0].cached_tokens,
        sentinel=pieces[-1].sentinel,
    )


def settled(piece: Piece) -> Literal["stop", "length"] | None:
    """Why a row ended, as clients know it. Refusal 503 where the engine gave it up."""
    if piece.finish_reason == "cancelled":
        raise Refusal(503, "the model is being stopped", code="stopping", headers=AGAIN)
    return piece.finish_reason


def full() -> Refusal:
    """A queue without a place."""
    message = "too many requests wait for this model; try again shortly"
    return Refusal(429, message, code="queue_full", headers=AGAIN)


def gone() -> Refusal:
    """A client that nobody can answer any more."""
    return Refusal(499, "the client has gone", code="client_closed_request")


async def left(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
