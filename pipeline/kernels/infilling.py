"""Rearranges a piece of a document so that a model learns to fill gaps (Bavarian, 2207.14255).

A piece is cut at two places drawn evenly; its middle moves to the end, behind three sentinels:
PSM = prefix, suffix, middle; SPM = suffix, prefix, middle in its second variant, where prefix and
middle stay one run of text. numpy only; knows nothing of documents or sequences.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.schema import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX

Ids = NDArray[np.integer[Any]]


def rearrange(ids: Ids, rng: np.random.Generator, spm_rate: float) -> Ids:
    """`ids` (n) with its middle last and the sentinels in: n + 3 ids, same dtype.

    spm_rate: how often it is SPM, 0 to 1. Any part may come out empty.
    """
    low, high = np.sort(rng.integers(0, len(ids) + 1, 2))
    prefix, middle, suffix = ids[:low], ids[low:high], ids[high:]
    if rng.random() < spm_rate:
        return _join(ids.dtype, [FIM_PREFIX, FIM_SUFFIX], suffix, [FIM_MIDDLE], prefix, middle)
    return _join(ids.dtype, [FIM_PREFIX], prefix, [FIM_SUFFIX], suffix, [FIM_MIDDLE], middle)


def restore(ids: Ids) -> Ids:
    """What `rearrange` was given; ValueError if `ids` is not one of its results."""
    at = [np.flatnonzero(ids == sentinel) for sentinel in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)]
    if [len(found) for found in at] != [1, 1, 1] or not 0 == at[0][0] < at[1][0] < at[2][0]:
        raise ValueError("no infilled piece: its sentinels are not prefix, suffix, middle")
    _, suffix, middle = (int(found[0]) for found in at)
    return _join(ids.dtype, ids[1:suffix], ids[middle + 1 :], ids[suffix + 1 : middle])


def _join(dtype: np.dtype[Any], *parts: Any) -> Ids:
    return np.concatenate([np.asarray(part, dtype) for part in parts])
