"""Training in one process, or in several under Ray Train: the same fit, the same batches.

Ray starts the processes, joins them into a torch process group (gloo on CPUs, NCCL on GPUs) and
learn together in it. The state of a run is fit's own folder, which all processes must share:
after a lost worker the group is started again and fit goes on from its newest checkpoint.
"""

import logging
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from cluster.start import connect
from pipeline.core.errors import IcefloeError, RecipeError, StageError
from pipeline.model.world import World

log = logging.getLogger(__name__)

RESTARTS = 3
"""How often a group that lost a worker is started again (ours)."""

Job = Callable[[World], dict[str, Any]]
"""What each process runs with its place in the world; picklable. Rank 0's answer is the job's."""


def launch(job: Job, workers: int) -> dict[str, Any]:
    """Run `job` in `workers` processes and return what rank 0 returned.

    One worker is this process; more start under Ray Train, each with a GPU where the cluster has
    any, else with a core. Raises the job's own user error; StageError when workers keep dying.
    """
    if workers < 1:
        raise RecipeError(f"processes is {workers}: 1 or more")
    if workers == 1:
        return job(World(device=torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    connect()
    for left in reversed(range(RESTARTS)):
        try:
            return _group(job, workers)
        except ChildProcessError as e:
            log.warning("train      %s; starting again, %d times at most", e, left + 1)
    try:
        return _group(job, workers)
    except ChildProcessError as e:
        raise StageError(
            f"{e}, for the {RESTARTS + 1}th time; the same command goes on from the newest "
            "checkpoint; if memory is short, ask for fewer processes or a smaller micro"
        ) from e


def _group(job: Job, workers: int) -> dict[str, Any]:
    """One life of a group; ChildProcessError when a worker died."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    with tempfile.TemporaryDirectory() as scratch:  # Ray's notes; the run's state is fit's folder
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=_kind(workers) == "GPU"),
            run_config=RunConfig(name="fit", storage_path=scratch),
        )
        try:
            return dict(trainer.fit().return_value)
        except TrainingFailedError as e:
            raise _cause(e) from e


def _kind(workers: int) -> str:
    """What each worker gets: "GPU" or "CPU"; says so when the cluster has too few of them yet."""
    import ray

    have = ray.cluster_resources()
    kind = "GPU" if have.get("GPU") else "CPU"
    if have.get(kind, 0) < workers:
        log.warning("train      waits for %d x %s; there is %d", workers, kind, have.get(kind, 0))
    return kind


def _worker(settings: dict[str, Any]) -> dict[str, Any]:
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), get_device())
    return dict(settings["job"](world))


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
