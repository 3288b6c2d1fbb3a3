"""Infilling loses nothing: every rearranged piece can be put back, and both layouts are as named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.schema import END, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, SPECIALS
from pipeline.kernels.infilling import rearrange, restore

pieces = st.lists(st.sampled_from([END]) | st.integers(len(SPECIALS), 63999), max_size=60)


@given(pieces, st.integers(0, 2**32), st.sampled_from([0.0, 0.5, 1.0]))
def test_every_piece_can_be_restored(ids: list[int], seed: int, spm_rate: float) -> None:
    piece = np.array(ids, np.uint16)
    out = rearrange(piece, np.random.default_rng(seed), spm_rate)
    assert len(out) == len(piece) + 3
    assert out.dtype == piece.dtype
    assert restore(out).tolist() == ids


@given(pieces, st.integers(0, 2**32))
def test_layouts_are_psm_and_the_second_spm(ids: list[int], seed: int) -> None:
    piece = np.array(ids, np.uint16)
    psm, spm = (rearrange(piece, np.random.default_rng(seed), r).tolist() for r in (0.0, 1.0))
    suffix, middle = psm.index(FIM_SUFFIX), psm.index(FIM_MIDDLE)
    prefix, tail, inner = psm[1:suffix], psm[suffix + 1 : middle], psm[middle + 1 :]
    assert prefix + inner + tail == ids
    assert spm == [FIM_PREFIX, FIM_SUFFIX, *tail, FIM_MIDDLE, *prefix, *inner]


def test_cuts_fall_evenly_and_rates_hold() -> None:
    rng = np.random.default_rng(0)
    piece = np.arange(10, 20)
    outs = [rearrange(piece, rng, 0.3).tolist() for _ in range(4000)]
    spm = sum(o[1] == FIM_SUFFIX and o[-1] != FIM_MIDDLE for o in outs) / len(outs)
    middles = [len(o) - 1 - o.index(FIM_MIDDLE) for o in outs if o[1] != FIM_SUFFIX]
    assert abs(spm - 0.3 - 0.7 * 21 / 121) < 0.03  # an empty prefix makes PSM look like SPM
    assert abs(np.mean(middles) - 10 / 3) < 0.4


@pytest.mark.parametrize("ids", [[7, 8], [1, 3, 7], [1, 2, 7, 3], [1, 1, 3, 2], [7, 1, 3, 2]])
def test_other_ids_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="no infilled piece"):
        restore(np.array(ids))
