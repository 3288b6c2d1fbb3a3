"""Mixtures: shares exact to a sequence in the whole and in every stretch, nothing taken twice."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.mixing import apportioned, interleaved, largest, portions

WEIGHTS = st.lists(st.integers(1, 1000), min_size=1, max_size=6)
TOTALS = st.lists(st.integers(0, 400), min_size=1, max_size=5)


def shares(weights: list[int]) -> dict[str, float]:
    return {str(i): w / sum(weights) for i, w in enumerate(weights)}


@given(WEIGHTS, st.integers(0, 10**6))
def test_parts_add_up_and_are_within_one(weights: list[int], total: int) -> None:
    found = apportioned(shares(weights), total)
    assert sum(found.values()) == total
    for name, share in shares(weights).items():
        assert abs(found[name] - share * total) < 1 + 1e-6


def test_published_tables_come_out_to_the_sequence() -> None:
    assert apportioned({"code": 0.37, "text": 0.63}, 100) == {"code": 37, "text": 63}
    assert apportioned({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, 4) == {"a": 2, "b": 1, "c": 1}


@given(WEIGHTS, st.data())
def test_the_largest_total_takes_no_more_than_there_is(
    weights: list[int], data: st.DataObject
) -> None:
    available = {name: data.draw(st.integers(0, 500)) for name in shares(weights)}
    total = largest(available, shares(weights))
    taken = apportioned(shares(weights), total)
    assert all(taken[n] <= available[n] for n in taken)
    assert any(n * (total + len(weights) + 1) > available[k] for k, n in shares(weights).items())


@given(TOTALS, st.integers(1, 300))
def test_stretches_hold_everything_once_in_even_parts(totals: list[int], most: int) -> None:
    whole = np.array(totals)
    counts = portions(whole, most)
    assert counts.sum(0).tolist() == totals
    assert counts.min() >= 0
    assert counts.sum(1).max() <= most + len(totals)
    before = np.zeros_like(whole)
    for taken in counts:
        numbers = interleaved(before, taken, whole)
        assert sorted(np.concatenate(numbers).tolist()) == list(range(taken.sum()))
        assert all((np.diff(n) > 0).all() for n in numbers)
        before = before + taken


def test_every_prefix_has_the_shares() -> None:
    whole = np.array([370, 600, 30])
    numbers = interleaved(np.zeros(3, np.int64), whole, whole)
    source = np.empty(1000, np.int64)
    for i, at in enumerate(numbers):
        source[at] = i
    for i, total in enumerate(whole):
        seen = np.cumsum(source == i)
        assert np.abs(seen - total * np.arange(1, 1001) / 1000).max() <= 1.5
