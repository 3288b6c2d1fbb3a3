"""Samples of documents by the hash of their names: the same ones however they lie in shards.

A document's place in the draw depends on its uid and a seed alone, so a sample costs the memory of
what is in it, not of the corpus. Knows nothing of what samples are for.
"""

import math

import numpy as np
import pyarrow as pa

from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.schema import digest


def key(uid: str, seed: int) -> int:
    """A document's place in the draw: 64 random bits."""
    return int(digest(str(seed), uid)[:16], 16)


def near(table: pa.Table, seed: int, below: float) -> pa.Table:
    """The rows in the first `below` (0..1) of the draw."""
    keys = [key(u, seed) for u in table["uid"].to_pylist()]
    return table.filter(pa.array([k < below * 2.0**64 for k in keys], pa.bool_()))


def share(want: int, files: Files, job: Job) -> float:
    """The share of the draw that `want` of the kept documents are surely in: six deviations to
    spare, 1 where there are fewer."""
    tables = job.collect(files, _count, ["language"])
    total = int(np.sum([table["rows"].to_numpy() for table in tables]))
    return min(1.0, (want + 6 * math.sqrt(want) + 10) / max(1, total))


def _count(table: pa.Table) -> pa.Table:
    return pa.table({"rows": [len(table)]})
