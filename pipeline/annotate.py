"""Scores every document with the annotator: the mean over its top, middle and bottom windows.

A layer with `quality` and the `windows` it is the mean of (SnowCoder 2409.02326 §2.2). Batches form
inside one shard, so scores do not depend on the number of workers.
"""

from functools import cache, partial

import pyarrow as pa

from pipeline.core.config import config
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job
from pipeline.core.runner import Artifact

VERSION = 1


@config
class Config:
    threads: int = 1
    """CPU threads of each worker: part of the identity, since sums round differently (ours)."""


def run(files: Files, annotator: Artifact, cfg: Config, job: Job) -> None:
    judge = partial(score, annotator=str(annotator.folder), threads=cfg.threads)
    job.layer(files, judge, ["text"], kind="scores")


def score(table: pa.Table, annotator: str, threads: int) -> pa.Table:
    """Every document kept, with its `quality` (0..1) and its window scores, top to bottom."""
    found = _load(annotator, threads).score(table["text"].to_pylist())
    quality = pa.array([f.score for f in found], pa.float32())
    windows = pa.array([f.windows for f in found], pa.list_(pa.float32()))
    return verdicts(table["uid"], [None] * len(found), quality=quality, windows=windows)


@cache
def _load(annotator: str, threads: int) -> "Scorer":  # type: ignore[name-defined]  # noqa: F821
    from pipeline.model.scorer import Scorer

    return Scorer(annotator, threads=threads)
