"""How well scores tell good files from ordinary ones: held-out repositories, ROC-AUC, calibration.

From scores and what is known of each file, plain rows of numbers: the area with DeLong's interval
(1988), overall, by language and against files matched in size and comments; how far a score is the
share of good files that it says. Knows nothing of models or texts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import StageError
from pipeline.model.settings import EncoderConfig

F64 = NDArray[np.float64]
Row = dict[str, Any]
FEW = 10
"""A language with fewer files of either class is counted under OTHERS (ours)."""
OTHERS = "others"
LEVELS = 10
"""Bins of the calibration (Guo 1706.04599 uses 15; ours)."""
BARS = 20
"""Bars of the histogram of scores (ours)."""
POINTS = 100
"""Points of the ROC curve at most (ours)."""
DOUBLINGS, COMMENTS = 0.25, 0.05
"""A matched file is at most 2^0.25 times as large or small, and its share of comments at most 0.05
apart (ours: at twice that, each alone still tells the classes apart, ROC-AUC 0.62)."""


@dataclass(frozen=True)
class Judged:
    """Files with their scores: one entry a file, in all."""

    scores: F64
    good: NDArray[np.bool_]
    languages: Sequence[str]
    sizes: F64
    """Bytes."""
    comments: F64
    """Share of the bytes in comments and docstrings."""


def split(labels: Sequence[int], groups: Sequence[str], cfg: EncoderConfig) -> NDArray[np.bool_]:
    """True where a file is held out: whole groups, about `held_out` of each class.

    Groups in a seeded order, each taken if its files still fit into the share; a class left
    without any gets its smallest group. StageError if a class is absent from a side.
    """
    if len(labels) != len(groups) or not set(labels) <= {0, 1}:
        raise ValueError(f"{len(labels)} labels of {set(labels)} for {len(groups)} groups")
    names, member = np.unique(np.array(groups, dtype=np.str_), return_inverse=True)
    sizes = np.zeros((len(names), 2), dtype=np.int64)
    np.add.at(sizes, (member, np.array(labels, dtype=np.int64)), 1)
    total = sizes.sum(0)
    share = np.maximum(1, np.round(total * cfg.held_out).astype(np.int64)).clip(max=total - 1)
    taken = np.zeros(len(names), dtype=bool)
    held = np.zeros(2, dtype=np.int64)
    for g in np.random.default_rng([cfg.seed, 0]).permutation(len(names)):
        if (held + sizes[g] <= share).all():
            taken[g], held = True, held + sizes[g]
    for label in (0, 1):
        mine = [g for g in np.flatnonzero(sizes[:, label]) if (held + sizes[g] < total).all()]
        if not held[label] and mine:
            smallest = min(mine, key=lambda g: sizes[g].sum())
            taken[smallest], held = True, held + sizes[smallest]
    _both_sides(held, total - held, (sizes > 0).sum(0))
    return np.asarray(taken[member])


def _both_sides(held: np.ndarray, train: np.ndarray, groups: np.ndarray) -> None:
    for label, name in enumerate(("corpus files (label 0)", "good files (label 1)")):
        if not (held[label] and train[label]):
            raise StageError(
                f"the annotator needs {name} to train on and to hold out, in different "
                f"repositories: there are {held[label] + train[label]} in {groups[label]} "
                "repositories. Give more sources of them"
            )


def measured(files: Judged) -> Row:
    """All that is told of one comparison: see the functions below for its parts.

    `alone` is the area that size and comments reach without any model.
    """
    alone = {"size": files.sizes, "comments": files.comments}
    return {
        **area(files.scores, files.good),
        "alone": {name: area(values, files.good)["auc"] for name, values in alone.items()},
        "languages": by_language(files),
        "matched": matched(files),
        "calibration": calibration(files.scores, files.good),
        "roc": roc(files.scores, files.good),
        "histogram": histogram(files.scores, files.good),
    }


def area(scores: F64, good: NDArray[np.bool_]) -> Row:
    """`auc`, its 95 % `auc_interval` (both null where a class is absent), files of each class."""
    counts = {"good": int(good.sum()), "corpus": int((~good).sum())}
    if not all(counts.values()):
        return {"auc": None, "auc_interval": None, **counts}
    found, interval = auc(scores, good.astype(np.int64))
    return {"auc": found, "auc_interval": list(interval), **counts}


def auc(scores: np.ndarray, labels: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Area under the ROC curve by ranks, ties averaged, and its 95 % interval (DeLong 1988).

    At exactly 0 or 1 DeLong's variance is 0; there the open end is the rule of three's, 3 / n of
    the smaller class (ours).
    """
    good, rest = scores[labels == 1], scores[labels == 0]
    m, n = len(good), len(rest)
    above = (_ranks(np.concatenate([good, rest]))[:m] - _ranks(good)) / n
    below = 1 - (_ranks(np.concatenate([rest, good]))[:n] - _ranks(rest)) / m
    found = float(above.mean())
    variance = sum(float(v.var(ddof=1)) / len(v) for v in (above, below) if len(v) > 1)
    half = 1.96 * variance**0.5 if 0 < found < 1 else 3 / min(m, n)
    return found, (max(0.0, found - half), min(1.0, found + half))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def by_language(files: Judged) -> list[Row]:
    """An `area` for each language with FEW files of both classes, most files first, then OTHERS."""
    names = np.array(files.languages, dtype=np.str_)
    of = {n: [int((files.good == c)[names == n].sum()) for c in (0, 1)] for n in np.unique(names)}
    own = sorted((n for n in of if min(of[n]) >= FEW), key=lambda n: (-sum(of[n]), n))
    rows = [_of(files, names == n, str(n)) for n in own]
    rest = ~np.isin(names, own)
    return [*rows, _of(files, rest, OTHERS)] if rest.any() else rows


