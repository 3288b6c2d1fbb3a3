"""Packing: every token of every document exactly once, sequences exactly full, sentinels fit."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels.packing import (
    SENTINELS,
    SHORTEST,
    Pieces,
    Spans,
    draw,
    lay,
    most_pieces,
    places,
    starts,
)

LENGTHS = st.lists(st.integers(0, 90), min_size=1, max_size=30)
LENGTH, RATE = st.integers(8, 64), st.sampled_from([0.0, 0.3, 0.5, 1.0])
SPANS = st.builds(
    Spans, RATE, st.floats(0, 0.4), st.floats(0.4, 0.9), st.integers(8, 40), st.integers(1, 9)
)


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
            infill = fits and bool(draw(seed, document, offset) < rate)
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
    assert len(p.sequence) <= most_pieces(np.array(lengths), length, Spans())


@given(LENGTHS, LENGTH, RATE, SPANS)
def test_each_token_is_laid_once_and_sequences_are_full(
    lengths: list[int], length: int, rate: float, spans: Spans
) -> None:
    p = lay(np.array(lengths), length, rate, _rng(), spans)
    for document, total in enumerate(lengths):
        mine = p.document == document
        assert p.offset[mine].tolist() == [0, *np.cumsum(p.length[mine])[:-1].tolist()]
        assert p.length[mine].sum() == total
        assert p.last[mine].tolist() == [False] * (mine.sum() - 1) + [True]
    used = np.bincount(p.sequence, places(p.length, p.infill, p.spans, p.last))
    assert (used[:-1] == length).all()
    assert 0 < used[-1] <= length
    assert (p.length[p.infill] >= SHORTEST).all()
    if rate == 1.0 and spans.rate == 0.0 and length >= SHORTEST + SENTINELS:
        assert p.infill[p.length >= SHORTEST + SENTINELS].all()


@given(LENGTHS, LENGTH, SPANS)
def test_corrupted_sequences_are_so_throughout_and_masks_fit(
    lengths: list[int], length: int, spans: Spans
) -> None:
    p = lay(np.array(lengths), length, 0.0, _rng(), spans)
    assert len(p.sequence) <= most_pieces(np.array(lengths), length, spans)
    hit = p.spans > 0
    assert ((p.masked > 0) == hit).all()
    assert (p.spans <= np.minimum(p.masked, spans.masks)).all()
    assert (p.masked[hit] <= np.maximum(1, spans.high * p.length[hit])).all()
    room = np.array([length - sum(_used(p, i)) for i in range(len(p.sequence))])
    long = np.minimum(p.length, room - 4) >= SHORTEST
    for sequence in np.unique(p.sequence):
        mine = p.sequence == sequence
        assert hit[mine & long].all() or not hit[mine].any()


def _used(p: Pieces, piece: int) -> list[int]:
    """Places of the pieces before this one in its sequence."""
    before = (p.sequence == p.sequence[piece]) & (np.arange(len(p.sequence)) < piece)
    return [int(n) for n in places(p.length, p.infill, p.spans, p.last)[before]]


def test_the_shares_of_corrupted_sequences_and_of_masked_tokens_are_as_asked() -> None:
    p = lay(np.full(20_000, 300), 2048, 0.5, _rng(), Spans(0.5, 0.1, 0.5, 15, 100))
    hit = p.spans > 0
    assert abs(np.mean(hit[p.length >= SHORTEST]) - 0.5) < 0.05
    assert not (hit & p.infill).any()
    ratios = p.masked[p.length == 300][hit[p.length == 300]] / 300
    assert abs(ratios.mean() - 0.3) < 0.01
    assert ratios.min() < 0.12
    assert ratios.max() > 0.48
    assert abs((p.masked[hit] / p.spans[hit]).mean() - 8) < 0.5


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
