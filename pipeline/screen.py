"""Learns which files an annotator need not read: a linear n-gram model of the annotator's own scores.

A sample of the files, drawn by the hash of their uids, is scored by the annotator; a ridge
regression over hashed words and word pairs learns those scores, and each language gets the floor
above which lie all but a stated few of its best share. `annotate` with this screen skips the rest
(ours; the share is SnowCoder's 12.5B of 400B, 2409.02326 §2.2). Knows nothing of how it scores.
"""

from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa

from pipeline.core.config import Share, Tokens, config
from pipeline.core.errors import StageError
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.runner import Artifact

VERSION = 2


@config
class Config:
    sample: Tokens = 20_000
    """Files that the annotator scores to learn from, about (ours: 600 of a best 3 % are among them)."""
    share: Share = 0.03125
    """Share of each language's tokens that must survive (SnowCoder §2.2: 12.5B of 400B)."""
    recall: Share = 0.98
    """Of the annotator's own choice of that share, how much must pass (ours)."""
    confidence: Share = 0.9
    """How sure that recall must be for files outside the sample, one-sided (ours)."""
    enough: int = 30
    """Best files in the sample that give a language a floor of its own. The others share one, which is
    low: nearly all of them pass (ours: 3 % of the work there, where a shared floor cost a half)."""
    short: int = 1000
    """Files of up to this many bytes are always scored: they are 3 % of an encoder's work and half of
    what a screen would miss (ours)."""
    bits: int = 18
    """Hashes, as a power of two (ours: 1 MB of weights)."""
    penalty: float = 0.1
    """Ridge penalty (ours: of 0.03 to 3 on 900 files the curve's best, by little)."""
    bytes_per_token: float = 3.2
    """Bytes of a file that one token of the annotator's window stands for (ours: WordPiece on code)."""
    precision: Literal["exact", "int8"] = "exact"
    """As annotate's, for the sample's scores."""
    threads: int = 1
    """CPU threads of each worker: part of the identity, since sums round differently (ours)."""
    seed: int = 0
    """Of the sample."""

    def __post_init__(self) -> None:
        bounds = {
            "sample": (100, 1 << 30),
            "enough": (1, 1 << 30),
            "short": (0, 1 << 30),
            "bits": (8, 26),
            "threads": (1, 1 << 10),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}: {low} to {high}")
        for name in ("share", "recall", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: above 0 and below 1")
        for name in ("penalty", "bytes_per_token"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: above 0")


def run(files: Files, annotator: Annotated[Artifact, "annotator"], cfg: Config, job: Job) -> None:
    from pipeline.model import cascade, judges

    card = judges.read_card(annotator.folder)
    region = max(1, round(cfg.bytes_per_token * card["window"]))
    many = sum(map(len, job.collect(files, None, [])))
    table = sampled(
        files, annotator, cfg, job, rate=min(1.0, cfg.sample / max(1, many)), region=region
    )
    if len(table) < 2:
        raise StageError(f"step {job.step}: {len(table)} files in the sample; raise `sample`")
    sample = as_sample(table, cfg.bits)
    wanted = cascade.Wanted(cfg.share, cfg.recall, cfg.confidence, cfg.enough, cfg.short)
    made, told = cascade.fit(sample, wanted, cfg.bits, cfg.penalty, region)
    made.save(job.folder)
    job.facts |= {"annotator": annotator.digest, "column": judges.column(card), "files": many}
    job.facts |= {"sample": len(table), **told}


def sampled(
    files: Files, annotator: Artifact, cfg: Config, job: Job, rate: float, region: int
) -> pa.Table:
    """The sampled files, sorted by uid: language, length, score and the text of their regions."""
    measure = partial(
        measured,
        annotator=str(annotator.folder),
        cfg=cfg,
        rate=rate,
        region=region,
    )
    tables = job.collect(files, measure, ["text", "language", "length"])
    return pa.concat_tables(tables).sort_by("uid")


def measured(table: pa.Table, annotator: str, cfg: Config, rate: float, region: int) -> pa.Table:
    """The rows of a shard that are in the sample, scored. A region is cut out as bytes."""
    from pipeline.core.arrays import flat
    from pipeline.kernels.grams import regions
    from pipeline.kernels.hashing import places
    from pipeline.model import judges

    here = places(table["uid"], f"screen {cfg.seed}") < np.uint64(rate * (2**64 - 2**11))
    table = table.filter(pa.array(here | (rate == 1.0)))
    judge = judges.load(annotator, threads=cfg.threads, precision=cfg.precision)
    scores = [found.score for found in judge.score(table["text"].to_pylist())]
    data, offsets = flat(table["text"])
    spans, bounds = regions(offsets, region)
    cut = pa.array([bytes(data[a:b]) for a, b in spans], pa.large_binary())
    lists = pa.LargeListArray.from_arrays(pa.array(bounds), cut)
    out = table.select(["uid", "language", "length"]).append_column("bytes", [np.diff(offsets)])
    return out.append_column("score", pa.array(scores, pa.float64())).append_column(
        "regions", lists
    )


def as_sample(table: pa.Table, bits: int) -> Any:
    """The table of `sampled` as a cascade.Sample."""
    from pipeline.core.arrays import flat
    from pipeline.kernels.grams import rows
    from pipeline.model.cascade import Sample

    lists = table["regions"].combine_chunks()
    bounds = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())]).astype(np.int64)
    data, offsets = flat(lists.flatten().view(pa.large_string()))  # a region may cut a character
    columns, values, ends = rows(data, np.stack([offsets[:-1], offsets[1:]], 1), bits)
    score, length, size = (table[name].to_numpy() for name in ("score", "length", "bytes"))
    language = table["language"].to_numpy().astype(str)
    return Sample(columns, values, ends, bounds, score, length, size, language)
