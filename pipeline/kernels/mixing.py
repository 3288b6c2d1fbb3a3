"""How many sequences each source gives to a mixture, and where in it they lie: numbers only.

Sequence j of a source's n lies at (j + 1/2) / n of the whole, so that every stretch of the mixture,
and so every batch, has each source's share to within a sequence. numpy only.
"""

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


def apportioned(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` divided by the shares: each rounded down, what is left to the largest remainders."""
    exact = {name: Fraction(str(share)) for name, share in shares.items()}
    whole = sum(exact.values())
    parts = {name: total * share / whole for name, share in exact.items()}
    out = {name: int(part) for name, part in parts.items()}
    first = sorted(parts, key=lambda name: (out[name] - parts[name], name))
    for name in first[: total - sum(out.values())]:
        out[name] += 1
    return out


def largest(available: Mapping[str, int], shares: Mapping[str, float]) -> int:
    """The largest total that can be apportioned without taking more of any than is available."""
    total = int(min(n / shares[name] for name, n in available.items())) + len(shares)
    while any(n > available[name] for name, n in apportioned(shares, total).items()):
        total -= 1
    return total


def portions(totals: I64, most: int) -> I64:
    """How much of each of `totals` (n) lies in each of equal stretches of the whole, at most about
    `most` sequences long: (stretches, n)."""
    count = max(1, -(-int(totals.sum()) // most))
    bounds = (2 * np.arange(count + 1)[:, None] * totals + count) // (2 * count)
    return np.asarray(np.diff(bounds, axis=0))


def interleaved(before: I64, counts: I64, totals: I64) -> list[I64]:
    """For each source, the places in a stretch (from 0) of its `counts` next sequences, of which
    `before` came earlier."""
    keys = [
        (2 * (b + np.arange(c)) + 1) / (2 * t)
        for b, c, t in zip(before.tolist(), counts.tolist(), totals.tolist(), strict=True)
    ]
    places = np.empty(int(counts.sum()), np.int64)
    places[np.argsort(np.concatenate(keys), kind="stable")] = np.arange(len(places))
    return np.split(places, np.cumsum(counts)[:-1])
