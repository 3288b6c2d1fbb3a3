"""What the metrics of a run's training phases say, as plain rows for the report.

Every curve is over the tokens that the model has seen, so that phases of any batch size join.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from cluster.checkpoints import table
from cluster.findings import Entry, Row
from pipeline.core.runner import Artifact

POINTS = 1500
"""Points of a curve at most; more cannot be told apart on a screen (ours)."""


def phases(trained: Sequence[Entry]) -> list[Row]:
    """Per training step: its facts and curves; `at` is the tokens its model had seen before it,
    `start` the phase it goes on from, `checkpoints` how many are kept."""
    names = {s.artifact.key: s.name for s in trained if s.artifact}
    out: list[Row] = []
    for step in trained:
        lines = list(_metrics(step.artifact)) if step.artifact else []
        told = {"name": step.name, "start": None} | step.facts | curves(lines)
        told["start"] = names.get(step.manifest["identity"]["inputs"].get("start"))
        told["at"] = step.facts["tokens_seen"] - step.facts["tokens"]
        out.append(told | {"checkpoints": len(checkpoints([step]))})
    return out


def checkpoints(trained: Sequence[Entry]) -> list[Row]:
    """The kept checkpoints of training steps: phase, step, tokens, loss, path in the store."""
    return table([(s.name, s.artifact) for s in trained if s.artifact])


def _metrics(artifact: Artifact) -> Iterator[Row]:
    where = (artifact.stage, artifact.key, "metrics.jsonl")
    if artifact.store.exists(*where):
        yield from map(json.loads, artifact.store.read(*where).splitlines())


def curves(lines: Sequence[Row]) -> Row:
    """Loss, smoothed loss and learning rate at no more than POINTS of the steps; `x` is the tokens
    of the phase by then; and the median tokens per second, steps left out, and held-out bits."""
    at = np.unique(np.linspace(0, max(0, len(lines) - 1), POINTS).astype(int))[: len(lines)]
    loss = np.array([r["loss"] for r in lines], float)
    window = max(1, len(lines) // 40) | 1
    smooth = smoothed(loss, window)
    return {
        "length": lines[-1]["tokens"] if lines else 0,
        "window": window,
        "x": [lines[i]["tokens"] for i in at],
        "loss": numbers(loss[i] for i in at),
        "smooth": numbers(smooth[i] for i in at),
        "lr": numbers(lines[i]["lr"] for i in at),
        "speed": float(np.median([r["tokens_per_s"] for r in lines])) if lines else None,
        "skipped": sum(r["skipped"] for r in lines),
        "heldout": _heldout([r for r in lines if "heldout" in r]),
    }


def _heldout(lines: Sequence[Row]) -> Row:
    """Held-out bits per byte of each language where they were measured; `x` as in `curves`."""
    every = max(1, len(lines) // POINTS)
    found = [*lines[:-1:every], *lines[-1:]]
    names = sorted({name for r in found for name in r["heldout"]})
    bits = {name: numbers(r["heldout"].get(name, math.nan) for r in found) for name in names}
    return {"x": [r["tokens"] for r in found], "bits": bits}


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Centred running mean over `window` (odd) values, over fewer at the ends."""
    if not len(values):
        return values
    ones = np.ones(window)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def numbers(values: Iterable[float]) -> list[float | None]:
    """Four significant digits each; None for what is no number, which JSON does not have."""
    return [float(f"{v:.4g}") if math.isfinite(v) else None for v in values]
