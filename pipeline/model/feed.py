"""The steps' batches, built by a thread while the step before is computed; their order is kept.

Rows are cut into parts that one forward pass takes, in pinned memory where a GPU waits for them.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch

from pipeline.model.batches import Batches
from pipeline.model.world import World

T = TypeVar("T")
AHEAD = 2
"""Batches built before they are asked for (ours: one in use of a late disk)."""


class Part(NamedTuple):
    """Some rows of a batch: int64 (B, T) twice, and int32 or None; on the CPU."""

    ids: torch.Tensor
    labels: torch.Tensor
    documents: torch.Tensor | None


def parts(batches: Batches, micro: int, world: World, step: int) -> list[Part]:
    """This process's rows of a step, in parts of at most `micro` tokens and at least a row."""
    batch = batches.batch(step, world.rank, world.size)
    rows, pinned = max(1, micro // batches.length), world.device.type == "cuda"
    made = [None if x is None else torch.from_numpy(x) for x in batch]
    ids, labels, documents = [x.pin_memory() if pinned and x is not None else x for x in made]
    assert ids is not None
    assert labels is not None
    cuts = [slice(i, i + rows) for i in range(0, len(ids), rows)]
    return [Part(ids[c], labels[c], None if documents is None else documents[c]) for c in cuts]


def ahead(
    load: Callable[[int], T], steps: Iterable[int]
) -> Generator[tuple[int, T, float], None, None]:
    """(step, load(step), seconds waited for it) in the order of `steps`; a thread loads AHEAD more.

    What `load` raises is raised here, at its step. Close the generator to end the thread early.
    """
    waiting: deque[tuple[int, Future[T]]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as thread:
        try:
            for step in steps:
                waiting.append((step, thread.submit(load, step)))
                if len(waiting) > AHEAD:
                    yield _taken(*waiting.popleft())
            while waiting:
                yield _taken(*waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()


def _taken(step: int, future: "Future[T]") -> tuple[int, T, float]:
    asked = time.perf_counter()
    return step, future.result(), time.perf_counter() - asked
