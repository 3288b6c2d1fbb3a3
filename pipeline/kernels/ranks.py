"""Places in a ranking: scores as integers of one order, and how much weight lies ahead of them.

A scale is a histogram over chosen edges: a bin for each edge and one for each gap between two, so
that a tie is a point with weight and not a range. Percentiles are read from it; a span is narrowed
until it holds the few rows among which a cumulated weight passes a limit. Knows nothing of documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

LAST = 2**64 - 1
"""The key of what has no score: after every score."""
SLOTS = 12
"""Bits of a span that one narrowing tells apart: 4,096 slots, 64 KiB of sums (ours)."""
_SIGN = np.uint64(1 << 63)


def keys(scores: F64) -> U64:
    """(n) integers that ascend from the highest score to the lowest; LAST for NaN, never 0."""
    bits = (0.0 - scores).view(np.uint64)  # 0.0 - 0.0: both zeros become one
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return np.where(np.isnan(scores), np.uint64(LAST), ordered)


def scores(keys: U64) -> F64:
    """The scores of keys other than LAST."""
    return 0.0 - np.where(keys & _SIGN, keys & ~_SIGN, ~keys).view(np.float64)


@dataclass(frozen=True)
class Scale:
    """Rows and their weight by key: `edges` (m) ascending from 0 to LAST; `weight` and `count`
    (2m + 1), where bin 2i + 1 is edge i and bin 2i the gap before it."""

    edges: U64
    weight: I64
    count: I64


def edges(sample: U64) -> U64:
    """The edges of a scale, from the keys of some of its rows."""
    ends = np.array([0, LAST], np.uint64)
    return np.unique(np.concatenate([ends, sample]))


def blank(edges: U64) -> Scale:
    """A scale that has counted nothing."""
    size = 2 * len(edges) + 1
    return Scale(edges, np.zeros(size, np.int64), np.zeros(size, np.int64))


def bins(edges: U64, keys: U64) -> I64:
    """The bin of each key."""
    return np.searchsorted(edges, keys, "left") + np.searchsorted(edges, keys, "right")


def sums(bins: I64, weight: I64) -> tuple[I64, I64, I64]:
    """(bins that occur, their weight, their number of rows)."""
    there, back, count = np.unique(bins, return_inverse=True, return_counts=True)
    total = np.zeros(len(there), np.int64)
    np.add.at(total, back, weight)
    return there, total, count


def percentiles(scale: Scale, keys: U64) -> F64:
    """(n) share of the scored weight below each key's score, half of its own tie counted; NaN for LAST.

    Exact at edges; in a gap, by the place between its two edges. 0.5 where nothing has weight.
    """
    at = bins(scale.edges, keys)
    upper = np.minimum((at + 1) // 2, len(scale.edges) - 1)
    lower = np.maximum(upper - 1, 0)
    gap, into = scale.edges[upper] - scale.edges[lower], keys - scale.edges[lower]
    inside = np.where(at % 2, 0.5, into / np.maximum(gap, np.uint64(1)))
    ahead = (np.cumsum(scale.weight) - scale.weight)[at] + scale.weight[at] * inside
    whole = scored(scale)
    share = 1 - ahead / whole if whole else np.full(len(keys), 0.5)
    return np.where(keys == np.uint64(LAST), np.nan, share)


def scored(scale: Scale) -> int:
    """The weight of all rows that have a score."""
    return int(scale.weight[:-2].sum())


def quantiles(scale: Scale, shares: F64) -> F64:
    """The scores at these shares of the scored weight, ascending; empty where no score is finite."""
    inner = scale.edges[1:-1][::-1]
    found = scores(inner)
    finite = np.isfinite(found)
    if not finite.any():
        return np.empty(0)
    return np.interp(shares, percentiles(scale, inner)[finite], found[finite])


@dataclass(frozen=True)
class Span:
    """The rows from `low` to `high`, both included, each a (key, tie): their number, and the weight
    ahead of them. Ties matter only where the keys of both ends are equal."""

    low: tuple[int, int]
    high: tuple[int, int]
    ahead: int
    count: int

    @property
    def single(self) -> bool:
        """Whether it cannot be narrowed."""
        return self.low == self.high


def crossing(scale: Scale, limit: int) -> Span | None:
    """The bin in which the cumulated weight passes the limit; None when all of it fits."""
    total = np.cumsum(scale.weight)
    at = int(np.searchsorted(total, limit, side="right"))
    if at == len(total):
        return None
    low, high = int(scale.edges[max(at - 1, 0) // 2]), int(scale.edges[at // 2])
    if at % 2 == 0:
        low, high = low + 1, high - 1
    return Span((low, 0), (high, LAST), int(total[at] - scale.weight[at]), int(scale.count[at]))


def within(span: Span, keys: U64, ties: U64) -> NDArray[np.bool_]:
    """Which rows lie in the span."""
    there = (keys >= np.uint64(span.low[0])) & (keys <= np.uint64(span.high[0]))
    if span.low[0] < span.high[0]:
        return there
    return there & (ties >= np.uint64(span.low[1])) & (ties <= np.uint64(span.high[1]))


def slots(span: Span, keys: U64, ties: U64) -> I64:
    """The slot, 0 to 4,095 in order, of each of a span's rows: of its key, or else of its tie."""
    start, shift, by_tie = _slots(span)
    return (((ties if by_tie else keys) - np.uint64(start)) >> np.uint64(shift)).astype(np.int64)


