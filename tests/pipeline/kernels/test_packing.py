"""Packing: every token of every document exactly once, sequences exactly full, sentinels fit."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.packing import SENTINELS, SHORTEST, lay


@given(
    st.lists(st.integers(0, 90), min_size=1, max_size=30),
    st.integers(8, 64),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_each_token_is_laid_once_and_sequences_are_full(
    lengths: list[int], length: int, rate: float
) -> None:
    p = lay(np.array(lengths), length, rate, np.random.Generator(np.random.Philox(1)))
    for document, total in enumerate(lengths):
        mine = p.document == document
        assert p.offset[mine].tolist() == [0, *np.cumsum(p.length[mine])[:-1].tolist()]
        assert p.length[mine].sum() == total
        assert p.last[mine].tolist() == [False] * (mine.sum() - 1) + [True]
    used = np.bincount(p.sequence, p.length + SENTINELS * p.infill + p.last)
    assert (used[:-1] == length).all()
    assert 0 < used[-1] <= length
    assert (np.diff(p.sequence) >= 0).all()
    assert (p.length[p.infill] >= SHORTEST).all()
    if rate == 1.0 and length >= SHORTEST + SENTINELS:
        assert p.infill[p.length >= SHORTEST + SENTINELS].all()


def test_without_infilling_nothing_is_infilled() -> None:
    assert not lay(np.array([100, 200]), 64, 0.0, np.random.default_rng(0)).infill.any()
