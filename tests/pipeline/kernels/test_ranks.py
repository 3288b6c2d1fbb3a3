"""Ranks: keys order as scores do, percentiles are exact at edges and monotone between them, and a
span narrows to where a limit is passed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels import ranks

FLOATS = st.floats(allow_nan=True, width=64)


@given(st.lists(FLOATS, min_size=1, max_size=40))
def test_keys_ascend_from_the_highest_score_and_come_back(values: list[float]) -> None:
    found = np.array(values)
    keys = ranks.keys(found)
    nan = np.isnan(found)
    assert (keys[nan] == ranks.LAST).all()
    assert (keys[~nan] > 0).all()
    assert (keys[~nan] < ranks.LAST).all()
    np.testing.assert_array_equal(ranks.scores(keys[~nan]), found[~nan])
    a, b = np.meshgrid(found[~nan], found[~nan])
    x, y = np.meshgrid(keys[~nan], keys[~nan])
    np.testing.assert_array_equal(a > b, x < y)


def scale_of(values: list[float], weight: list[int], sample: list[float]) -> ranks.Scale:
    keys = ranks.keys(np.array(values, float))
    scale = ranks.blank(ranks.edges(ranks.keys(np.array(sample, float))))
    at, total, count = ranks.sums(ranks.bins(scale.edges, keys), np.array(weight, np.int64))
    scale.weight[at] += total
    scale.count[at] += count
    return scale


def test_a_percentile_counts_what_is_below_and_half_of_the_tie() -> None:
    values, weight = [1.0, 2.0, 2.0, 5.0, np.nan], [10, 20, 30, 40, 7]
    scale = scale_of(values, weight, values)
    assert ranks.scored(scale) == 100
    found = ranks.percentiles(scale, ranks.keys(np.array([0.0, 1, 1.5, 2, 3, 5, 6, np.nan])))
    np.testing.assert_allclose(found, [0, 0.05, 0.1, 0.35, 0.6, 0.8, 1, np.nan])
    np.testing.assert_allclose(
        ranks.quantiles(scale, np.array([0, 0.35, 0.575, 1])), [1, 2, 3.5, 5]
    )


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=50), st.integers(0, 10))
def test_percentiles_rise_with_scores_whatever_the_edges(values: list[float], some: int) -> None:
    scale = scale_of(values, [3] * len(values), values[:some])
    found = ranks.percentiles(scale, ranks.keys(np.sort(np.array(values))))
    assert (np.diff(found) >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_nothing_with_weight_lies_in_the_middle() -> None:
    scale = scale_of([1.0, 2.0], [0, 0], [1.0])
    assert ranks.percentiles(scale, ranks.keys(np.array([1.0, 2.0]))).tolist() == [0.5, 0.5]
    assert len(ranks.quantiles(scale_of([np.nan], [1], []), np.array([0.5]))) == 0


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2**64 - 1)), min_size=1, max_size=80),
    st.integers(0, 300),
)
def test_a_span_narrows_to_one_place(rows: list[tuple[int, int]], limit: int) -> None:
    """Down to the row (or rows of one place) with which the weight, 5 each, passes the limit."""
    scores = np.array([float(s) for s, _ in rows])
    ties = np.array([t for _, t in rows], np.uint64)
    keys, weight = ranks.keys(scores), np.full(len(rows), 5, np.int64)
    span = ranks.crossing(scale_of(scores.tolist(), weight.tolist(), [3.0]), limit)
    if span is None:
        assert 5 * len(rows) <= limit
        return
    while not span.single:
        there = ranks.within(span, keys, ties)
        assert there.sum() == span.count
        at, total, count = ranks.sums(ranks.slots(span, keys[there], ties[there]), weight[there])
        sums = np.zeros((2, 1 << ranks.SLOTS), np.int64)
        sums[0][at], sums[1][at] = total, count
        span = ranks.narrowed(span, *sums, limit)
    order = np.lexsort([ties, keys])
    first = order[limit // 5]
    assert span.low == (int(keys[first]), int(ties[first]))
    assert ranks.within(span, keys, ties)[first]


def test_a_cut_is_the_first_row_that_does_not_fit() -> None:
    rows = np.array([[5, 2, 1, 10], [5, 1, 9, 10], [5, 2, 0, 0], [7, 0, 0, 10]], np.uint64)
    assert ranks.cut(rows, 0, 5) == (5, 1, 9)
    assert ranks.cut(rows, 0, 10) == (5, 2, 1)
    assert ranks.cut(rows, 100, 125) == (7, 0, 0)
    keys, ties = rows[:, 0], rows[:, 1:3]
    assert ranks.from_cut((5, 2, 0), keys, ties).tolist() == [True, False, True, True]
    assert not ranks.from_cut(ranks.NO_CUT, keys, ties).any()
