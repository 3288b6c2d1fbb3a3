"""The judge's queue: requests share calls, in order and in bounds; who leaves or fails is alone in it."""

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any

import pytest
from fastapi import Request

from pipeline.model.scorer import Score
from serve import collector
from serve.collector import Collector
from serve.guard import Refusal
from serve.state import State
from tests.tiny import TEXTS


class Judge:
    """Scores a text by its length, `bad` not at all; waits at its first call until it may go on."""

    def __init__(self, held: bool = False) -> None:
        self.calls, self.go, self.begun = list[list[str]](), threading.Event(), threading.Event()
        if not held:
            self.go.set()

    def __call__(self, texts: Sequence[str]) -> list[Score]:
        self.begun.set()
        assert self.go.wait(10)
        self.calls.append(list(texts))
        if "bad" in texts:
            raise RuntimeError("a bad text")
        return [Score(len(t), (len(t),), False) for t in texts]


def values(asked: collector.Asked) -> list[float]:
    return [score.score for score in asked.answer.result(10)]


def test_what_gathers_is_judged_together_and_in_order() -> None:
    judge = Judge(held=True)
    queue = Collector(judge, 9)
    first = queue.submit(["a"])
    assert judge.begun.wait(10)
    others = [queue.submit(["b" * k, "c" * k]) for k in range(1, 5)]
    assert queue.waiting == 8
    judge.go.set()
    assert values(first) == [1]
    assert [values(o) for o in others] == [[k, k] for k in range(1, 5)]
    assert [len(call) for call in judge.calls] == [1, 8]
    assert judge.calls[1] == [text for o in others for text in o.texts]


def test_a_call_is_bounded_and_a_request_may_take_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "BUDGET", 10)
    judge = Judge()
    queue = Collector(judge, 2)
    sizes = [3, 3, 3, 3, 20, 1, 1]
    assert values(queue.submit(["x" * n for n in sizes])) == sizes
    assert [sum(map(len, call)) for call in judge.calls] == [12, 20, 2]


def test_a_full_queue_refuses_until_a_place_is_free() -> None:
    judge = Judge(held=True)
    queue = Collector(judge, 2)
    kept, left = queue.submit(["a"]), queue.submit(["b"])
    with pytest.raises(Refusal) as refusal:
        queue.submit(["c"])
    assert refusal.value.status_code == 429
    queue.drop(left)
    later = queue.submit(["d"])
    judge.go.set()
    assert (values(kept), values(later)) == ([1], [1])
    assert ["b"] not in judge.calls
    with pytest.raises(CancelledError):
        left.answer.result(0)


def test_one_requests_failure_is_its_own() -> None:
    judge = Judge(held=True)
    queue = Collector(judge, 9)
    queue.submit(["first"])
    assert judge.begun.wait(10)
    good, bad, more = queue.submit(["aa"]), queue.submit(["bad", "x"]), queue.submit(["bbb"])
    judge.go.set()
    assert (values(good), values(more)) == ([2], [3])
    with pytest.raises(RuntimeError, match="a bad text"):
        bad.answer.result(10)


def asking(messages: Callable[[], Any]) -> Request:
    return Request({"type": "http"}, receive=messages)


def test_a_client_that_leaves_drops_its_texts() -> None:
    async def scene() -> None:
        judge, gone = Judge(held=True), asyncio.Event()
        queue = Collector(judge, 9)

        async def leaving() -> dict[str, str]:
            await gone.wait()
            return {"type": "http.disconnect"}

        first = queue.submit(["first"])
        await asyncio.to_thread(judge.begun.wait, 10)
        answer = asyncio.ensure_future(queue.answer(asking(leaving), ["mine"]))
        await asyncio.sleep(0)
        gone.set()
        with pytest.raises(Refusal) as refusal:
            await answer
        assert refusal.value.status_code == 499
        assert queue.waiting == 0
        judge.go.set()
        await asyncio.wrap_future(first.answer)
        await asyncio.to_thread(values, queue.submit(["last"]))
        assert judge.calls == [["first"], ["last"]]

    asyncio.run(scene())


def test_a_request_whose_time_is_up_is_dropped() -> None:
    async def scene() -> None:
        judge = Judge(held=True)
        queue = Collector(judge, 9)

        async def staying() -> dict[str, str]:
            await asyncio.sleep(60)
            raise AssertionError

        first = queue.submit(["first"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await queue.answer(asking(staying), ["late"])
        judge.go.set()
        assert await asyncio.to_thread(values, first) == [5]
        assert await asyncio.to_thread(values, queue.submit(["next"])) == [4]
        assert ["late"] not in judge.calls

    asyncio.run(scene())


def test_a_real_judges_scores_do_not_depend_on_company(state: State) -> None:
    judge, rng = state.judged(), random.Random(0)
    texts = [rng.choice(TEXTS) * rng.randrange(6) for _ in range(40)]
    alone = [judge.score([t])[0].score for t in texts]
    queue = Collector(lambda some: judge.score(some, located=True), 20)
    asked = [queue.submit(texts[k : k + 3]) for k in range(0, 40, 3)]
    together = [score for a in asked for score in values(a)]
    assert together == pytest.approx(alone, abs=1e-6)
