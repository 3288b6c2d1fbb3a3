"""Packing: every token of every document exactly once, sequences exactly full, sentinels fit."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.packing import SENTINELS, SHORTEST, Pieces, _draw, _most, lay, starts

LENGTHS = st.lists(st.integers(0, 90), min_size=1, max_size=30)
LENGTH, RATE = st.integers(8, 64), st.sampled_from([0.0, 0.3, 0.5, 1.0])


def _rng() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(1))


def _plain(lengths: list[int], length: int, rate: float) -> list[tuple[Any, ...]]:
    """Rows of (sequence, document, offset, size, infill, last), one piece after the other."""
    seed = _rng().integers(2**64, dtype=np.uint64)
    rows, sequence, room = [], 0, length
    for document, left in enumerate(lengths):
        offset, last = 0, False
        while not last:
            fits = min(left, room - SENTINELS) >= SHORTEST
            infill = fits and bool(_draw(seed, document, offset) < rate)
            space = room - SENTINELS * infill
            size, last = min(left, space), left < space
            rows.append((sequence, document, offset, size, infill, last))
            offset, left, room = offset + size, left - size, space - size - last
            if room == 0:
                sequence, room = sequence + 1, length
    return rows


@given(LENGTHS, LENGTH, RATE)
def test_the_kernel_is_the_plain_version(lengths: list[int], length: int, rate: float) -> None:
    p = lay(np.array(lengths), length, rate, _rng())
    columns = (p.sequence, p.document, p.offset, p.length, p.infill, p.last)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == _plain(lengths, length, rate)
    assert len(p.sequence) <= _most(np.array(lengths), length)


@given(LENGTHS, LENGTH, RATE)
def test_each_token_is_laid_once_and_sequences_are_full(
    lengths: list[int], length: int, rate: float
) -> None:
    p = lay(np.array(lengths), length, rate, _rng())
    for document, total in enumerate(lengths):
        mine = p.document == document
        assert p.offset[mine].tolist() == [0, *np.cumsum(p.length[mine])[:-1].tolist()]
        assert p.length[mine].sum() == total
        assert p.last[mine].tolist() == [False] * (mine.sum() - 1) + [True]
    used = np.bincount(p.sequence, p.length + SENTINELS * p.infill + p.last)
    assert (used[:-1] == length).all()
    assert 0 < used[-1] <= length
    assert (p.length[p.infill] >= SHORTEST).all()
    if rate == 1.0 and length >= SHORTEST + SENTINELS:
        assert p.infill[p.length >= SHORTEST + SENTINELS].all()


@given(LENGTHS, LENGTH)
def test_starts_are_where_the_sequence_changes(lengths: list[int], length: int) -> None:
    p: Pieces = lay(np.array(lengths), length, 0.5, _rng())
    found = starts(p)
    assert found[-1] == len(p.sequence)
    assert p.sequence[found[:-1]].tolist() == list(range(len(found) - 1))
    assert (np.diff(found) > 0).all()


def test_the_share_of_infilled_pieces_is_the_rate() -> None:
    lengths = np.full(20_000, 100)
    for rate in (0.1, 0.5, 0.9):
        p = lay(lengths, 4096, rate, _rng())
        assert abs(p.infill[p.length >= SHORTEST].mean() - rate) < 0.02


def test_without_infilling_nothing_is_infilled() -> None:
    assert not lay(np.array([100, 200]), 64, 0.0, _rng()).infill.any()


def test_no_document_makes_no_piece() -> None:
    p = lay(np.empty(0, np.int64), 64, 0.5, _rng())
    assert len(p.sequence) == 0
    assert starts(p).tolist() == [0]
