"""Batches come in the order asked for, whole, and what breaks while loading breaks the loop."""

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from pipeline.model.feed import AHEAD, ahead, parts
from pipeline.model.world import World
from tests.packed import CONFIG, LENGTH, batches


def test_order_is_kept_and_loading_runs_ahead() -> None:
    loaded: list[int] = []

    def load(step: int) -> int:
        time.sleep(0.002 * (step % 3))
        loaded.append(step)
        return step * step

    seen = []
    for step, value, waited in ahead(load, range(5, 25)):
        assert loaded[-1] <= step + AHEAD
        assert waited >= 0
        seen.append((step, value))
    assert seen == [(n, n * n) for n in range(5, 25)]


def test_an_error_comes_at_its_step() -> None:
    def load(step: int) -> int:
        if step == 3:
            raise OSError("the disk is gone")
        return step

    fed = ahead(load, range(10))
    assert [next(fed)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(fed)


def test_stopping_early_ends_the_thread() -> None:
    with closing(ahead(lambda n: n, range(1000))) as fed:
        assert next(fed)[0] == 0
    assert not [t for t in threading.enumerate() if t.name.startswith("feed")]


def test_nothing_to_load_is_nothing() -> None:
    assert list(ahead(lambda n: n, range(0))) == []


@pytest.mark.parametrize(("micro", "sizes"), [(1, [1] * 4), (3 * LENGTH, [3, 1]), (10**6, [4])])
def test_parts_are_the_batchs_rows(micro: int, sizes: list[int], tmp_path: Path) -> None:
    fed = batches(tmp_path)
    found = parts(fed, micro, World(), 2)
    assert [len(p.ids) for p in found] == sizes
    assert torch.equal(torch.cat([p.ids for p in found]), torch.from_numpy(fed.batch(2).ids))
    assert torch.equal(torch.cat([p.labels for p in found]), torch.from_numpy(fed.batch(2).labels))
    assert {p.documents for p in found} == {None}
    assert fed.size == CONFIG.batch
