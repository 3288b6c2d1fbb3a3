"""A linear model over hashed n-grams that guesses an annotator's score before the annotator reads.

Trained on the annotator's own scores of a sample; a file whose guess is below its language's floor
cannot plausibly be among the best share, so the annotator skips it. Floors come from guesses made
across folds, each by a model that has not seen the file (ours; cascades: Viola and Jones, CVPR
2001). Imports no torch. Knows nothing of recipes or shards.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp, lgamma, log
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.arrays import I64, flat
from pipeline.kernels.grams import F32, F64, products, regions, ridge

Mask = NDArray[np.bool_]
REST = ""
"""The floor of languages that have none of their own."""
RECALLS = (0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
"""Where the curve of recall against cost is told."""
_FOLDS = 5
_STEPS = 60
"""Conjugate gradient steps: more changed no third digit of the recall (ours)."""
_LEVEL = 8.0
"""Largest logit that a score is taken for: 0.9997 (ours)."""


@dataclass(frozen=True)
class Screen:
    """`weights` over hashes, `bias`, region size in bytes, each language's floor, and up to how many
    bytes a file always passes."""

    weights: F32
    bias: float
    region: int
    floors: dict[str, float]
    short: int

    def judge(self, texts: pa.ChunkedArray, languages: pa.ChunkedArray) -> tuple[F32, Mask]:
        """What the annotator would score, in its own scale, the mean over the regions of each file;
        and whether it can still reach the share."""
        data, offsets = flat(texts)
        spans, bounds = regions(offsets, self.region)
        guess = means(level(products(data, spans, self.weights) + self.bias), bounds)
        return guess, self.passes(guess, languages.to_pylist(), np.diff(offsets))

    def passes(self, guess: F32, languages: Sequence[str], size: I64) -> Mask:
        """Whether each guess is at its language's floor, or the file is short (in bytes)."""
        return self.margin(guess, languages, size) >= 0

    def margin(self, guess: F32, languages: Sequence[str], size: I64) -> F32:
        """How far each guess is above its language's floor; infinite for a short file."""
        rest = self.floors[REST]
        floors = np.array([self.floors.get(name, rest) for name in languages], np.float32)
        return np.where(size <= self.short, np.float32(np.inf), guess - floors)

    def save(self, folder: Path) -> None:
        """Write weights.parquet and screen.json."""
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"weight": self.weights}), folder / "weights.parquet")
        card = {k: v for k, v in asdict(self).items() if k != "weights"}
        (folder / "screen.json").write_text(json.dumps(card, indent=2, sort_keys=True))

    @classmethod
    def load(cls, folder: str | Path) -> "Screen":
        """What `save` wrote."""
        card = json.loads((Path(folder) / "screen.json").read_text())
        weights = pq.read_table(Path(folder) / "weights.parquet")["weight"].to_numpy()
        return cls(weights=weights.astype(np.float32), **card)


@dataclass(frozen=True)
class Sample:
    """Files that the annotator scored: regions in CSR rows, and per file its score, tokens and bytes."""

    columns: NDArray[np.int32]
    values: F32
    rows: I64
    bounds: I64
    score: F64
    length: I64
    size: I64
    language: NDArray[np.str_]

    def part(self, files: Mask) -> "Sample":
        """Some of the files."""
        counts, sizes = np.diff(self.bounds), np.diff(self.rows)
        chosen = np.repeat(files, counts)
        kept = np.repeat(chosen, sizes)
        return Sample(
            self.columns[kept],
            self.values[kept],
            _ends(sizes[chosen]),
            _ends(counts[files]),
            self.score[files],
            self.length[files],
            self.size[files],
            self.language[files],
        )


def _ends(sizes: I64) -> I64:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def logit(score: F64) -> F64:
    """The score as a level without bounds, at most _LEVEL either way."""
    inside = np.clip(score, 1e-12, 1 - 1e-12)
    return np.clip(np.log(inside / (1 - inside)), -_LEVEL, _LEVEL)


def level(value: F64) -> F64:
    """The score at that level."""
    return np.asarray(1 / (1 + np.exp(-value)))


def means(values: F64, bounds: I64) -> F32:
    """The mean of each run values[bounds[i]:bounds[i + 1]]; no run is empty."""
    if len(bounds) == 1:
        return np.zeros(0, np.float32)
    return (np.add.reduceat(values, bounds[:-1]) / np.diff(bounds)).astype(np.float32)


@dataclass(frozen=True)
class Wanted:
    """What a screen must keep: of the best `share` of each language's tokens this `recall`, at this
    `confidence`; `enough` best files give a language a floor of its own, files of up to `short`
    bytes always pass."""

    share: float
    recall: float
    confidence: float
    enough: int
    short: int


def fit(
    sample: Sample, wanted: Wanted, bits: int, penalty: float, region: int
) -> tuple[Screen, dict[str, Any]]:
    """The screen of a sample, weights from all of it and floors from guesses across folds; and what
    those guesses tell of it."""
    guess = guesses(sample, bits, penalty)
    weights, bias = _solve(sample, bits, penalty)
    screen = Screen(weights, bias, region, floors(sample, guess, wanted), wanted.short)
    return screen, _told(sample, guess, screen, wanted)


