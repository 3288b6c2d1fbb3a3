"""A queue of one model: turns, cancelling."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from serve.desk import Desk
from serve.guard import Refusal


def test_calls_take_turns_and_leave_their_place() -> None:
    async def scene() -> None:
        desk, at_work, go = Desk(2), threading.Event(), threading.Event()
        running = desk.submit(lambda: (at_work.set(), go.wait()))
        waiting = desk.submit(lambda: "second")
        await asyncio.to_thread(at_work.wait)
        with pytest.raises(Refusal):
            desk.submit(lambda: "third")
        assert not waiting.done()
        go.set()
        await running
        assert await waiting == "second"
        assert await desk.submit(lambda: "later") == "later"

    asyncio.run(scene())


class Client:
    """A client that goes away after it was looked at a few times."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    async def is_disconnected(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def test_a_client_that_goes_cancels_its_call() -> None:
    async def scene() -> None:
        desk, cancelled = Desk(1), threading.Event()

        def work(gone: Any) -> None:
            while not gone():
                time.sleep(0.01)
            cancelled.set()

        with pytest.raises(Refusal):
            await desk.answer(Client(2), work)  # type: ignore[arg-type]
        assert await asyncio.to_thread(cancelled.wait, 5)

    asyncio.run(scene())


def test_leaving_a_stream_cancels_its_call() -> None:
    async def scene() -> None:
        desk, cancelled = Desk(1), threading.Event()

        def work(gone: Any) -> Iterator[int]:
            n = 0
            while not gone():
                yield (n := n + 1)
                time.sleep(0.01)
            cancelled.set()

        async for piece in desk.stream(work):
            if piece == 3:
                break
        assert await asyncio.to_thread(cancelled.wait, 5)

    asyncio.run(scene())
