"""kill -9 while a phase trains, then the same again: next batch, loss curve and weights are as they
would have been.

Killed are: the one process at a random step; the one process while it writes a checkpoint; one of two
workers under Ray Train. Then runs that go on in another number of processes. ICEFLOE_DRILL_KILLS says
how many of each (20). A result is written as soon as there is one, so a drill that is cut short goes
on where it was; `tests/bench/RESULTS/kill_training.jsonl` holds them.
"""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from tests.drills.kill_training import alone, job

RESULTS = Path(__file__).parents[1] / "bench/RESULTS/kill_training.jsonl"
KILLS = int(os.environ.get("ICEFLOE_DRILL_KILLS", "20"))
SPAWN = multiprocessing.get_context("forkserver")  # each life a new process, imports already made
SPAWN.set_forkserver_preload(["tests.drills.kill_training"])


def life(folder: Path) -> Any:
    """A process that trains, or goes on."""
    process = SPAWN.Process(target=alone, args=(folder,))
    process.start()
    return process


def together(folder: Path) -> None:
    """Train in two workers under Ray Train, which starts them again when one is lost."""
    from cluster.train import launch

    folder.mkdir(parents=True, exist_ok=True)
    launch(partial(job, folder=folder), 2)


def whole(folder: Path) -> Path:
    process = life(folder)
    process.join()
    assert process.exitcode == 0
    return folder


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The folder of a run in so many processes that was never disturbed."""

    @cache
    def made(processes: int) -> Path:
        folder = tmp_path_factory.mktemp(f"calm{processes}")
        if processes == 1:
            return whole(folder)
        together(folder)
        return folder

    return made


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON Lines file."""
    found = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in found[: found.rfind(b"\n") + 1].splitlines()]


def done(folder: Path) -> int:
    path = folder / "out" / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def batches(folder: Path) -> dict[int, set[tuple[str, ...]]]:
    """Step -> the sequences' hashes of the whole batch, as every life of the run took it."""
    found: dict[int, set[tuple[str, ...]]] = {}
    for line in lines(folder / "rank0-of-1.jsonl"):
        found.setdefault(line["step"], set()).add(tuple(line["rows"]))
    halves = [{x["step"]: x["rows"] for x in lines(folder / f"rank{r}-of-2.jsonl")} for r in (0, 1)]
    for step in halves[0].keys() & halves[1].keys():
        found.setdefault(step, set()).add((*halves[0][step], *halves[1][step]))
    return found


def curve(folder: Path) -> list[tuple[float, float, int]]:
    told = lines(folder / "out" / "metrics.jsonl")
    return [(x["loss"], x["grad_norm"], x["skipped"]) for x in told]


def weights(folder: Path) -> str:
    """One hash of the last checkpoint's tensors, moments included."""
    last = max((folder / "out" / "checkpoints").glob("step-*"))
    data = [p.read_bytes() for p in sorted(last.glob("*.safetensors"))]
    return hashlib.sha256(b"".join(data)).hexdigest()[:16]


def tell(kind: str, number: int, folder: Path, calm: Path, **more: Any) -> None:
    """Hold a run against the undisturbed one; write the result, then insist on it."""
    mine, theirs = batches(folder), batches(calm)
    same = {
        "batches": mine == theirs,
        "curve": curve(folder) == curve(calm),
        "weights": weights(folder) == weights(calm),
    }
    pairs = list(zip(curve(folder), curve(calm), strict=True))
    apart = max(abs(a[0] - b[0]) / b[0] for a, b in pairs)
    skipped = sum(x[2] for x in curve(folder))
    told = {"kind": kind, "number": number, "steps": len(pairs), "skipped": skipped, **more, **same}
    with open(RESULTS, "a") as f:
        f.write(json.dumps(told | {"largest_difference": apart}) + "\n")
    assert same["batches"]
    assert apart <= (1e-4 if kind == "resize" else 0)
    assert kind == "resize" or all(same.values())


@pytest.fixture(params=range(KILLS))
def number(request: pytest.FixtureRequest) -> int:
    """The number of a kill that has no result yet."""
    kind = str(request.node.originalname).removeprefix("test_").split("_")[0]
    if (kind, request.param) in {(x["kind"], x["number"]) for x in lines(RESULTS)}:
        pytest.skip("has its result")
    return int(request.param)


def kill(process: Any, ready: Callable[[], bool], wait: float = 0.0) -> None:
    while process.is_alive() and not ready():
        time.sleep(0.0003)
    time.sleep(wait)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"


def test_driver_is_killed(number: int, calm: Any, tmp_path: Path) -> None:
    rng = random.Random(f"driver {number}")
    step, wait = rng.randint(0, 45), rng.uniform(0, 0.03)
    kill(life(tmp_path), lambda: done(tmp_path) >= step, wait)
    at = done(tmp_path)
    tell("driver", number, whole(tmp_path), calm(1), killed_at=at)


def test_checkpoint_is_being_written(number: int, calm: Any, tmp_path: Path) -> None:
    rng = random.Random(f"checkpoint {number}")
    step, wait = rng.randint(0, 45), rng.uniform(0, 0.01)
    folder = tmp_path / "out" / "checkpoints"
    kill(life(tmp_path), lambda: done(tmp_path) >= step and any(folder.glob(".half-*")), wait)
    left = any(folder.glob(".half-*"))
    at = done(tmp_path)
    tell("checkpoint", number, whole(tmp_path), calm(1), killed_at=at, left_half=left)


def test_worker_is_killed(number: int, calm: Any, tmp_path: Path, ray_local: None) -> None:
    step = random.Random(f"worker {number}").randint(1, 45)
    victim = tmp_path / f"rank{number % 2}-of-2.jsonl"

    def watch() -> None:
        while not any(x["step"] >= step for x in lines(victim)[-2:]):
            time.sleep(0.002)
        os.kill(lines(victim)[-1]["pid"], signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    together(tmp_path)
    lives = len({x["pid"] for x in lines(victim)})
    tell("worker", number, tmp_path, calm(2), killed_at=step, lives=lives)
    assert lives >= 2


def test_resize_after_a_kill(number: int, calm: Any, tmp_path: Path, ray_local: None) -> None:
    """One process, then two; equal to 1e-4 of the loss: gradients are summed in another order."""
    if number >= KILLS // 4:
        pytest.skip("a quarter as many")
    step = random.Random(f"resize {number}").randint(6, 45)
    kill(life(tmp_path), lambda: done(tmp_path) >= step)
    at = done(tmp_path)
    together(tmp_path)
    tell("resize", number, tmp_path, calm(1), killed_at=at)
