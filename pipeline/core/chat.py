"""Asks a model behind an OpenAI-compatible endpoint, and never the same thing twice.

An answer is kept under a hash of the whole request (model, settings, messages), created at once or
not at all, the moment it arrives: who asks again, after kill -9 too, reads it from there. Failing,
stalling and rate-limiting servers are asked again; money has a hard cap. Knows nothing of what is asked.
"""

import json
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial

from pipeline.core.endpoint import (
    Answer,
    Body,
    Endpoint,
    Failure,
    Record,
    Reply,
    Spent,
    answer,
    bound,
    holds,
)
from pipeline.core.line import Line, connected, reply
from pipeline.core.store import Store

log = logging.getLogger(__name__)


def ask(
    requests: Callable[[int], Body],
    names: Sequence[str],
    cfg: Endpoint,
    store: Store,
    folder: str,
    seen: Callable[[int, Reply], None],
) -> Spent:
    """Have every request answered, in this order; `seen(number, reply)` is told each reply once.

    requests, names: each request by its number, and the names of all; equal ones are asked once and
    told for each. Answers recorded in the store's `folder` come first, and cost nothing again. What
    the budget does not hold is not asked, and nothing is told of it. `seen` may raise to stop: what
    is under way is still recorded. Returns what all told answers cost together. StageError where no
    request can succeed.
    """
    numbers: dict[str, list[int]] = {}
    for number, one in enumerate(names):
        numbers.setdefault(one, []).append(number)
    spent, todo = Spent(), deque[str]()
    for one, kept in recorded(list(numbers), store, folder):
        if kept is None:
            todo.append(one)
            continue
        spent += kept.spent
        for number in numbers[one]:
            seen(number, kept)
    log.info("%s: %d answers are there, %d to ask for", folder, len(numbers) - len(todo), len(todo))
    if not todo:
        return spent
    keep = partial(_keep, store=store, folder=folder)
    with (
        connected(cfg) as line,
        closing(_asked(todo, lambda n: requests(numbers[n][0]), spent, line, keep)) as replies,
    ):
        for one, found in replies:
            spent += found.spent if isinstance(found, Answer) else Spent()
            for number in numbers[one]:
                seen(number, found)
    return spent


def recorded(
    names: Sequence[str], store: Store, folder: str
) -> Iterator[tuple[str, Answer | None]]:
    """(name, its answer or None) of every name, in their order."""
    there = {
        file for two in {n[:2] for n in names} for file in store.list(*_place(folder, two)[:-1])
    }
    for one in names:
        found = store.load(*_place(folder, one)) if f"{one}.json" in there else None
        yield one, None if found is None else answer(found)


def _place(folder: str, one: str) -> tuple[str, ...]:
    return (folder, one[:2], f"{one}.json")


def _keep(one: str, found: Record, store: Store, folder: str) -> None:
    store.create(json.dumps(found).encode(), *_place(folder, one))


def _asked(
    todo: deque[str],
    body: Callable[[str], Body],
    spent: Spent,
    line: Line,
    keep: Callable[[str, Record], None],
) -> Generator[tuple[str, Reply], None, None]:
    """Replies as they arrive. A request is sent when the budget holds it beside all under way."""
    running: dict[Future[Reply], tuple[str, Spent]] = {}
    with ThreadPoolExecutor(line.cfg.concurrency) as pool:
        try:
            while True:
                while todo and len(running) < line.cfg.concurrency:
                    request = body(todo[0])
                    most = bound(request, line.cfg)
                    if not holds(sum((m for _, m in running.values()), spent + most), line.cfg):
                        break
                    future = pool.submit(_answered, todo[0], request, line, keep)
                    running[future] = (todo.popleft(), most)
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    one, _ = running.pop(future)
                    found = future.result()
                    spent += found.spent if isinstance(found, Answer) else Spent()
                    yield one, found
        finally:
            line.stop.set()


def _answered(one: str, body: Body, line: Line, keep: Callable[[str, Record], None]) -> Reply:
    """The reply to one request, recorded by the thread that got it, before anybody sees it."""
    found = reply(one, body, line)
    if isinstance(found, Failure):
        return found
    keep(one, found)
    return answer(found)
