"""Whole repositories set apart for measuring, and their near copies taken off the training side.

A verdict layer: `heldout` rows are the held-out side (`Files.read(..., side="heldout")`), and
`near_heldout` rows belong to neither. By repository, so that no file is measured whose neighbours
were trained on (ours).
"""

from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.arrays import flat
from pipeline.core.config import Share, config
from pipeline.core.errors import StageError
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job
from pipeline.core.schema import digest

VERSION = 2
BANDS, ROWS = 32, 4
"""LSH shape of the near-copy search: 128 permutations, candidates from J of about 0.42 (ours)."""

BUCKET = 256
"""In a larger LSH bucket, files are compared with this many held-out ones only (ours)."""


@config
class Config:
    share: Share = 0.005
    """Share of the bytes to hold out, in whole repositories (DESIGN default, ours)."""
    near: float = 0.5
    """Training files this similar (estimated Jaccard, word 5-grams) to a held-out one leave (ours)."""
    seed: int = 0
    """Another seed holds out other repositories."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.seed < 0:
            raise ValueError(
                f"share is {self.share} (above 0, below 1), seed {self.seed} (0 or more)"
            )
        if not 0.3 <= self.near <= 1:
            raise ValueError(f"near is {self.near}: a similarity, 0.3 to 1")


def run(files: Files, cfg: Config, job: Job) -> None:
    tables = job.collect(files, partial(sketch, seed=cfg.seed), ["text", "repo", "bytes"])
    everything = pa.concat_tables(tables)
    out = chosen(everything, cfg)
    if not out:
        left = "only one repository is left" if len(everything) else "no document is left"
        raise StageError(
            f"step {job.step}: {left}; nothing can be held out of it. Add repositories to the source, "
            "or loosen the steps before it"
        )
    held = np.isin(everything["repo"].to_numpy().astype(str), list(out))
    near = near_copies(everything, held, cfg.near)
    starts = np.cumsum([0, *map(len, tables)])
    job.write(files, [decide(t, held[s:], near[s:]) for t, s in zip(tables, starts, strict=False)])
    job.facts |= {"heldout_repositories": sorted(out), "heldout_files": int(held.sum())}


def sketch(table: pa.Table, seed: int) -> pa.Table:
    """Each document's sketch (128 bytes), and whether it has any words to be like another by."""
    from pipeline.kernels import shingles

    data, offsets = flat(table["text"])
    found = shingles.sketches(data, offsets, 5, *shingles.permutations(BANDS * ROWS, seed))
    signed = pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), BANDS * ROWS)
    out = table.drop_columns(["text"]).append_column("sketch", signed)
    return out.append_column("words", pa.array(shingles.has_words(data, offsets)))


def chosen(table: pa.Table, cfg: Config) -> set[str]:
    """Repositories in hash order until `share` of the bytes is held out; never all of them."""
    sizes = table.group_by("repo").aggregate([("bytes", "sum")]).to_pylist()
    ordered = sorted(sizes, key=lambda r: digest(str(cfg.seed), r["repo"]))
    goal = cfg.share * sum(r["bytes_sum"] for r in sizes)
    out: set[str] = set()
    taken = 0
    for row in ordered[:-1]:
        if taken >= goal:
            break
        if row["bytes_sum"] <= max(goal, 1) or not out:
            out.add(row["repo"])
            taken += row["bytes_sum"]
    return out


def near_copies(table: pa.Table, held: NDArray[np.bool_], threshold: float) -> NDArray[np.bool_]:
    """Rows of the training side whose similarity to some held-out row reaches the threshold."""
    from pipeline.kernels import neighbours

    length = BANDS * ROWS
    sketches = table["sketch"].combine_chunks().flatten().to_numpy().reshape(-1, length)
    words, uids = np.asarray(table["words"]), table["uid"].to_numpy().astype(str)
    order = np.lexsort([uids, ~held])
    order = order[words[order]].astype(np.uint32)
    least = neighbours.agreeing(threshold, length)
    pair, _ = neighbours.pairs(
        sketches,
        order,
        range(BANDS),
        ROWS,
        least=least,
        sure=length + 1,
        cap=BUCKET,
        fixed=int(held[order].sum()),
        inside=False,
    )
    near = np.zeros(len(table), bool)
    near[order[neighbours.split(pair)[1]]] = True
    return near


def decide(table: pa.Table, held: NDArray[np.bool_], near: NDArray[np.bool_]) -> pa.Table:
    rules = [
        "heldout" if h else "near_heldout" if n else None for h, n in zip(held, near, strict=False)
    ]
    return verdicts(table["uid"], rules[: len(table)]).append_column("row", table["row"])
