"""Processes under Ray Train learn what one does, also when one is killed; they stay for the next job.

They hold no core while they wait, and are gone when their block, or the driver, is.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.start import setup_env
from cluster.train import launch, launcher
from pipeline.core.errors import RecipeError, StageError
from pipeline.model.world import World
from tests.packed import LENGTH, train

ROOT = Path(__file__).parents[2]


def losses(folder: Path) -> list[float]:
    """The loss of every step, which are there once each."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    return [line["loss"] for line in lines]


def test_one_worker_is_this_process(tmp_path: Path) -> None:
    told = launch(lambda world: {"pid": os.getpid(), "size": world.size}, 1)
    assert told == {"pid": os.getpid(), "size": 1}
    for processes in (0, (0, 2), (3, 2)):
        with pytest.raises(RecipeError, match="processes is"):
            launch(partial(train, folder=tmp_path), processes)


@pytest.mark.ray
@pytest.mark.slow
def test_a_group_stays_and_one_of_them_killed_changes_no_curve(
    ray_local: None, tmp_path: Path
) -> None:
    """Equal to 1e-4 of the loss: sums of float32 gradients in another order, over 12 steps."""
    alone = launch(partial(train, folder=tmp_path / "one"), 1)
    with launcher() as start:
        first = start(pids, 2)
        together = start(partial(dying, folder=tmp_path / "two"), (1, 2))
        second = start(pids, 2)
        assert free_cores() == 2
        third = start(pids, 2)
    assert (tmp_path / "two" / "died").exists()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert {k: together[k] for k in ("steps", "tokens")} == {
        k: alone[k] for k in ("steps", "tokens")
    }
    assert first["pid"] != second["pid"] == third["pid"]  # a new group after the death, then kept
    assert gone([second["pid"]])


def dying(world: World, folder: Path) -> dict[str, Any]:
    """Train, each rank's two sequences one by one; in its first life rank 1 is killed at step 8."""
    on_step = partial(die, world.rank, folder / "died")
    return train(world, folder=folder, on_step=on_step, micro=LENGTH)


def die(rank: int, mark: Path, record: dict[str, Any]) -> None:
    if rank == 1 and record["step"] == 8 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def pids(world: World) -> dict[str, Any]:
    return {"pid": os.getpid(), "size": world.size}


def free_cores() -> float:
    import ray

    return float(ray.available_resources()["CPU"])


def gone(processes: list[int]) -> bool:
    return until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))


def until(so: Callable[[], bool]) -> bool:
    for _ in range(1500):
        if so():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.ray
@pytest.mark.slow
def test_a_user_error_in_a_worker_is_raised_as_it_is(ray_local: None) -> None:
    with pytest.raises(StageError, match=r"^the disk of rank 1 is full$"):
        launch(full, 2)


def full(world: World) -> dict[str, Any]:
    if world.rank == 1:
        raise StageError("the disk of rank 1 is full")
    return {}


@pytest.mark.ray
@pytest.mark.slow
def test_workers_end_with_their_driver_and_go_on_with_as_many_as_are_left(tmp_path: Path) -> None:
    """On two nodes of a core each: one is killed, then the driver."""
    code = (
        "import pathlib, sys, tests.cluster.test_train as t; t.survive(pathlib.Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    driver = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        assert until(lambda: driver.poll() is not None or (tmp_path / "waits").exists())
        assert (tmp_path / "waits").exists(), "the driver ended"
        sizes = (tmp_path / "sizes").read_text().split()
        assert (sizes[0], sizes[-1]) == ("2", "1")
        driver.send_signal(signal.SIGKILL)
        driver.wait(60)
        assert gone([int((tmp_path / "waits").read_text())])
    finally:
        os.killpg(driver.pid, signal.SIGKILL)  # with the nodes
    assert len(losses(tmp_path)) == 12


def survive(folder: Path) -> None:
    """A driver: trains while a node is killed, then has its group wait without end."""
    setup_env()
    import ray
    from ray.cluster_utils import Cluster

    store = 100 << 20
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": store}
    )
    other = nodes.add_node(num_cpus=1, object_store_memory=store)
    ray.init(address=nodes.address, logging_level="WARNING")
    raylet = other.all_processes["raylet"][0].process.pid
    with launcher() as start:
        start(partial(shrinking, folder=folder, raylet=raylet), (1, 2))
        start(partial(sleep, folder=folder), (1, 2))


def shrinking(world: World, folder: Path, raylet: int) -> dict[str, Any]:
    """Train; the first life ends with the other node at step 8."""
    if world.rank == 0:
        with open(folder / "sizes", "a") as f:
            f.write(f"{world.size}\n")
    return train(world, folder=folder, on_step=partial(fell, world, folder / "fell", raylet))


def fell(world: World, mark: Path, raylet: int, record: dict[str, Any]) -> None:
    if world.rank == 0 and record["step"] == 8 and not mark.exists():
        mark.touch()
        os.kill(raylet, signal.SIGKILL)
        time.sleep(20)  # until this worker, or the other, is ended with its node


def sleep(world: World, folder: Path) -> dict[str, Any]:
    (folder / "half").write_text(str(os.getpid()))
    (folder / "half").replace(folder / "waits")
    time.sleep(600)
    return {}
