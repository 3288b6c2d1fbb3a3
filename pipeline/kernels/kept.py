"""The numbers of one language after a choice: what stays of what there was, between which scores.

Sums of small parts, so that no list of documents is needed (ours). Knows nothing of how it was chosen.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from pipeline.kernels import ranks
from pipeline.kernels.ranks import F64, I64, Scale


@dataclass(frozen=True)
class Kept:
    """What stays of a language: documents, tokens, lowest and highest score (NaN for none)."""

    files: int = 0
    tokens: int = 0
    lowest: float = np.nan
    highest: float = np.nan

    @classmethod
    def of(cls, scores: F64, tokens: I64) -> "Kept":
        """Of the documents that stay."""
        ends = np.append(scores, np.nan)
        low, high = float(np.fmin.reduce(ends)), float(np.fmax.reduce(ends))
        return cls(len(tokens), int(tokens.sum()), low, high)

    def plus(self, other: "Kept") -> "Kept":
        """Both together."""
        low = float(np.fmin(self.lowest, other.lowest))
        high = float(np.fmax(self.highest, other.highest))
        return Kept(self.files + other.files, self.tokens + other.tokens, low, high)


def facts(scale: Scale, stay: Kept) -> dict[str, Any]:
    """One language's numbers: what stays of what there was, between which scores, and the score at
    each hundredth of the scored tokens, 0 to 100 (empty where there is none)."""
    return {
        "files": stay.files,
        "tokens": stay.tokens,
        "of_files": int(scale.count.sum()),
        "of_tokens": int(scale.weight.sum()),
        "unscored": int(scale.count[-2]),
        "lowest": _number(stay.lowest),
        "highest": _number(stay.highest),
        "percentiles": [_number(x) for x in ranks.quantiles(scale, np.linspace(0, 1, 101))],
    }


def _number(value: float) -> float | None:
    """Six significant digits; None for what is no number, which JSON does not have."""
    return float(f"{value:.6g}") if isfinite(value) else None
