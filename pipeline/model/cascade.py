"""A linear model over hashed n-grams that guesses an annotator's score before the annotator reads.

Trained on the annotator's own scores of a sample; a file whose guess is below its language's floor
cannot plausibly be among the best share, so the annotator skips it. Floors come from guesses made
across folds, each by a model that has not seen the file (ours; cascades: Viola and Jones, CVPR
2001). Imports no torch. Knows nothing of recipes or shards.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, fsum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.arrays import I64, U8, flat
from pipeline.kernels.grams import F32, F64, products, regions, ridge, rows

Mask = NDArray[np.bool_]
REST = ""
"""The floor of languages that have none of their own."""
_FOLDS = 5
_STEPS = 60
"""Conjugate gradient steps: more changed no third digit of the recall (ours)."""
_LEVEL = 8.0
"""Largest logit that a score is taken for: 0.9997 (ours)."""


@dataclass(frozen=True)
class Screen:
    """`weights` over hashes, `bias`, region size in bytes, and each language's floor."""

    weights: F32
    bias: float
    region: int
    floors: dict[str, float]

    def guess(self, texts: pa.ChunkedArray) -> F32:
        """What the annotator would score, in its own scale: the mean over the regions of each."""
        data, offsets = flat(texts)
        spans, bounds = regions(offsets, self.region)
        return means(level(products(data, spans, self.weights) + self.bias), bounds)

    def reach(self, guess: F32, languages: pa.ChunkedArray) -> Mask:
        """Whether each file can still reach the share: its guess is at its language's floor."""
        rest = self.floors[REST]
        floors = [self.floors.get(name, rest) for name in languages.to_pylist()]
        return np.asarray(guess >= np.array(floors, np.float32))

    def save(self, folder: Path) -> None:
        """Write weights.parquet and screen.json."""
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"weight": self.weights}), folder / "weights.parquet")
        card = {"bias": self.bias, "region": self.region, "floors": self.floors}
        (folder / "screen.json").write_text(json.dumps(card, indent=2, sort_keys=True))

    @classmethod
    def load(cls, folder: str | Path) -> "Screen":
        """What `save` wrote."""
        card = json.loads((Path(folder) / "screen.json").read_text())
        weights = pq.read_table(Path(folder) / "weights.parquet")["weight"].to_numpy()
        return cls(weights.astype(np.float32), card["bias"], card["region"], card["floors"])


@dataclass(frozen=True)
class Sample:
    """Files that the annotator scored: regions in CSR rows, and per file its score and length."""

    columns: NDArray[np.int32]
    values: F32
    rows: I64
    bounds: I64
    score: F64
    length: I64
    language: NDArray[np.str_]

    def taken(self, files: Mask) -> "tuple[NDArray[np.int32], F32, I64, F64]":
        """(columns, values, row bounds, score of each row) of the regions of some files."""
        counts = np.diff(self.bounds)
        chosen = np.repeat(files, counts)
        sizes = np.diff(self.rows)
        kept = np.repeat(chosen, sizes)
        ends = np.concatenate([[0], np.cumsum(sizes[chosen])]).astype(np.int64)
        return self.columns[kept], self.values[kept], ends, np.repeat(self.score, counts)[chosen]


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
