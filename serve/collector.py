"""The judge's queue: one thread judges, and while it works the texts of all requests gather.

The next call takes texts in order of arrival, of as many requests as there are, up to a budget; the
judge sorts them by length. Texts whose client has gone are dropped before they are judged, and one
request's failure stays its own. Knows nothing of what a judge is, or of any route's shape.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import Request

from serve.calls import full, gone, left

if TYPE_CHECKING:  # torch takes seconds; only the replica pays them
    from pipeline.model.scorer import Score

BUDGET = 200_000
"""Characters of one call of the judge (ours; `tests.bench.serve` measures it)."""
LONGEST = 6_000
"""Characters that a text counts at most, since a judge reads three windows of it (ours)."""


class Asked:
    """One request's texts, how many of them are taken, and their scores as they come."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts, self.taken, self.scores = texts, 0, list["Score"]()
        self.answer: Future[list[Score]] = Future()


class Part(NamedTuple):
    """Some texts of one request, in order."""

    asked: Asked
    texts: Sequence[str]


class Collector:
    """Takes at most `places` requests, those at work included; refuses the next with 429.

    score: one score a text, in order, of any texts together.
    """

    def __init__(self, score: Callable[[Sequence[str]], "list[Score]"], places: int) -> None:
        self._score, self._places = score, places
        self._open: deque[Asked] = deque()
        self._lock, self._thread = threading.Lock(), ThreadPoolExecutor(1)

    @property
    def waiting(self) -> int:
        """Texts that are not yet at work."""
        with self._lock:
            return sum(len(a.texts) - a.taken for a in self._open)

    def submit(self, texts: Sequence[str]) -> Asked:
        """Queue `texts`. Refusal 429 where there is no place."""
        asked = Asked(texts)
        with self._lock:
            if len(self._open) >= self._places:
                raise full()
            self._open.append(asked)
        self._thread.submit(self._round)
        return asked

    def drop(self, asked: Asked) -> None:
        """Give up a request's place, and what of it is not yet at work; idempotent."""
        with self._lock, suppress(ValueError):
            self._open.remove(asked)
        asked.answer.cancel()

    async def answer(self, request: Request, texts: Sequence[str]) -> "list[Score]":
        """One score a text. Refusal 429 as `submit`, 499 when the client has gone; whatever else ends
        the wait gives the texts up too."""
        asked = self.submit(texts)
        leaving: asyncio.Future[Any] = asyncio.ensure_future(left(request))
        scores = asyncio.wrap_future(asked.answer)
        try:
            both: set[asyncio.Future[Any]] = {scores, leaving}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if scores.done():
                return scores.result()
            raise gone()
        finally:
            leaving.cancel()
            self.drop(asked)

    def _round(self) -> None:
        """One call of the judge, and a next round where texts are left."""
        if parts := self._take():
            self._judge(parts)
        if self.waiting:
            self._thread.submit(self._round)

    def _take(self) -> list[Part]:
        parts, room = list[Part](), BUDGET
        with self._lock:
            for asked in self._open:
                start = asked.taken
                while room > 0 and asked.taken < len(asked.texts):
                    room -= min(LONGEST, len(asked.texts[asked.taken]))
                    asked.taken += 1
                if asked.taken > start:
                    parts.append(Part(asked, asked.texts[start : asked.taken]))
        return parts

    def _judge(self, parts: Sequence[Part]) -> None:
        try:
            found = iter(self._score([text for part in parts for text in part.texts]))
        except Exception as e:
            if len(parts) == 1:
                return self._fail(parts[0].asked, e)
            for part in parts:  # whose fault is it?
                self._judge([part])
            return
        for asked, texts in parts:
            asked.scores += [next(found) for _ in texts]
            if len(asked.scores) == len(asked.texts):
                with suppress(InvalidStateError):  # nobody waits any more
                    asked.answer.set_result(asked.scores)

    def _fail(self, asked: Asked, e: Exception) -> None:
        with suppress(InvalidStateError):
            asked.answer.set_exception(e)
        self.drop(asked)
