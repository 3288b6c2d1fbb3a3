"""Scores every document with a judge: an encoder's mean over top, middle and bottom windows, say.

A layer with the judge's column (`quality` of an encoder, and the `windows` it is the mean of;
SnowCoder 2409.02326 §2.2). With a `screen` the judge reads only what can still reach the screen's
share: the rest is kept without a score (null), with its `screen` value (ours). Batches form inside
one shard, so scores do not depend on the number of workers.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pyarrow as pa

from pipeline.core.config import config
from pipeline.core.errors import StageError
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job
from pipeline.core.runner import Artifact

if TYPE_CHECKING:
    from pipeline.model.cascade import Screen

VERSION = 3


@config
class Config:
    precision: Literal["exact", "int8"] = "exact"
    """int8: an encoder's products in 8 bits, on a CPU; faster, and its scores a little off (ours)."""
    exact_from: float | None = None
    """With int8: files that score this or more are scored again, exactly. A little below what `select`
    will cut at, so that 8 bits only decide what is far from it (ours)."""
    threads: int = 1
    """CPU threads of each worker: part of the identity, since sums round differently (ours)."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}: 1 or more")
        if self.exact_from is not None and self.precision != "int8":
            raise ValueError(f"exact_from is {self.exact_from}: it needs precision: int8")


def run(
    files: Files,
    annotator: Annotated[Artifact, "annotator", "forest"],
    cfg: Config,
    job: Job,
    screen: Annotated[Artifact, "screen"] | None = None,
) -> None:
    if screen is not None and screen.facts["annotator"] != annotator.digest:
        raise StageError(
            f"step {job.step}: its screen was trained on another annotator's scores; give `screen` "
            "and this step the same `annotator`"
        )
    judge = partial(
        score,
        annotator=str(annotator.folder),
        cfg=cfg,
        screen=str(screen.folder) if screen else None,
    )
    scored = job.layer(files, judge, ["text", "language"], kind="scores")
    if screen is not None:
        job.facts |= _skipped(job.collect(scored, None, [screen.facts["column"]]))


def _skipped(tables: Sequence[pa.Table]) -> dict[str, int]:
    missing = sum(table.column(table.num_columns - 1).null_count for table in tables)
    return {"scored": sum(map(len, tables)) - missing, "skipped": missing}


def score(table: pa.Table, annotator: str, cfg: Config, screen: str | None = None) -> pa.Table:
    """Every document kept, with its score in the judge's column (null where the screen skipped it),
    an encoder's window scores, top to bottom, and the screen's own guess at the score."""
    from pipeline.model import judges
    from pipeline.model.scorer import Scorer

    judge = judges.load(annotator, threads=cfg.threads, precision=cfg.precision)
    columns, seen = dict[str, pa.Array](), np.ones(len(table), bool)
    if screen:
        guess, seen = screening(screen).judge(table["text"], table["language"])
        columns["screen"] = pa.array(guess, pa.float32())
    texts = table["text"].filter(pa.array(seen)).to_pylist()
    if cfg.exact_from is None:
        found = iter(judge.score(texts))
    else:
        exact = judges.load(annotator, threads=cfg.threads)
        found = iter(judges.refined(judge, exact, texts, cfg.exact_from))
    scores = [next(found) if s else None for s in seen]
    columns[judge.column] = pa.array([s and s.score for s in scores], pa.float32())
    if isinstance(judge, Scorer):
        columns["windows"] = pa.array([s and s.windows for s in scores], pa.list_(pa.float32()))
    return verdicts(table["uid"], [None] * len(table), **columns)


@cache
def screening(folder: str) -> "Screen":
    """The screen, once a worker."""
    from pipeline.model.cascade import Screen

    return Screen.load(folder)
