"""What an annotator's exact scores of a sample give before a clock starts: the best share, and for each
fifth of the files a screen and an `exact_from` that learnt from the other four.

Scores are kept in a cache, so that a longer run goes on. Knows nothing of seconds.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.arrays import flat
from pipeline.core.schema import digest
from pipeline.kernels.grams import regions, rows
from pipeline.model import cascade
from pipeline.model.scorer import Scorer

SHARE = 12.5 / 400
"""SnowCoder's: the best 12.5B of 400B tokens."""
AGAIN = 2 * SHARE
"""Share of the files that 8 bits hand on to be scored exactly."""
FOLDS = 5
BITS, PENALTY, REGION = 18, 0.1, 1638
WANTED = cascade.Wanted(SHARE, recall=0.98, confidence=0.5, enough=30, short=1000)
"""The box's settings but for the confidence: some thousand files have too few best ones to promise."""
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Ready:
    """What is there before the clock starts. Per file: windows, whether it is of the exact best, how
    the screens see it; per fifth of the files, what learnt from the others alone: a screen's folder
    and `exact_from`."""

    sample: cascade.Sample
    windows: NDArray[np.int64]
    top: NDArray[np.bool_]
    screens: list[str]
    least: F64


def prepared(
    table: pa.Table, small: Path, folder: Path, given: argparse.Namespace
) -> tuple[Ready, dict[str, Any]]:
    """The above, and what 8 bits and the screen lose by it."""
    cut = {p: scored(table, small, p, given) for p in ("exact", "int8")}
    exact, eight = (np.array([np.mean(w) for w in found]) for found in cut.values())
    sample = sampled(table, exact)
    screens, guess, margin = unseen(sample, folder)
    least = near(eight)
    again = np.where(eight >= least[fold(len(exact))], exact, eight)
    top, mixed, alone = (
        cascade.best(v, sample.length, sample.language, SHARE) for v in (exact, again, eight)
    )
    cost = cascade.work(sample.size, REGION)
    told = {
        "best": int(top.sum()),
        "cost": round(float(cost[margin >= 0].sum() / cost.sum()), 4),
        "correlation": round(float(np.corrcoef(guess, exact)[0, 1]), 3),
        "curve": cascade.curve(margin, top, cost, cascade.RECALLS),
        "int8_top_overlap": share(top, mixed),
        "int8_alone_top_overlap": share(top, alone),
    }
    many = np.array([len(w) for w in cut["exact"]])
    return Ready(sample, many, top, screens, least), told


def share(top: NDArray[np.bool_], found: NDArray[np.bool_]) -> float:
    """How much of the best was found."""
    return round(float((top & found).sum() / top.sum()), 4)


def fold(many: int) -> NDArray[np.int64]:
    """Which fifth each file is in."""
    return np.asarray(np.arange(many) // 7 % FOLDS)


def near(eight: F64) -> F64:
    """Each fifth's `exact_from`: what AGAIN of the other files score, in 8 bits."""
    at = fold(len(eight))
    return np.array([np.quantile(eight[at != k], 1 - AGAIN) for k in range(FOLDS)])


def scored(
    table: pa.Table, small: Path, precision: Any, given: argparse.Namespace
) -> list[list[float]]:
    """Window scores of each file, in parts that are kept in the cache."""
    scorer, out = None, []
    for at in range(0, len(table), 100):
        part = table.slice(at, 100)
        kept = (
            given.cache / f"{small.name}-{precision}-{digest(*part['uid'].to_pylist())[:12]}.json"
        )
        if not kept.exists():
            scorer = scorer or Scorer(small, threads=given.threads, precision=precision)
            kept.write_text(json.dumps([s.windows for s in scorer.score(part["text"].to_pylist())]))
        out += json.loads(kept.read_text())
    return out


def sampled(table: pa.Table, score: F64) -> cascade.Sample:
    """Scored files as the screen learns from them; their bytes stand for their tokens."""
    data, offsets = flat(table["text"])
    size, (spans, bounds) = np.diff(offsets), regions(offsets, REGION)
    columns, values, ends = rows(data, spans, BITS)
    language = table["language"].to_numpy().astype(str)
    return cascade.Sample(columns, values, ends, bounds, score, size, size, language)


def unseen(
    sample: cascade.Sample, folder: Path
) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
    """A screen's folder for each fifth of the files, fitted without it, floors too; and (guess,
    margin above its floor) of each file."""
    at, screens = fold(len(sample.score)), [str(folder / str(k)) for k in range(FOLDS)]
    guess, margin = np.zeros((2, len(at)), np.float32)
    for k in range(FOLDS):
        screen, _ = cascade.fit(sample.part(at != k), WANTED, BITS, PENALTY, REGION)
        held = sample.part(at == k)
        guess[at == k] = found = cascade.apply(held, screen.weights, screen.bias)
        margin[at == k] = screen.margin(found, held.language.tolist(), held.size)
        screen.save(Path(screens[k]))
    return screens, guess, margin
