"""Where a score stands among a corpus's scores: percentiles and a histogram, by language and in all.

Made from a scale's sums, so that no list of documents is needed; small enough to lie beside the judge
(ours). Knows nothing of files or of HTTP.
"""

from typing import Any

import numpy as np

from pipeline.kernels import cuts, ranks
from pipeline.kernels.cuts import Group, Look
from pipeline.kernels.ranks import F64, U64, Scale

ALL = ""
"""The name under which a pass gives all documents; no language is called so."""
KNOTS = 257
"""Most scores of a language whose percentile is written down; between two it is interpolated (ours)."""
BARS = 40
"""Bars of a histogram (ours)."""


def standing(look: Look) -> dict[str, Any]:
    """`range` (low, high) of the histograms; of `all` and each of `languages`: `documents` with a
    score, `unscored`, `counts` by bar, and ascending `scores` with the share of documents `below`
    each, half of its own tie counted. Two passes; empty where nothing has a score."""
    found = cuts.surveyed(look)
    edges = {n: ranks.edges(ranks.keys(s.values[:, 0])) for n, s in found.items()}
    scales = cuts.weighed(look, [edges], keyed)[0]
    if ALL not in scales or not ranks.scored(scales[ALL]):
        return {}
    low, high = span(knots(scales[ALL]))
    rows = {n: _row(scales[n], np.linspace(low, high, BARS + 1)) for n in sorted(scales)}
    return {"range": [low, high], "all": rows.pop(ALL), "languages": rows}


def keyed(_: str, group: Group) -> list[U64]:
    """The keys of the one column."""
    return [ranks.keys(group.values[:, 0])]


def knots(scale: Scale) -> F64:
    """Some of the scores that the scale tells exactly, ascending, the ends among them."""
    inner = ranks.scores(scale.edges[1:-1][::-1])
    found: F64 = inner[np.unique(np.linspace(0, len(inner) - 1, KNOTS).round().astype(int))]
    return found


def span(scores: F64) -> tuple[float, float]:
    """From 0 to 1 where no score lies outside, else from the lowest to the highest."""
    low, high = float(scores[0]), float(scores[-1])
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1


def _row(scale: Scale, bars: F64) -> dict[str, Any]:
    documents = ranks.scored(scale)
    scores = knots(scale) if documents else np.empty(0)
    below = ranks.percentiles(scale, ranks.keys(bars))
    below[0], below[-1] = 0, 1
    ends = np.rint(below * documents).astype(int)
    return {
        "documents": documents,
        "unscored": int(scale.count[-2]),
        "counts": np.diff(ends).tolist(),
        "scores": scores.tolist(),
        "below": ranks.percentiles(scale, ranks.keys(scores)).round(4).tolist(),
    }


def percentile(row: dict[str, Any] | None, score: float) -> float | None:
    """The share of a row's documents below this score, half of its own tie counted, 0 to 1; None
    without a row or where it has no score."""
    if not row or not row["scores"]:
        return None
    return float(np.interp(score, row["scores"], row["below"], left=0.0, right=1.0))
