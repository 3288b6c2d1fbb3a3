"""Hashed grams: regions are the encoder's windows in bytes, rows are what a plain loop counts, a
product needs no row, and the ridge is the one that linear algebra finds."""

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.arrays import flat
from pipeline.kernels.grams import products, regions, ridge, rows

BITS = 12
CODE = st.text(st.sampled_from("abXY z09_(){}=\n\t\0é🧊"), max_size=60)


def words(text: bytes) -> list[bytes]:
    """The obvious version: letters and digits together, other bytes alone, white space nothing."""
    return re.findall(rb"[a-z0-9\x80-\xff]+|[^\x00-\x20\x7f]", text.lower())


def spans_of(texts: list[str], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    data, offsets = flat(pa.array(texts, pa.large_string()))
    return data, *regions(offsets, size)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, [(0, 0)]),
        (10, [(0, 10)]),
        (11, [(0, 10), (1, 11)]),
        (20, [(0, 10), (10, 20)]),
        (21, [(0, 10), (5, 15), (11, 21)]),
        (100, [(0, 10), (45, 55), (90, 100)]),
    ],
)
def test_regions_are_top_middle_and_bottom(length: int, expected: list[tuple[int, int]]) -> None:
    _, spans, bounds = spans_of(["before", "x" * length, "after"], 10)
    assert (spans[bounds[1] : bounds[2]] - 6).tolist() == [list(pair) for pair in expected]


@given(st.lists(CODE, max_size=5))
def test_a_row_has_the_counts_of_words_and_pairs(texts: list[str]) -> None:
    data, spans, _ = spans_of(texts, 25)
    columns, values, bounds = rows(data, spans, 20)  # so wide that nothing clashes
    for k, (start, stop) in enumerate(spans):
        found = words(data[start:stop].tobytes())
        counts = sorted(
            [*Counter(found).values(), *Counter(zip([b"", *found], found, strict=False)).values()]
        )
        mine = values[bounds[k] : bounds[k + 1]]
        assert len(set(columns[bounds[k] : bounds[k + 1]].tolist())) == len(mine) == len(counts)
        np.testing.assert_allclose(np.sort(mine**2) * max(1, sum(counts)), counts, rtol=1e-5)


@given(st.lists(CODE, max_size=5))
def test_a_product_is_the_rows_product(texts: list[str]) -> None:
    data, spans, _ = spans_of(texts, 25)
    weights = np.random.default_rng(0).normal(size=1 << BITS).astype(np.float32)
    columns, values, bounds = rows(data, spans, BITS)
    dense = np.zeros((len(spans), 1 << BITS))
    for k in range(len(spans)):
        dense[k, columns[bounds[k] : bounds[k + 1]]] = values[bounds[k] : bounds[k + 1]]
    np.testing.assert_allclose(products(data, spans, weights), dense @ weights, atol=1e-5)


def test_case_space_and_neighbours_of_the_text_do_not_matter() -> None:
    data, spans, _ = spans_of(["If (x)", "if\n\t( X )", "if x"], 100)
    weights = np.random.default_rng(1).normal(size=1 << BITS).astype(np.float32)
    one, same, other = products(data, spans, weights)
    assert one == same != other


def test_the_ridge_is_the_least_squares_one() -> None:
    rng = np.random.default_rng(2)
    texts = ["".join(rng.choice(list("ab cd(=)"), 40)) for _ in range(50)]
    data, spans, _ = spans_of(texts, 100)
    columns, values, bounds = rows(data, spans, 8)
    target = rng.normal(size=len(spans))
    x = np.zeros((len(spans), 1 << 8))
    for k in range(len(spans)):
        x[k, columns[bounds[k] : bounds[k + 1]]] = values[bounds[k] : bounds[k + 1]]
    want = np.linalg.solve(x.T @ x + 0.5 * np.eye(1 << 8), x.T @ target)
    got = ridge(columns, values, bounds, target, 0.5, 8, 300)
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert got.tobytes() == ridge(columns, values, bounds, target, 0.5, 8, 300).tobytes()


def test_weights_are_a_power_of_two() -> None:
    data, spans, _ = spans_of(["a"], 10)
    with pytest.raises(ValueError, match="12 weights"):
        products(data, spans, np.zeros(12, np.float32))
