"""Training in one process, or in several under Ray Train: the same fit, the same batches.

Ray starts the processes, joins them into a torch process group (gloo on CPUs, NCCL on GPUs) and
averages gradients by DDP. The state of a run is fit's own folder, which all processes must share:
after a lost worker the group is started again and fit goes on from its newest checkpoint.
"""

import logging
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from cluster.start import connect
from pipeline.core.errors import IcefloeError, StageError
from pipeline.model.fit import World

log = logging.getLogger(__name__)

RESTARTS = 3
"""How often a group with a lost worker is started again (ours)."""

Job = Callable[[World], dict[str, Any]]
"""What each process runs with its place in the world; picklable. Rank 0's answer is the job's."""


def launch(job: Job, workers: int) -> dict[str, Any]:
    """Run `job` in `workers` processes and return what rank 0 returned.

    One worker is this process; more start under Ray Train, with a GPU each where the cluster has
    as many. Raises the job's own user error; StageError when workers keep dying.
    """
    if workers == 1:
        return job(World(device=torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    connect()
    for left in reversed(range(RESTARTS + 1)):
        try:
            return _group(job, workers)
        except ChildProcessError as e:
            if not left:
                raise StageError(
                    f"training lost a worker {RESTARTS + 1} times: {e}; run the same command again "
                    "to go on from the newest checkpoint, with fewer processes if memory is short"
                ) from e
            log.warning("train      lost a worker (%s); going on from the newest checkpoint", e)
    raise AssertionError


def _group(job: Job, workers: int) -> dict[str, Any]:
    """One run of the group; ChildProcessError when a worker died."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    gpus = ray.cluster_resources().get("GPU", 0) >= workers
    with tempfile.TemporaryDirectory() as scratch:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
            run_config=RunConfig(name="fit", storage_path=scratch),
        )
        try:
            return dict(trainer.fit().return_value)
        except TrainingFailedError as e:
            raise _cause(e) from e


def _worker(settings: dict[str, Any]) -> dict[str, Any]:
    import ray.train
    from ray.train.torch import get_device, prepare_model

    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    job: Job = settings["job"]
    return job(World(rank, size, get_device(), prepare_model))


def _cause(error: Any) -> BaseException:
    """The job's user error, a lost worker, or the job's other error, in this order."""
    found = getattr(error, "worker_failures", {}).values()
    causes = [getattr(e, "_base_exc", e) for e in found]
    print(
        "CAUSES",
        type(error),
        [(type(f), type(getattr(f, "_base_exc", None)), str(f)[:300]) for f in found],
    )
    ours = [e for e in causes if isinstance(e, IcefloeError)]
    return error
