"""Checkpoints written behind the training: a copy in host memory, then a thread, one at a time.

After CheckFreq (FAST 2021): the training stops for the copy alone. Knows nothing of their format.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.model import checkpoint
from pipeline.model.shards import Part, Tensors
from pipeline.model.world import Group, World


def nothing(meta: dict[str, Any]) -> None:
    """The `then` of a call that needs none."""


class Saver:
    """Writes checkpoints behind the training.

    On the host it costs a copy of what this process writes, kept from one checkpoint to the next:
    with Adam 12 bytes a parameter over all processes together, however the model is spread.
    """

    def __init__(
        self, folder: Path, world: World, among: Group, then: Callable[[dict[str, Any]], None]
    ) -> None:
        self._folder, self._world, self._among, self._then = folder, world, among, then
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._under_way: Future[None] | None = None
        self._host: dict[str, Tensors] = {}

    def save(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, meta: Mapping[str, Any]
    ) -> None:
        """Copy the state after `step` steps, and have it written; the one before is waited for."""
        self.wait()
        parts = checkpoint.copied(model, optimizer, self._world, self._host)
        self._under_way = self._thread.submit(self._put, step, parts, dict(meta))

    def check(self) -> None:
        """Raise what writing has run into, if it has ended."""
        if self._under_way and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Have the last checkpoint on disk, or raise what writing it has run into."""
        task, self._under_way = self._under_way, None
        if task:
            task.result()

    def close(self) -> None:
        """End the thread, after what is under way."""
        self._thread.shutdown()

    def _put(self, step: int, parts: Mapping[str, Part], meta: dict[str, Any]) -> None:
        checkpoint.write(self._folder, self._world, self._among, step, parts, meta)
        if self._world.rank == 0:
            self._then(meta)


@contextmanager
def saver(
    folder: Path, world: World, among: Group, then: Callable[[dict[str, Any]], None] = nothing
) -> Iterator[Saver]:
    """A Saver into `folder`; `then` is called with its meta by rank 0 after each checkpoint, in its thread.

    All of them are on disk when the block ends. StageError when a disk is full.
    """
    made = Saver(folder, world, among, then)
    try:
        yield made
        made.wait()
    finally:
        made.close()
