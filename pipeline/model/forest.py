"""A random forest over a language model's vectors of files: phi-1's filter (2306.11644 §2.1).

Trained by scikit-learn on labelled files, measured on repositories kept out of training, saved as
plain arrays (safetensors) and asked by our own walk down all trees at once. Knows nothing of where
the labels came from.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from pipeline.core.errors import StageError
from pipeline.model.machine import borrowed
from pipeline.model.scorer import Score
from pipeline.model.separation import auc, split, wilson
from pipeline.model.settings import EncoderConfig, ForestConfig
from pipeline.model.vectors import F32, Reader, publish

log = logging.getLogger(__name__)
COLUMN = "education"
"""Where the scores go: phi-1 asks for educational value."""
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
_ROWS = 1024
"""Vectors that walk down the trees at a time: some MB for 100 trees (ours)."""


@dataclass(frozen=True)
class Trees:
    """All nodes of all trees in one row: at node i, x[feature] <= threshold goes left, else right.

    A leaf's both ways lead to itself, so that walking on changes nothing. `roots` (trees,) are the
    trees' first nodes, `value` (nodes,) what a leaf answers, `depth` the longest way.
    """

    left: I32
    right: I32
    feature: I32
    threshold: F64
    value: F64
    roots: I32
    depth: int


def train_forest(
    texts: Sequence[str],
    labels: Sequence[float],
    groups: Sequence[str],
    languages: Sequence[str],
    source: str,
    cfg: ForestConfig,
    folder: Path,
    *,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train on `texts` with `labels` (on their scale), write `folder`, return the measurements.

    `groups` are the repositories: none is on both sides of the split; `source` is the model that
    reads the texts. The dict has `auc` and its 95 % `auc_interval` (DeLong), `accuracy` and its
    `accuracy_interval` (Wilson), `languages`, `train` and `held_out` ([poor, good] files); a forest
    of labels also `error`, their mean distance. StageError where a side would lack a class.
    """
    values = np.asarray(labels, np.float64)
    good = values >= cfg.good
    _check(good, groups, cfg)
    held = split(good.astype(int).tolist(), groups, _as_split(cfg))
    with borrowed(cfg.threads, torch.device(device)):
        torch.manual_seed(
            cfg.seed
        )  # of weights that a folder lacks, a pooler's; nothing reads them
        window = publish(source, cfg.window, folder)
        vectors, _ = Reader(folder, window, cfg.pool, device).vectors(texts)
    trees = grown(vectors[~held], values[~held], cfg)
    scores = predict(trees, vectors[held])
    report = measured(scores, values[held], np.asarray(languages, np.str_)[held], cfg)
    report["train"] = np.bincount(good[~held], minlength=2).tolist()
    report["nodes"] = len(trees.value)
    _save(trees, folder, {"window": window, "pool": cfg.pool, "source": Path(source).name}, report)
    low, high = report["auc_interval"]
    log.info("forest     AUC %.3f (%.3f to %.3f) on %d files", report["auc"], low, high, held.sum())
    return report


def _check(good: NDArray[np.bool_], groups: Sequence[str], cfg: ForestConfig) -> None:
    """StageError for labels of one class, or of one repository."""
    counts = f"{int(good.sum())} labels are {cfg.good:g} or more, {int((~good).sum())} less"
    if good.all() or not good.any():
        raise StageError(
            f"the forest needs files of both classes, but {counts}; set `good` to a label in between"
        )
    if len(set(groups)) < 2:
        raise StageError(
            f"all {len(groups)} labelled files are of one repository, {groups[0]!r}: none is left to "
            "measure on; label files of more repositories"
        )


def _as_split(cfg: ForestConfig) -> EncoderConfig:
    return EncoderConfig(held_out=cfg.held_out, seed=cfg.seed)


def grown(vectors: F32, labels: F64, cfg: ForestConfig) -> Trees:
    """Trees over `vectors` (files, width), of the class or of the label as `cfg.target` says."""
    return arrays(fitted(vectors, labels, cfg))


