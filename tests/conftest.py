"""What every test may use: one local Ray for the whole run, started when first asked for."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from cluster.start import _Local, connect, setup_env

setup_env()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In several processes: a file's tests together, all that use Ray in one and first, since they
    wait most."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if _rays(item) else str(item.path)))
    items.sort(key=lambda item: not _rays(item))


def _rays(item: pytest.Item) -> bool:
    return item.get_closest_marker("ray") is not None or "ray_local" in item.fixturenames  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """Two logical cores, whatever the machine has."""
    connect(num_cpus=2)
    _Local.address = None  # not to be ended under the other tests
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
