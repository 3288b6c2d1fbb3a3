"""Best fit: each token once, no document cut that fits, and the same sequences as an obvious version."""

from bisect import bisect_left, insort

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.fitting import _assign, fit
from pipeline.kernels.packing import Spans, lay, places, starts
from tests.pipeline.kernels.test_packing import LENGTH, LENGTHS, RATE, SPANS, _rng


@given(LENGTHS, LENGTH, RATE, SPANS)
def test_each_token_is_there_once_and_nothing_that_fits_is_cut(
    lengths: list[int], length: int, rate: float, spans: Spans
) -> None:
    p = fit(np.array(lengths), length, rate, _rng(), spans)
    room = places(p.length, p.infill, p.spans, p.last)
    assert np.bincount(p.sequence, room).max() <= length
    assert p.sequence[starts(p)[:-1]].tolist() == list(range(p.sequence.max() + 1))
    for document, total in enumerate(lengths):
        mine = np.flatnonzero(p.document == document)
        mine = mine[np.lexsort((p.last[mine], p.offset[mine]))]
        assert p.offset[mine].tolist() == [0, *np.cumsum(p.length[mine])[:-1].tolist()]
        assert p.length[mine].sum() == total
        assert p.last[mine].tolist() == [False] * (len(mine) - 1) + [True]
        assert (room[mine[:-1]] == length).all()  # a long one fills whole sequences first
        if total < length and rate == spans.rate == 0.0:
            assert len(mine) == 1


@given(st.lists(st.integers(1, 64), min_size=1, max_size=80))
def test_sequences_are_those_of_the_obvious_best_fit(used: list[int]) -> None:
    rooms: list[int] = []
    for size in sorted(used, reverse=True):
        at = bisect_left(rooms, size)
        left = (rooms.pop(at) if at < len(rooms) else 64) - size
        insort(rooms, left)
    sequence = np.empty(len(used), np.int64)
    total = _assign(np.array(used), 64, sequence)
    assert total == len(rooms)
    filled = np.bincount(sequence, used)
    assert sorted((64 - filled).astype(int).tolist()) == rooms


def test_it_needs_hardly_more_sequences_than_cutting_and_other_orders_mix_otherwise() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1.2, 20_000).astype(np.int64)
    best, cut = (make(lengths, 2048, 0.5, _rng()) for make in (fit, lay))
    assert best.sequence.max() + 1 < 1.002 * (cut.sequence[-1] + 1)
    again = fit(lengths, 2048, 0.5, _rng())
    assert again.sequence.tolist() == best.sequence.tolist()
    other = fit(lengths[::-1].copy(), 2048, 0.0, _rng())
    plain = fit(lengths, 2048, 0.0, _rng())
    mates = {tuple(sorted(d)) for d in _mates(plain.sequence, plain.document)}
    turned = {tuple(sorted(19_999 - d)) for d in _mates(other.sequence, other.document)}
    assert len(mates & turned) < 0.5 * len(mates)


def _mates(sequence: np.ndarray, document: np.ndarray) -> list[np.ndarray]:
    return np.split(document, np.flatnonzero(np.diff(sequence)) + 1)


def test_no_document_makes_no_piece() -> None:
    assert len(fit(np.empty(0, np.int64), 64, 0.5, _rng()).sequence) == 0