def fitted(vectors: F32, labels: F64, cfg: ForestConfig) -> Any:
    """scikit-learn's forest; the same for any number of threads."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    settings: dict[str, Any] = {
        "n_estimators": cfg.trees,
        "max_depth": cfg.depth,
        "min_samples_leaf": cfg.leaf,
        "max_features": "sqrt",
        "random_state": cfg.seed,
        "n_jobs": cfg.threads,
    }
    if cfg.target == "class":
        return RandomForestClassifier(**settings).fit(vectors, labels >= cfg.good)
    return RandomForestRegressor(**settings).fit(vectors, labels)


def arrays(forest: Any) -> Trees:
    """The nodes of a scikit-learn forest, of two classes or a regression, as arrays."""
    each = [tree.tree_ for tree in forest.estimators_]
    starts = np.cumsum([0, *(t.node_count for t in each)])
    own = np.arange(starts[-1])
    first = np.repeat(starts[:-1], np.diff(starts))
    left, right = (
        np.concatenate([getattr(t, side) for t in each])
        for side in ("children_left", "children_right")
    )
    leaf = left < 0
    return Trees(
        np.where(leaf, own, left + first).astype(np.int32),
        np.where(leaf, own, right + first).astype(np.int32),
        np.where(leaf, 0, np.concatenate([t.feature for t in each])).astype(np.int32),
        np.where(leaf, 0.0, np.concatenate([t.threshold for t in each])),
        np.concatenate([t.value[:, 0, -1] for t in each]),
        starts[:-1].astype(np.int32),
        max(t.max_depth for t in each),
    )


def predict(trees: Trees, vectors: F32) -> F64:
    """The mean answer of all trees to each vector; trees are summed up in their order."""
    parts = [_walk(trees, vectors[k : k + _ROWS]) for k in range(0, len(vectors), _ROWS)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _walk(trees: Trees, vectors: F32) -> F64:
    rows = np.arange(len(vectors))[:, None]
    at = np.broadcast_to(trees.roots, (len(vectors), len(trees.roots)))
    for _ in range(trees.depth):
        goes_left = vectors[rows, trees.feature[at]] <= trees.threshold[at]
        at = np.where(goes_left, trees.left[at], trees.right[at])
    total = np.zeros(len(vectors))
    for answers in trees.value[at].T:
        total += answers
    return total / len(trees.roots)


def measured(
    scores: F64, labels: F64, languages: NDArray[np.str_], cfg: ForestConfig
) -> dict[str, Any]:
    """What `train_forest` tells of held-out files, as a whole and by language."""
    report = _area(scores, labels, cfg)
    told = {
        str(n): _area(scores[m], labels[m], cfg)
        for n in np.unique(languages)
        for m in [languages == n]
    }
    if cfg.target == "label":
        report["error"] = float(np.abs(scores - labels).mean())
    return report | {"languages": told}


def _area(scores: F64, labels: F64, cfg: ForestConfig) -> dict[str, Any]:
    """AUC and accuracy with their intervals; no AUC where a class is absent."""
    good = labels >= cfg.good
    both = good.any() and not good.all()
    area, interval = auc(scores, good.astype(int)) if both else (None, None)
    right = (scores >= (0.5 if cfg.target == "class" else cfg.good)) == good
    return {
        "auc": area,
        "auc_interval": interval and list(interval),
        "accuracy": float(right.mean()),
        "accuracy_interval": list(wilson(int(right.sum()), len(right))),
        "held_out": np.bincount(good, minlength=2).tolist(),
    }


def _save(trees: Trees, folder: Path, told: dict[str, Any], report: dict[str, Any]) -> None:
    tensors = {
        n: getattr(trees, n) for n in ("left", "right", "feature", "threshold", "value", "roots")
    }
    save_file(tensors, folder / "forest.safetensors")
    name = f"forest-{told.pop('source')}"
    card = {"name": name, "kind": "forest", "column": COLUMN, **told, "depth": trees.depth}
    (folder / "annotator.json").write_text(json.dumps(card | {"auc": report}, indent=2))


class Forest:
    """One loaded forest with the model that reads files for it; a judge of kind `forest`, no classifier."""

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int | None = None,
        device: str = "cpu",
        precision: str = "exact",
    ) -> None:
        """Load `folder`. `threads` sets torch's count for the whole process. ValueError if the
        folder is none, or for another `precision` than exact."""
        path = Path(folder)
        if precision != "exact":
            raise ValueError(f"precision is {precision}: a forest's model is exact only")
        if not (path / "forest.safetensors").is_file():
            raise ValueError(f"{path} is no forest: no forest.safetensors")
        if threads is not None:
            torch.set_num_threads(threads)
        self.card = card = json.loads((path / "annotator.json").read_text())
        self.name, self.column = str(card["name"]), str(card["column"])
        self.window, self.labels = int(card["window"]), ()
        self.trees = Trees(**load_file(path / "forest.safetensors"), depth=int(card["depth"]))
        self.reader = Reader(path, self.window, card["pool"], device)

    def score(self, texts: Sequence[str], located: bool = False) -> list[Score]:
        """One Score a text, in order. Its windows are averaged before the trees see them, so the
        score is its only window score."""
        vectors, seen = self.reader.vectors(texts, located)
        found = zip(predict(self.trees, vectors).tolist(), seen, strict=True)
        return [Score(s, (s,), r.truncated, r.spans, r.tokens) for s, r in found]