def _of(files: Judged, mine: NDArray[np.bool_], name: str) -> Row:
    found = area(files.scores[mine], files.good[mine])
    few = min(found["good"], found["corpus"]) < FEW
    return {"name": name, **found} | ({"auc": None, "auc_interval": None} if few else {})


def matched(files: Judged) -> Row:
    """The area over pairs of a good and a corpus file of one language, size and comment share.

    Each good file, in order, takes the nearest corpus file that is left. `alone` as in `measured`:
    near 0.5, so that neither can have won.
    """
    found = pairs(files)
    both = np.array(found, dtype=np.int64).reshape(-1, 2).T.ravel()
    good = files.good[both]
    alone = {"size": files.sizes, "comments": files.comments}
    return {
        "pairs": len(found),
        **area(files.scores[both], good),
        "alone": {name: area(values[both], good)["auc"] for name, values in alone.items()},
    }


def pairs(files: Judged) -> list[tuple[int, int]]:
    """(good, corpus) rows that are matched, no row twice, languages in order."""
    return [p for name in sorted(set(files.languages)) for p in _pairs(files, name)]


def _pairs(files: Judged, language: str) -> list[tuple[int, int]]:
    mine = np.array(files.languages, dtype=np.str_) == language
    rest, size = np.flatnonzero(mine & ~files.good), np.log2(np.maximum(files.sizes, 1))
    free = np.ones(len(rest), bool)
    out = []
    for k in np.flatnonzero(mine & files.good) if len(rest) else ():
        larger = np.abs(size[rest] - size[k]) / DOUBLINGS
        more = np.abs(files.comments[rest] - files.comments[k]) / COMMENTS
        apart = np.where(free & (larger <= 1) & (more <= 1), larger + more, np.inf)
        nearest = int(apart.argmin())
        if np.isfinite(apart[nearest]):
            free[nearest] = False
            out.append((int(k), int(rest[nearest])))
    return out


def calibration(scores: F64, good: NDArray[np.bool_]) -> Row:
    """Bins of the scores, and `error`: the mean distance of score and share of good files.

    Both classes weigh alike, as in training, however many files there are of each.
    """
    each = np.where(good, 0.5 / max(1, good.sum()), 0.5 / max(1, (~good).sum()))
    at = np.minimum((np.clip(scores, 0, 1) * LEVELS).astype(int), LEVELS - 1)
    bins = [_bin(at == k, scores, good, each) for k in range(LEVELS)]
    there = [(weight, row) for weight, row in bins if row["files"]]
    error = sum(weight * abs(row["score"] - row["good"]) for weight, row in there)
    return {"bins": [row for _, row in there], "error": float(error / max(each.sum(), 1e-9))}


def _bin(
    mine: NDArray[np.bool_], scores: F64, good: NDArray[np.bool_], each: F64
) -> tuple[float, Row]:
    weight = float(each[mine].sum())
    if not weight:
        return 0.0, {"files": 0}
    score = float((scores * each)[mine].sum() / weight)
    return weight, {
        "files": int(mine.sum()),
        "score": score,
        "good": float(each[mine & good].sum() / weight),
    }


def roc(scores: F64, good: NDArray[np.bool_]) -> Row:
    """False and true positive rates at no more than POINTS thresholds, from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    ends = np.r_[np.flatnonzero(np.diff(scores[order])), len(order) - 1]
    told = ends[np.unique(np.linspace(0, len(ends) - 1, POINTS - 1).astype(int))]
    rates = {"true": good[order], "false": ~good[order]}
    return {k: [0.0, *(np.cumsum(v)[told] / max(1, v.sum())).tolist()] for k, v in rates.items()}


def histogram(scores: F64, good: NDArray[np.bool_]) -> Row:
    """Files of each class in BARS bars over 0..1."""
    inside = np.clip(scores, 0, 1)
    classes = {"good": inside[good], "corpus": inside[~good]}
    return {k: np.histogram(v, BARS, (0, 1))[0].tolist() for k, v in classes.items()}


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); (0, 1) where nothing was counted."""
    if total == 0:
        return 0.0, 1.0
    z = 1.959964
    centre = (right + z * z / 2) / (total + z * z)
    half = z / (total + z * z) * math.sqrt(right * (total - right) / total + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)
