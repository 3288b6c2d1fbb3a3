"""Span corruption loses nothing: every corrupted piece can be mended, and its form is CodeGen2's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.schema import END, EOM, MASK, SEP, specials
from pipeline.kernels.corruption import _sizes, corrupt, mend

FIRST = len(specials(100))


@st.composite
def asked(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """(ids, masked, spans)"""
    ids = draw(st.lists(st.just(END) | st.integers(FIRST, 63999), min_size=1, max_size=60))
    masked = draw(st.integers(1, len(ids)))
    return ids, masked, draw(st.integers(1, min(masked, 100)))


@given(asked(), st.sampled_from([-1, END]), st.integers(0, 2**32))
def test_every_piece_can_be_mended(given: tuple[list[int], int, int], end: int, seed: int) -> None:
    ids, masked, spans = given
    out = corrupt(np.array(ids, np.uint16), masked, spans, end, np.random.default_rng(seed))
    assert len(out) == len(ids) + 3 * spans + 1 + (end >= 0)
    assert out.dtype == np.uint16
    assert mend(out).tolist() == ids + [end] * (end >= 0)


@given(asked(), st.integers(0, 2**32))
def test_the_form_is_codegen2s(given: tuple[list[int], int, int], seed: int) -> None:
    """`text <mask_1> text <|endoftext|> <sep> <mask_1> span <eom>`: sentinels in order, once on each
    side, `masked` tokens behind <sep>."""
    ids, masked, spans = given
    out = corrupt(np.array(ids), masked, spans, END, np.random.default_rng(seed)).tolist()
    at = out.index(SEP)
    assert out[at - 1] == END
    sentinels = list(range(MASK, MASK + spans))
    assert [t for t in out[:at] if MASK <= t < FIRST] == sentinels
    assert [t for t in out[at:] if MASK <= t < FIRST] == sentinels
    assert out.count(EOM) == spans
    assert len(out) - at - 1 == masked + 2 * spans


def test_spans_and_places_are_even() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([_sizes(80, 10, rng) for _ in range(3000)])
    assert (sizes.sum(1) == 80).all()
    assert sizes.min() == 1
    assert (np.abs(sizes.mean(0) - 8) < 0.3).all()
    assert abs(np.mean(sizes <= 8) - 0.52) < 0.05
    outs = [corrupt(np.arange(200, 220), 5, 1, -1, rng).tolist() for _ in range(4000)]
    holes = np.bincount([o.index(MASK) for o in outs])
    assert (np.abs(holes / 4000 - 1 / 16) < 0.015).all()


@pytest.mark.parametrize(
    "ids",
    [
        [200, SEP],
        [200, MASK, SEP, MASK, 201],
        [MASK, SEP, MASK + 1, 201, EOM],
        [MASK, EOM, SEP, MASK, EOM],
        [MASK + 1, MASK, SEP, MASK, 1, EOM, MASK + 1, 1, EOM],
    ],
)
def test_other_ids_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="no corrupted piece"):
        mend(np.array(ids))
