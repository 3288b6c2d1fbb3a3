"""Sorting on disk gives what sorting in memory gives, however records were spread over runs, and
never parts a group."""

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import spill


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.integers(1, 30),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(0, 2**32),
)
def test_merged_runs_are_all_records_in_order(
    sizes: list[int], most: int, group: int, values: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, values, (size, 3), dtype=np.uint64) for size in sizes]
    with TemporaryDirectory() as folder:
        runs = [Path(folder) / str(n) for n in range(len(parts))]
        for run, part in zip(runs, parts, strict=True):
            spill.ordered(part).tofile(run)
        found = list(spill.merged(runs, 3, group, most))
    whole = spill.ordered(np.concatenate(parts))
    assert np.array_equal(np.concatenate([whole[:0], *found]), whole)
    assert all(len(part) for part in found)
    for before, after in pairwise(found):
        assert before[-1, :group].tolist() < after[0, :group].tolist()


def test_ranges_hold_about_as_many_as_asked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = []
    for n in range(50):
        runs.append(tmp_path / str(n))
        spill.ordered(rng.integers(0, 2**63, (400, 2), dtype=np.uint64)).tofile(runs[-1])
    sizes = [len(part) for part in spill.merged(runs, 2, 2, 2000)]
    assert sum(sizes) == 20_000
    assert max(sizes) < 4000
    assert len(sizes) >= 6


def test_no_runs_and_empty_runs_hold_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert list(spill.merged([], 2, 1)) == []
    assert list(spill.merged([tmp_path / "empty"], 2, 1)) == []
    assert list(spill.chunks(tmp_path / "empty", 2)) == []


@pytest.mark.parametrize(("low", "high", "want"), [(0, 3, 2), (3, 4, 1), (4, 9, 0), (0, 9, 3)])
def test_records_between_two_numbers(tmp_path: Path, low: int, high: int, want: int) -> None:
    np.array([[1, 9], [2, 0], [3, 5]], np.uint64).tofile(tmp_path / "run")
    found = spill.between(tmp_path / "run", 2, np.uint64(low), np.uint64(high))
    assert len(found) == want
