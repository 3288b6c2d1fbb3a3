"""Two processes under Ray Train learn what one does, also when one of them is killed on the way."""

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.train import launch
from pipeline.core.errors import RecipeError, StageError
from pipeline.model.world import World
from tests.packed import LENGTH, train


def losses(folder: Path) -> list[float]:
    """The loss of every step, which are there once each."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    return [line["loss"] for line in lines]


def test_one_worker_is_this_process(tmp_path: Path) -> None:
    told = launch(lambda world: {"pid": os.getpid(), "size": world.size}, 1)
    assert told == {"pid": os.getpid(), "size": 1}
    with pytest.raises(RecipeError, match="processes is 0"):
        launch(partial(train, folder=tmp_path), 0)


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_one_of_them_killed_have_the_loss_curve_of_one(
    ray_local: None, tmp_path: Path
) -> None:
    """Equal to 1e-4 of the loss: sums of float32 gradients in another order, over 12 steps."""
    alone = launch(partial(train, folder=tmp_path / "one"), 1)
    together = launch(partial(dying, folder=tmp_path / "two"), 2)
    assert (tmp_path / "two" / "died").exists()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert {k: together[k] for k in ("steps", "tokens")} == {
        k: alone[k] for k in ("steps", "tokens")
    }


def dying(world: World, folder: Path) -> dict[str, Any]:
    """Train, each rank's two sequences one by one; in its first life rank 1 is killed at step 8."""
    on_step = partial(die, world.rank, folder / "died")
    return train(world, folder=folder, on_step=on_step, micro=LENGTH)


def die(rank: int, mark: Path, record: dict[str, Any]) -> None:
    if rank == 1 and record["step"] == 8 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.ray
@pytest.mark.slow
def test_a_user_error_in_a_worker_is_raised_as_it_is(ray_local: None) -> None:
    with pytest.raises(StageError, match=r"^the disk of rank 1 is full$"):
        launch(full, 2)


def full(world: World) -> dict[str, Any]:
    if world.rank == 1:
        raise StageError("the disk of rank 1 is full")
    return {}
