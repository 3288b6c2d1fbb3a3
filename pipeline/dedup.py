"""Exact and near-duplicate removal: one keeper per group, every removal checked against it.

MinHash over word 5-grams, LSH to find candidates, then the best document first: a file goes only
when its own signature matches that of a file that stays. Chains (A ~ B ~ C) therefore cannot wipe
out families, as connected components do. Exact copies are the pairs with equal content hashes.
"""

from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasketch import MinHashLSH
from numpy.typing import NDArray

from pipeline.core.config import config
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job
from pipeline.core.licences import permissive
from pipeline.kernels import shingles

VERSION = 1
Preference = Literal["licence", "stars", "longest", "shortest"]


@config
class Config:
    threshold: float = 0.7
    """Estimated Jaccard similarity from which two files are the same (The Stack, 2211.15533 §3.2)."""
    ngram: int = 5
    """Words in a shingle (BigCode)."""
    permutations: int = 256
    """Length of a signature (BigCode)."""
    keep: tuple[Preference, ...] = ("licence", "stars", "longest")
    """What makes a file the keeper, most important first; ties by uid (BigCode's order)."""
    bucket: int = 64
    """In a larger LSH bucket, files are compared with the first this many only (Marin; ours)."""
    seed: int = 1
    """Of the hash permutations."""


def run(files: Files, cfg: Config, job: Job) -> None:
    columns = ["text", "content", "licence", "stars", "bytes"]
    tables = job.collect(files, partial(sketch, cfg=cfg), columns)
    everything = pa.concat_tables(tables)
    if not len(everything):
        job.write(files, [decide(t, {}, {}) for t in tables])
        return
    order = preference(everything, cfg.keep)
    signatures, contents = _signatures(everything), everything["content"].to_numpy()
    keeper, value = keepers(signatures, contents, order, cfg)
    uids = everything["uid"].to_numpy()
    starts = np.cumsum([0, *map(len, tables)])
    job.write(
        files,
        [
            decide(t, *_local(keeper, value, uids, contents, int(s)))
            for t, s in zip(tables, starts, strict=False)
        ],
    )
    job.facts["groups"] = len(set(keeper[keeper >= 0].tolist()))


def sketch(table: pa.Table, cfg: Config) -> pa.Table:
    """Each document's signature (permutations x uint32, as bytes) beside what ranks it."""
    a, b = shingles.permutations(cfg.permutations, cfg.seed)
    grams = (shingles.shingles(t.encode(), cfg.ngram) for t in table["text"].to_pylist())
    rows = [shingles.minhash(g, a, b).tobytes() for g in grams]
    signed = pa.array(rows, pa.binary(4 * cfg.permutations))
    free = pa.array([permissive(x) for x in table["licence"].to_pylist()], pa.bool_())
    out = table.drop_columns(["text", "licence"])
    return out.append_column("signature", signed).append_column("permissive", free)


def _signatures(table: pa.Table) -> NDArray[np.uint32]:
    flat = b"".join(table["signature"].to_pylist())
    return np.frombuffer(flat, np.uint32).reshape(len(table), -1)


def preference(table: pa.Table, keep: tuple[Preference, ...]) -> NDArray[np.int64]:
    """Row numbers, the most wanted file first; ties by uid, so that no order of input matters."""
    keys = {
        "licence": pc.if_else(table["permissive"], 0, 1),
        "stars": pc.negate(pc.fill_null(table["stars"], 0)),
        "longest": pc.negate(table["bytes"]),
        "shortest": table["bytes"],
    }
    ranked = pa.table({name: keys[name] for name in keep} | {"uid": table["uid"]})
    return np.asarray(
        pc.sort_indices(ranked, [(n, "ascending") for n in ranked.column_names]), np.int64
    )


def keepers(
    signatures: NDArray[np.uint32],
    contents: NDArray[np.object_],
    order: NDArray[np.int64],
    cfg: Config,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each document the row of the kept file it equals (-1: it is kept), and how similar."""
    found = candidates(signatures[order], contents[order], cfg)
    keeper, value = np.full(len(order), -1, np.int64), np.full(len(order), np.nan)
    first, second = found[:, 0], found[:, 1]
    similar = shingles.similarity(signatures[order[first]], signatures[order[second]])
    similar[contents[order[first]] == contents[order[second]]] = 1.0
    sure = similar >= cfg.threshold
    by_second = np.lexsort((first[sure], -similar[sure], second[sure]))
    for i, j, s in zip(
        first[sure][by_second], second[sure][by_second], similar[sure][by_second], strict=True
    ):
        if keeper[order[j]] < 0 and keeper[order[i]] < 0:
            keeper[order[j]], value[order[j]] = order[i], s
    return keeper, value


def candidates(
    signatures: NDArray[np.uint32], contents: NDArray[np.object_], cfg: Config
) -> NDArray[np.int64]:
    """(m, 2) pairs that share an LSH band or their content, the more wanted file first."""
    lsh = MinHashLSH(threshold=cfg.threshold, num_perm=cfg.permutations)
    keys = shingles.bands(signatures, lsh.b, lsh.r)
    exact = np.unique(contents.astype(str), return_inverse=True)[1].astype(np.uint64)
    return shingles.pairs(np.column_stack([exact, keys]), cfg.bucket)


def _local(
    keeper: NDArray[np.int64],
    value: NDArray[np.float64],
    uids: NDArray[np.object_],
    contents: NDArray[np.object_],
    start: int,
) -> tuple[dict[int, tuple[str, bool]], dict[int, float]]:
    """The removals as seen from a shard whose rows begin at `start`: row -> (kept uid, exact)."""
    rows = np.flatnonzero(keeper >= 0)
    twin = {
        int(r) - start: (uids[keeper[r]], bool(contents[r] == contents[keeper[r]])) for r in rows
    }
    return twin, {int(r) - start: float(value[r]) for r in rows}


def decide(table: pa.Table, twin: dict[int, tuple[str, bool]], value: dict[int, float]) -> pa.Table:
    """The verdicts of one shard; the evidence of a removal is its keeper's uid."""
    rules = [("exact" if twin[i][1] else "near") if i in twin else None for i in range(len(table))]
    values = [value.get(i) for i in range(len(table))]
    evidence = [twin[i][0] if i in twin else None for i in range(len(table))]
    return verdicts(table["uid"], rules, values, evidence).append_column("row", table["row"])
