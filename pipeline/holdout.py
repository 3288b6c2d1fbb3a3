"""Whole repositories set apart for measuring, and their near copies taken off the training side.

A verdict layer: `heldout` rows are the held-out side (`Files.read(..., side="heldout")`), and
`near_heldout` rows belong to neither. By repository, so that no file is measured whose neighbours
were trained on (ours).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.arrays import U8, flat
from pipeline.core.config import Share, config
from pipeline.core.errors import StageError
from pipeline.core.files import Files, Shard, read_shard, verdicts
from pipeline.core.job import Job
from pipeline.core.schema import digest
from pipeline.core.store import Store

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
    sizes = job.collect(files, totals, ["repo", "bytes"])
    out = chosen(pa.concat_tables([_NONE, *sizes]), cfg)
    if not out:
        left = "only one repository is left" if any(map(len, sizes)) else "no document is left"
        raise StageError(
            f"step {job.step}: {left}; nothing can be held out of it. Add repositories to the source, "
            "or loosen the steps before it"
        )
    with job.scratch() as scratch:
        count = gathered(files, out, cfg, job, scratch)
        items = [{"shards": part} for part in portions(files.shards, count)]
        work = partial(_decide, job.store, scratch, out, cfg)
        rows = sum(shard.rows for shard in files.shards)
        job.write(files, (t for found in job.each(work, items, rows) for t in found["tables"]))
    held = sum(layer["counts"]["dropped"].get("heldout", 0) for layer in job.layers[-1]["shards"])
    job.facts |= {"heldout_repositories": sorted(out), "heldout_files": held}


_NONE = pa.table({"repo": pa.array([], pa.string()), "bytes": pa.array([], pa.int64())})


def totals(table: pa.Table) -> pa.Table:
    """The bytes of each repository of a shard."""
    sums = table.group_by("repo").aggregate([("bytes", "sum")])
    return pa.table({"repo": sums["repo"].cast(pa.string()), "bytes": sums["bytes_sum"]})


def chosen(table: pa.Table, cfg: Config) -> set[str]:
    """Repositories in hash order until `share` of the bytes is held out; never all of them. table:
    `repo`, `bytes`."""
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


def gathered(files: Files, out: set[str], cfg: Config, job: Job, scratch: str) -> int:
    """Write the held-out documents' sketches, in order of uid, to `held`; how many there are."""
    measure = partial(held_sketches, out=sorted(out), seed=cfg.seed)
    held = pa.concat_tables(job.collect(files, measure, ["text", "repo"])).sort_by("uid")
    data = held["sketch"].combine_chunks().flatten().to_numpy()
    job.store.gather([data.tobytes()], scratch, "held")
    return len(held)


def held_sketches(table: pa.Table, out: Sequence[str], seed: int) -> pa.Table:
    """uid and sketch of the held-out documents that have words to be like another by."""
    ours = table.filter(pc.is_in(table["repo"].cast(pa.string()), pa.array(out)))
    found, words = sketch(ours, seed)
    signed = pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), BANDS * ROWS)
    return pa.table({"uid": ours["uid"], "sketch": signed}).filter(pa.array(words))


def sketch(table: pa.Table, seed: int) -> tuple[U8, NDArray[np.bool_]]:
    """Each document's sketch (128 bytes), and whether it has any words."""
    from pipeline.kernels import shingles

    data, offsets = flat(table["text"])
    drawn = shingles.permutations(BANDS * ROWS, seed)
    return shingles.sketches(data, offsets, 5, *drawn), shingles.has_words(data, offsets)


def portions(shards: Sequence[Shard], least: int) -> Iterator[list[Shard]]:
    """Consecutive shards of at least so many rows together: each is held against all that is out."""
    part: list[Shard] = []
    for shard in shards:
        part.append(shard)
        if sum(s.rows for s in part) >= least:
            yield part
            part = []
    if part:
        yield part


def _decide(
    store: Store, scratch: str, out: set[str], cfg: Config, item: dict[str, Any]
) -> dict[str, Any]:
    held = np.fromfile(store.local(scratch, "held"), np.uint8).reshape(-1, BANDS * ROWS)
    tables = [read_shard(store, shard, ["text", "repo"]) for shard in item["shards"]]
    inside = [np.isin(t["repo"].to_numpy().astype(str), list(out)) for t in tables]
    found = [sketch(table, cfg.seed) for table in tables]
    sketches = np.concatenate([s for s, _ in found])
    open_ = np.concatenate([w for _, w in found]) & ~np.concatenate(inside)
    near = np.split(near_copies(held, sketches, open_, cfg.near), np.cumsum([*map(len, tables)]))
    return {"tables": [decide(*one) for one in zip(tables, inside, near[:-1], strict=True)]}


def near_copies(
    held: U8, sketches: U8, open_: NDArray[np.bool_], threshold: float
) -> NDArray[np.bool_]:
    """Which `open_` sketches' similarity to some held-out one reaches the threshold."""
    from pipeline.kernels import neighbours

    length = BANDS * ROWS
    rows = len(held) + np.flatnonzero(open_)
    pair, _ = neighbours.pairs(
        np.concatenate([held, sketches]),
        np.concatenate([np.arange(len(held)), rows]).astype(np.uint32),
        range(BANDS),
        ROWS,
        least=neighbours.agreeing(threshold, length),
        sure=length + 1,
        cap=BUCKET,
        fixed=len(held),
        inside=False,
    )
    near = np.zeros(len(sketches), bool)
    near[rows[neighbours.split(pair)[1] - len(held)] - len(held)] = True
    return near


def decide(table: pa.Table, held: NDArray[np.bool_], near: NDArray[np.bool_]) -> pa.Table:
    rules = [
        "heldout" if h else "near_heldout" if n else None for h, n in zip(held, near, strict=True)
    ]
    return verdicts(table["uid"], rules).append_column("row", table["row"])