def _told(sample: Sample, guess: F32, screen: Screen, wanted: Wanted) -> dict[str, Any]:
    """Facts: how many of the best the floors miss, the recall that bears out, the work left."""
    top = best(sample.score, sample.length, sample.language, wanted.share)
    margin = screen.margin(guess, sample.language.tolist(), sample.size)
    passed = margin >= 0
    cost = work(sample.size, screen.region)
    missed = int((top & ~passed).sum())
    return {
        "best": int(top.sum()),
        "missed": missed,
        "recall_promised": round(promised(int(top.sum()), missed, wanted.confidence), 4),
        "cost": round(float(cost[passed].sum() / cost.sum()), 4),
        "correlation": round(float(np.corrcoef(guess, sample.score)[0, 1]), 4),
        "floors": screen.floors,
        "curve": curve(margin, top, cost, RECALLS),
    }


def work(size: I64, region: int) -> F64:
    """What a file costs the annotator, in bytes that it reads: three windows at most."""
    return np.minimum(size, 3 * region).astype(np.float64)


def _sure(sample: Sample, guess: F32, wanted: Wanted) -> F32:
    """The guesses, those of files that always pass above all."""
    return np.where(sample.size <= wanted.short, np.float32(np.inf), guess)


def guesses(sample: Sample, bits: int, penalty: float) -> F32:
    """Each file's guess by a model of the other four fifths: file i is in fold i % 5."""
    out = np.zeros(len(sample.score), np.float32)
    fold = np.arange(len(out)) % _FOLDS
    for k in range(min(_FOLDS, len(out))):
        weights, bias = _solve(sample.part(fold != k), bits, penalty)
        out[fold == k] = apply(sample.part(fold == k), weights, bias)
    return out


def apply(sample: Sample, weights: F32, bias: float) -> F32:
    """The guesses of a model at files that are rows already."""
    found = np.bincount(
        _owner(sample.rows), sample.values * weights[sample.columns], len(sample.rows) - 1
    )
    return means(level(np.asarray(found + bias, np.float64)), sample.bounds)


def _owner(bounds: I64) -> I64:
    """Of each element of the runs between bounds, which run it is in."""
    return np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))


def _solve(sample: Sample, bits: int, penalty: float) -> tuple[F32, float]:
    """Weights and bias: each region's level is its file's."""
    target = logit(sample.score)[_owner(sample.bounds)]
    bias = float(target.mean())
    weights = ridge(
        sample.columns, sample.values, sample.rows, target - bias, penalty, bits, _STEPS
    )
    return weights, bias


def best(score: F64, length: I64, language: NDArray[np.str_], share: float) -> Mask:
    """The true top set: in each language the highest scores within its share of the tokens, and
    always the highest of all, so that a language of a few files has one too."""
    out = np.zeros(len(score), bool)
    for name in np.unique(language):
        mine = np.flatnonzero(language == name)
        order = mine[np.argsort(-score[mine], kind="stable")]
        fits = np.cumsum(length[order]) <= share * length[order].sum()
        fits[:1] = True
        out[order[fits]] = True
    return out


def floors(sample: Sample, guess: F32, wanted: Wanted) -> dict[str, float]:
    """The highest floor of each language that keeps `recall` of its best at `confidence`; REST's is
    of all languages with fewer than `enough` best files together."""
    top = best(sample.score, sample.length, sample.language, wanted.share)
    guess = _sure(sample, guess, wanted)
    names, counts = np.unique(sample.language[top], return_counts=True)
    own = [str(n) for n, c in zip(names, counts, strict=True) if c >= wanted.enough]
    found = {name: floor(guess[top & (sample.language == name)], wanted) for name in own}
    return found | {REST: floor(guess[top & ~np.isin(sample.language, own)], wanted)}


def floor(guess: F32, wanted: Wanted) -> float:
    """The highest guess of the best files that may be cut at, infinite ones being safe. Where there
    are too few to promise `recall`, as low below the lowest as that is below their median; without
    any that is not safe, 0: nothing is known, so all pass."""
    ordered = np.sort(guess)
    finite = ordered[np.isfinite(ordered)]
    if not len(finite):
        return 0.0
    missed = allowed(len(ordered), wanted.recall, wanted.confidence)
    if missed < 0:
        return max(0.0, float(2 * finite[0] - np.median(finite)))
    return float(finite[min(missed, len(finite) - 1)])


def allowed(many: int, recall: float, confidence: float) -> int:
    """How many of `many` best files a floor may miss; -1 where even none promises the recall.

    The most m for which a true recall below `recall` would miss m or fewer with a chance of at
    most 1 - confidence (Clopper and Pearson 1934, one-sided).
    """
    chance, miss = 0.0, 1 - recall  # both above 0: see screen.Config
    for m in range(many + 1):
        ways = lgamma(many + 1) - lgamma(m + 1) - lgamma(many - m + 1)
        chance += exp(ways + m * log(miss) + (many - m) * log(recall))
        if chance > 1 - confidence:
            return m - 1
    return many


def promised(many: int, missed: int, confidence: float) -> float:
    """The recall that `missed` of `many` best files bear out at that confidence; by bisection."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if allowed(many, middle, confidence) >= missed else (low, middle)
    return low


def curve(margin: F32, top: Mask, cost: F64, recalls: Sequence[float]) -> list[dict[str, float]]:
    """The share of the annotator's work left at each recall, all floors moved alike; `cost` is each
    file's work."""
    order = np.argsort(-margin, kind="stable")
    left = np.cumsum(cost[order]) / cost.sum()
    kept = np.cumsum(top[order]) / max(1, top.sum())
    at = [min(int(np.searchsorted(kept, r - 1e-9)), len(order) - 1) for r in recalls]
    return [
        {"recall": r, "cost": round(float(left[k]), 4)} for r, k in zip(recalls, at, strict=True)
    ]
