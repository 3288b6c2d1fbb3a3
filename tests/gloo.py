"""Two processes of a torch group on this machine, without Ray: each runs a function with its World."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from cluster.demo import free_port
from pipeline.model.world import World

Job = Callable[[World, Path], None]
"""Of a module's top level, as it is sent by name."""


def in_two(job: Job, folder: Path) -> None:
    """Run `job(world, folder)` in both, on a thread each; raises what the first to fail did. One that
    waits for the other longer than a minute fails."""
    port = free_port()
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        multiprocessing.spawn(_joined, (job, folder, port), nprocs=2)
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before:
            os.environ["OMP_NUM_THREADS"] = before


def _joined(rank: int, job: Job, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        f"tcp://127.0.0.1:{port}",
        world_size=2,
        rank=rank,
        timeout=timedelta(seconds=60),
    )
    job(World(rank, 2), folder)
    distributed.destroy_process_group()
