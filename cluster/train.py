"""Training in one process, or in several under Ray Train: the same fit, the same batches.

Ray starts the processes and joins them into a torch process group (gloo on CPUs, NCCL on GPUs); they
stay for the next phase of the run and hold no core meanwhile. The state of a run is fit's own folder,
which all processes must share: after a lost worker a new group goes on from its newest checkpoint.
"""

import asyncio
import gc
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cluster.start import LOCAL, connect, rested
from pipeline.core.errors import IcefloeError, RecipeError, StageError
from pipeline.core.recipe import bounds

log = logging.getLogger(__name__)

RESTARTS = 3
"""How often a job that lost a worker is started again (ours)."""

PATIENCE = 10
"""Seconds that a number of cores or GPUs is waited for before fewer are asked for (ours)."""

WORKER = {"MALLOC_ARENA_MAX": "1", "GOMP_SPINCOUNT": "1000"}
"""Ray Train runs a job in a thread, and glibc gives freed memory of any thread's heap but the first
one's back at once: a step of snowcoder-tiny 1.02 s, with one heap for all 0.93 s (measured)."""

Job = Callable[[Any], dict[str, Any]]
"""What each process runs with its World; picklable. Rank 0's answer is the job's."""

Launch = Callable[[Job, int | tuple[int, int]], dict[str, Any]]


def launch(job: Job, processes: int | tuple[int, int]) -> dict[str, Any]:
    """Run one job as a `launcher` does, and end its processes."""
    with launcher() as start:
        return start(job, processes)


@contextmanager
def launcher(join: Callable[[], None] = connect) -> Iterator[Launch]:
    """Gives a function that runs a job in so many processes, and returns what rank 0 returned.

    join: makes Ray usable here. One process is this one. More start under Ray Train, each with a GPU
    where the cluster has any; a pair is the fewest and the most, as the cluster has them whenever a
    job starts. They stay for the next job, and end with this block or with this process.
    Raises the job's own user error; StageError when workers keep dying.
    """
    groups: list[_Group] = []
    try:
        yield lambda job, processes: _run(job, processes, join, groups)
    finally:
        _end(groups)


def _run(
    job: Job,
    processes: int | tuple[int, int],
    join: Callable[[], None],
    groups: list["_Group"],
) -> dict[str, Any]:
    least, most = bounds(processes)
    if not 1 <= least <= most:
        raise RecipeError(f"processes is {processes}: 1 or more, or the fewest and the most")
    if most == 1:
        _end(groups)
        with rested():
            return _here(job)
    join()
    for left in reversed(range(RESTARTS + 1)):
        try:
            return _group(least, most, groups).ask(job)
        except ChildProcessError as e:
            lost = e
            if left:
                log.warning("train      %s; starting again, %d times at most", e, left)
            _end(groups)
        except BaseException:
            _end(groups)
            raise
    raise StageError(
        f"{lost}, for the {RESTARTS + 1}th time; the same command goes on from the newest "
        "checkpoint; if memory is short, ask for fewer processes or a smaller micro"
    ) from lost


def _here(job: Job) -> dict[str, Any]:
    import torch

    from pipeline.model.world import World

    return job(World(device=torch.device("cuda" if torch.cuda.is_available() else "cpu")))


def _group(least: int, most: int, groups: list["_Group"]) -> "_Group":
    """The group that stands ready, if it has the size that the cluster now gives; else a new one."""
    kind, there = _room()
    size = max(least, min(most, there))
    if groups and groups[0].size != size:
        _end(groups)
    if not groups:
        if there < least:
            log.warning("train      waits for %d x %s; there is %d", least, kind, there)
        groups.append(_Group(_had(kind, size, least), kind))
    return groups[0]


def _room() -> tuple[str, int]:
    """What each worker gets, "GPU" or "CPU", and how many of those the cluster says it has."""
    import ray

    have = ray.cluster_resources()
    kind = "GPU" if have.get("GPU") else "CPU"
    return kind, int(have.get(kind, 0))


def _had(kind: str, size: int, least: int) -> int:
    """How many workers can be had now: of a node that has just died, Ray still counts the cores."""
    from ray.util.placement_group import placement_group, remove_placement_group

    while size > least:
        asked = placement_group([{kind: 1}] * size)
        there = asked.wait(PATIENCE)
        remove_placement_group(asked)
        if there:
            break
        size = max(least, min(size - 1, _room()[1]))
    return size


def _end(groups: list["_Group"]) -> None:
    while groups:
        groups.pop().end()


