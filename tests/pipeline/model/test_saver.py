"""Checkpoints are written behind the training: what they hold, when they are there, what goes wrong."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.errors import StageError
from pipeline.model import architectures, checkpoint
from pipeline.model.objective import Objective
from pipeline.model.optimizer import adamw
from pipeline.model.saver import saver
from pipeline.model.world import World
from tests.packed import CONFIG

pytestmark = pytest.mark.usefixtures("one_thread")


def started() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = architectures.build("snowcoder-tiny", 64, 16, seed=0)
    return model, adamw(model, CONFIG)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    ids = torch.arange(32).reshape(2, 16)
    Objective(model)(ids, ids).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_it_holds_the_state_of_its_step_though_training_goes_on(tmp_path: Path) -> None:
    state, calm = started(), started()
    kept: list[int] = []

    def then(meta: dict[str, Any]) -> None:
        kept.append(len(list(tmp_path.glob("step-*"))))

    with saver(tmp_path, World(), None, then) as behind:
        for number in (1, 2, 3):
            step(*state)
            behind.save(number, *state, {"steps": number})
            step(*state)  # while it is written
            behind.check()
    assert kept == [1, 2, 3]
    for number in (1, 2, 3):
        step(*calm)
        names = dict(calm[0].named_parameters())
        stored = checkpoint.weights(tmp_path / f"step-{number:08d}")
        assert all(torch.equal(stored[n], p) for n, p in names.items())
        step(*calm)


def test_only_one_is_under_way(tmp_path: Path) -> None:
    state, gate, order = started(), threading.Event(), []

    def then(meta: dict[str, Any]) -> None:
        gate.wait(30)
        order.append("written")

    with saver(tmp_path, World(), None, then) as behind:
        behind.save(1, *state, {})
        behind.check()  # nothing to say yet
        order.append("goes on")
        threading.Timer(0.2, gate.set).start()
        behind.save(2, *state, {})
        order.append("second")
    assert order == ["goes on", "written", "second", "written"]


def test_what_goes_wrong_is_raised_at_the_next_step_or_at_the_end(tmp_path: Path) -> None:
    state, failed = started(), threading.Event()

    def full(meta: dict[str, Any]) -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            failed.set()

    def later() -> None:
        with saver(tmp_path / "a", World(), None, full) as behind:
            behind.save(1, *state, {})
            failed.wait(30)
            while True:
                behind.check()

    with pytest.raises(OSError, match="No space"):
        later()
    (tmp_path / "b").write_text("no folder")
    with pytest.raises(StageError, match="b"), saver(tmp_path / "b", World(), None) as behind:
        behind.save(1, *state, {})


def test_what_is_under_way_when_training_is_stopped_comes_to_its_end(tmp_path: Path) -> None:
    def stopped() -> None:
        with saver(tmp_path, World(), None) as behind:
            behind.save(1, *started(), {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert checkpoint.newest(tmp_path)
