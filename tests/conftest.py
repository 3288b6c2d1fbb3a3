"""What every test may use: one local Ray for the whole run, started when first asked for."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from cluster.start import connect, setup_env

setup_env()


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """Two logical cores, whatever the machine has."""
    connect(num_cpus=2)
    yield
    import ray

    ray.shutdown()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: two on busy cores spend their time waiting for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# A kernel's first call compiles it, and machines differ: no test here is about time.
settings.register_profile("icefloe", deadline=None)
settings.load_profile("icefloe")