class _Group:
    """Processes that wait for jobs. Whose driver dies, dies: Ray ends what its owner started."""

    def __init__(self, size: int, kind: str) -> None:
        import ray

        self.size = size
        self._scratch = tempfile.TemporaryDirectory()  # Ray's notes; a run's state is fit's folder
        alone = {"runtime_env": {"env_vars": WORKER}, "num_gpus": int(kind == "GPU")}
        holds = {"num_cpus": 0, **(alone if size == 1 else {})}
        self._keeper = ray.remote(**holds)(Keeper).remote(size)
        self._life = self._keeper.live.remote(kind, self._scratch.name)

    def ask(self, job: Job) -> dict[str, Any]:
        """Rank 0's answer. Raises the job's user error, ChildProcessError when a worker died."""
        import ray

        asked = self._keeper.ask.remote(job)
        try:
            done, _ = ray.wait([asked, self._life])
            if asked in done:
                return dict(ray.get(asked))
            raise ray.get(self._life)
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as e:
            raise ChildProcessError("lost the process that keeps the workers") from e

    def end(self) -> None:
        """End the processes at once: between jobs they have nothing to lose."""
        import ray

        if ray.is_initialized():
            ray.kill(self._keeper)
        self._scratch.cleanup()


class Keeper:
    """The actor in which Ray Train runs: hands the workers their jobs, and their answers back."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: list[Job] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._news = asyncio.Condition()

    async def live(self, kind: str, scratch: str) -> Exception:
        """Keep a group of workers; why it ended."""
        import ray

        me = ray.get_runtime_context().current_actor
        return await asyncio.to_thread(_train, self._size, kind, scratch, me)

    async def ask(self, job: Job) -> dict[str, Any]:
        """Have a job done; rank 0's answer, when every rank has one."""
        async with self._news:
            self._answers = {}
            self._jobs.append(job)
            self._news.notify_all()
            await self._news.wait_for(lambda: len(self._answers) == self._size)
        return self._answers[0]

    async def take(self, number: int) -> Job:
        """Job `number` of this group, as soon as it is there."""
        async with self._news:
            await self._news.wait_for(lambda: len(self._jobs) > number)
        return self._jobs[number]

    async def answer(self, rank: int, told: dict[str, Any]) -> None:
        """What this rank's job under way has come to."""
        async with self._news:
            self._answers[rank] = told
            self._news.notify_all()


def _train(size: int, kind: str, scratch: str, keeper: Any) -> Exception:
    """The life of a group under Ray Train; what ended it.

    Workers hold GPUs, which no other step asks Ray for, and no cores, which all others do; a bundle
    must hold something, so theirs is a byte of memory. One worker is this process (Ray Train's local
    mode): five idle processes fewer, each of which wakes up a hundred times a second.
    """
    for name, value in LOCAL.items():
        if name.startswith("RAY_TRAIN"):
            os.environ.setdefault(name, value)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    gpu = kind == "GPU"
    holds: dict[str, float] = {"GPU": 1, "CPU": 0} if gpu else {"memory": 1, "CPU": 0}
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"keeper": keeper},
        scaling_config=ScalingConfig(
            num_workers=0 if size == 1 else size,
            use_gpu=gpu,
            resources_per_worker=holds,
            placement_strategy="PACK" if gpu else "SPREAD",
        ),
        run_config=RunConfig(
            name="fit",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=0),
            worker_runtime_env={"env_vars": WORKER},
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as e:
        return _cause(e)
    except IcefloeError as e:  # as it was raised, where this process is the worker
        return e
    raise AssertionError("workers wait for jobs without end")


def _worker(settings: dict[str, Any]) -> None:
    """Do the jobs that come, one after another, until the group is ended or one of them fails."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from pipeline.model.world import World

    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), get_device())
    keeper, number = settings["keeper"], 0
    while True:
        try:
            job = ray.get(keeper.take.remote(number))
        except ray.exceptions.RayActorError:  # the group was ended: nothing to tell
            return
        told = dict(job(world))
        ray.get(keeper.answer.remote(world.rank, told))
        number += 1
        gc.collect()
        if world.device.type == "cuda":
            torch.cuda.empty_cache()


def _cause(error: Exception) -> Exception:
    """The job's user error; else ChildProcessError for a lost worker; else `error`, a bug's."""
    from ray.train.v2.api.exceptions import ControllerError

    failures = dict(getattr(error, "worker_failures", {}))
    for failure in failures.values():
        if isinstance(failure, IcefloeError):
            return failure
    # A worker that died has an error of Ray's own; those beside it fail in their next collective.
    lost = [rank for rank, f in failures.items() if type(f).__module__.startswith("ray.")]
    if lost or isinstance(error, ControllerError):
        return ChildProcessError(f"lost worker {lost[0]}" if lost else "lost a worker at its start")
    return error
