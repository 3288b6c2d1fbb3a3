"""Whole repositories set apart for measuring, and their near copies taken off the training side.

A verdict layer: `heldout` rows are the held-out side (`Files.read(..., side="heldout")`), and
`near_heldout` rows belong to neither. By repository, so that no file is measured whose neighbours
were trained on (ours).
"""

from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.config import Share, config
from pipeline.core.errors import StageError
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job
from pipeline.core.schema import digest
from pipeline.kernels import shingles

VERSION = 1
BANDS, ROWS = 32, 4
"""LSH shape of the near-copy search: 128 permutations, candidates from J of about 0.42 (ours)."""


@config
class Config:
    share: Share = 0.005
    """Share of the bytes to hold out, in whole repositories (DESIGN default, ours)."""
    near: float = 0.5
    """Training files this similar (estimated Jaccard, word 5-grams) to a held-out one leave (ours)."""
    seed: int = 0
    """Another seed holds out other repositories."""


def run(files: Files, cfg: Config, job: Job) -> None:
    tables = job.collect(files, partial(sketch, seed=cfg.seed), ["text", "repo", "bytes"])
    everything = pa.concat_tables(tables)
    out = chosen(everything, cfg)
    if not out:
        raise StageError(
            f"step {job.step}: there is only one repository; nothing can be held out of it. "
            "Add repositories to the source"
        )
    held = np.isin(everything["repo"].to_numpy().astype(str), list(out))
    near = near_copies(everything, held, cfg.near)
    starts = np.cumsum([0, *map(len, tables)])
    job.write(files, [decide(t, held[s:], near[s:]) for t, s in zip(tables, starts, strict=False)])
    job.facts |= {"heldout_repositories": sorted(out), "heldout_files": int(held.sum())}


def sketch(table: pa.Table, seed: int) -> pa.Table:
    a, b = shingles.permutations(BANDS * ROWS, seed)
    rows = [
        shingles.minhash(shingles.shingles(t.encode(), 5), a, b).tobytes()
        for t in table["text"].to_pylist()
    ]
    signed = pa.array(rows, pa.binary(4 * BANDS * ROWS))
    return table.drop_columns(["text"]).append_column("signature", signed)


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
    signatures = np.frombuffer(b"".join(table["signature"].to_pylist()), np.uint32)
    signatures = signatures.reshape(len(table), -1)
    found = shingles.pairs(shingles.bands(signatures, BANDS, ROWS), 10**9)
    across = found[held[found[:, 0]] != held[found[:, 1]]]
    similar = shingles.similarity(signatures[across[:, 0]], signatures[across[:, 1]]) >= threshold
    near = np.zeros(len(table), bool)
    near[across[similar].ravel()] = True
    return near & ~held


def decide(table: pa.Table, held: NDArray[np.bool_], near: NDArray[np.bool_]) -> pa.Table:
    rules = [
        "heldout" if h else "near_heldout" if n else None for h, n in zip(held, near, strict=False)
    ]
    return verdicts(table["uid"], rules[: len(table)]).append_column("row", table["row"])