def narrowed(span: Span, weight: I64, count: I64, limit: int) -> Span:
    """The slot in which the cumulated weight passes the limit, which it does in this span."""
    start, shift, by_tie = _slots(span)
    total = span.ahead + np.cumsum(weight)
    at = int(np.searchsorted(total, limit, side="right"))
    low = start + (at << shift)
    high = min(low + (1 << shift) - 1, span.high[by_tie])
    ends = ((span.low[0], low), (span.low[0], high)) if by_tie else ((low, 0), (high, LAST))
    return Span(*ends, int(total[at] - weight[at]), int(count[at]))


def _slots(span: Span) -> tuple[int, int, bool]:
    """(first value, bits of a slot, whether it is the ties that are told apart)."""
    by_tie = span.low[0] == span.high[0]
    width = span.high[by_tie] - span.low[by_tie]
    return span.low[by_tie], max(0, width.bit_length() - SLOTS), by_tie


Cut = tuple[int, int, int]
"""The first row that is not kept: its key, and its tie in two halves."""
NO_CUT = (LAST, LAST, LAST)
"""Where every row is kept; no tie is as large as this."""


def mean(values: F64, weights: Sequence[float], scales: Sequence[Scale]) -> F64:
    """(n) the weighted mean of the percentiles of each of the columns (n, columns) on its scale; a
    negative weight turns a column around. NaN where any is."""
    total = np.zeros(len(values))
    for column, weight, scale in zip(values.T, weights, scales, strict=True):
        share = percentiles(scale, keys(column))
        total += abs(weight) * (share if weight > 0 else 1 - share)
    out: F64 = total / sum(map(abs, weights))
    return out


def cut(rows: U64, ahead: int, limit: int) -> Cut:
    """The first of some rows (n, 4: key, tie in halves, weight), in order, with which the weight
    passes the limit, as it does. ahead: the weight before all of them."""
    rows = rows[np.lexsort(rows.T[2::-1])]
    at = int(np.searchsorted(ahead + np.cumsum(rows[:, 3].astype(np.int64)), limit, side="right"))
    key, high, low = rows[at, :3].tolist()
    return key, high, low


def from_cut(cut: Cut, keys: U64, ties: U64) -> NDArray[np.bool_]:
    """Which rows (ties: n, 2) are the cut or come after it."""
    key, high, low = map(np.uint64, cut)
    later = (ties[:, 0] > high) | ((ties[:, 0] == high) & (ties[:, 1] >= low))
    return np.asarray((keys > key) | ((keys == key) & later))
