"""Exact and near-duplicate removal: one keeper per group, every removal checked against it.

Each shard's sketches are a layer of their own; bands of all sketches, read side by side, give
candidate pairs; pairs whose estimate is too near the threshold are measured exactly. The best
document first, and a file goes only when one that stays is like it: chains (A ~ B ~ C) cannot wipe
out families, as connected components do. Given `against`, its kept documents are the better ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.arrays import flat, halves
from pipeline.core.config import config
from pipeline.core.errors import StageError
from pipeline.core.files import Files, Shard, read_shard, verdicts
from pipeline.core.job import Job
from pipeline.core.licences import permissive
from pipeline.core.store import Store, read_parquet

VERSION = 2
Preference = Literal["licence", "stars", "longest", "shortest"]
RECALL = 0.99
"""Share of pairs at the threshold that some band must find; more alike ones are found surer (ours)."""
FEW = 50_000
"""Up to so many documents are paired in this process: it takes a second or two (ours)."""
SIGMAS = 3.5
"""Pairs this many standard deviations of the estimate about the threshold are measured exactly (ours)."""
_GROUP = 4
"""Bands a task."""
_PAIRS = 4096
"""Pairs measured a task."""


@config
class Config:
    threshold: float = 0.7
    """Jaccard similarity of word n-grams from which two files are the same (The Stack, 2211.15533 §3.2)."""
    ngram: int = 5
    """Words in a shingle (BigCode)."""
    permutations: int = 256
    """Bytes in a sketch (BigCode's number of permutations)."""
    keep: tuple[Preference, ...] = ("licence", "stars", "longest")
    """What makes a file the keeper, most important first; ties by content hash (BigCode's order)."""
    bucket: int = 64
    """In a larger LSH bucket, files are compared with so many representatives of it (Marin; ours)."""
    seed: int = 1
    """Of the hash permutations."""

    def __post_init__(self) -> None:
        if not 0.3 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}: a similarity, 0.3 to 1")
        if not 1 <= self.ngram <= 64:
            raise ValueError(f"ngram is {self.ngram}: words, 1 to 64")
        if not 64 <= self.permutations <= 1024:
            raise ValueError(f"permutations is {self.permutations}: 64 to 1024")
        if not 2 <= self.bucket <= 1_000_000 or self.seed < 0:
            raise ValueError(
                f"bucket is {self.bucket} (2 to 1000000), seed {self.seed} (0 or more)"
            )


@dataclass(frozen=True)
class Documents:
    """Where the documents are: shards in order, the row numbers of each one's documents, the number
    of its first. own: the first shard that is not `against`'s. scratch: a folder of the store."""

    shards: tuple[Shard, ...]
    rows: tuple[NDArray[np.int64], ...]
    starts: NDArray[np.int64]
    own: int
    scratch: str


def run(files: Files, cfg: Config, job: Job, against: Files | None = None) -> None:
    names = {shard.name for shard in files.shards}
    if against and names and names <= {shard.name for shard in against.shards}:
        raise StageError(
            f"step {job.step}: every document of `files` is one of `against`'s, so none would stay; "
            "give it an older corpus than `files`, or leave `against` out"
        )
    made = sketched(files, cfg, job)
    sides = ([sketched(against, cfg, job, own=False)] if against else []) + [made]
    tables = [t for side in sides for t in job.collect(side, slim, _COLUMNS)]
    if not tables or not sum(map(len, tables)):
        job.write(made, [verdicts([], [], row=pa.array([], pa.int64())) for _ in made.shards])
        return
    known = pa.concat_tables(tables)
    with job.scratch() as scratch:
        docs = documents(sides, tables, scratch)
        chunks = map(partial(sketches_of, job.store), docs.shards, docs.rows)
        job.store.gather((c.tobytes() for c in chunks), scratch, "sketches")
        fixed = int(docs.starts[docs.own]) if docs.own < len(docs.starts) else len(known)
        found = twins(known, fixed, cfg, job, docs)
    job.write(made, decisions(docs, known, found))
    gone = found.twin != np.arange(len(known))
    job.facts |= {"groups": len(np.unique(found.twin[gone])), "measured_pairs": found.pairs}


def documents(sides: Sequence[Files], tables: Sequence[pa.Table], scratch: str) -> Documents:
    """Number the documents of all sides, shard after shard."""
    rows = tuple(table["row"].to_numpy() for table in tables)
    starts = np.cumsum([0, *map(len, rows)])[:-1]
    shards = tuple(shard for side in sides for shard in side.shards)
    return Documents(shards, rows, starts, len(shards) - len(sides[-1].shards), scratch)


_COLUMNS = ("content", "licence", "stars", "bytes", "words")


def sketched(files: Files, cfg: Config, job: Job, own: bool = True) -> Files:
    """The files with a layer of sketches, made once per shard whatever else a corpus gains.

    own: False for another step's files, whose sketches lie below its verdict and are found there.
    """
    settings = {"ngram": cfg.ngram, "permutations": cfg.permutations, "seed": cfg.seed}
    below = files if own else replace(files, shards=tuple(map(_below, files.shards)))
    out = job.layer(
        below,
        partial(sketch, **settings),
        ["text"],
        kind="sketch",
        identity=settings,
        sidecar=("sketch", "uint8"),
        own=own,
    )
    tops = [s.top(o.layers[-1]) for s, o in zip(files.shards, out.shards, strict=True)]
    return replace(files, shards=tuple(tops))


def _below(shard: Shard) -> Shard:
    """The shard as it was when it was sketched."""
    at = [n for n, layer in enumerate(shard.layers) if layer.kind == "sketch"]
    return replace(shard, layers=shard.layers[: at[-1]]) if at else shard


def sketch(table: pa.Table, ngram: int, permutations: int, seed: int) -> pa.Table:
    """Every document kept, with its `sketch` (permutations bytes) and whether it has any `words`."""
    from pipeline.kernels import shingles

    data, offsets = flat(table["text"])
    found = shingles.sketches(data, offsets, ngram, *shingles.permutations(permutations, seed))
    bounds = pa.array(np.arange(len(table) + 1) * permutations)
    lists = pa.LargeListArray.from_arrays(bounds, pa.array(found.ravel()))
    words = pa.array(shingles.has_words(data, offsets))
    return verdicts(table["uid"], [None] * len(table), sketch=lists, words=words)


def slim(table: pa.Table) -> pa.Table:
    """What is held of every document: hashes in halves of 64 bits, and what ranks it."""
    rank = {True: 0, None: 1, False: 2}
    licences = table["licence"].to_pylist()
    free = [rank[None if x is None else permissive(x)] for x in licences]
    plain = {n: table[n] for n in ("row", "words")}
    sizes = {"stars": table["stars"].fill_null(0), "bytes": table["bytes"]}
    return pa.table(
        plain
        | {n: pc.cast(c, pa.int32()) for n, c in sizes.items()}
        | {"licence": pa.array(free, pa.uint8())}
        | _columns("uid", table["uid"])
        | _columns("content", table["content"])
    )


def _columns(name: str, column: pa.ChunkedArray) -> dict[str, NDArray[np.uint64]]:
    return {f"{name}_{part}": found for part, found in zip(_HALVES, halves(column).T, strict=True)}


_HALVES = ("high", "low")


def sketches_of(store: Store, shard: Shard, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The sketches of some rows of a shard, from its newest layer."""
    layer = shard.layers[-1]
    starts, lengths = read_parquet(store.local(layer.file), ["start", "length"]).columns
    size = int(pc.max(lengths).as_py() or 0)
    if not len(rows):
        return np.empty((0, size), np.uint8)
    stored = np.fromfile(store.local(str(layer.sidecar)), np.uint8).reshape(-1, size)
    return np.asarray(stored[starts.take(pa.array(rows)).to_numpy() // size])


@dataclass(frozen=True)
class Found:
    """For each document the kept one it is like (itself where it stays), how alike they are, and
    whether that was measured exactly. pairs: how many had to be."""

    twin: NDArray[np.int64]
    value: NDArray[np.float32]
    exact: NDArray[np.bool_]
    pairs: int


def twins(known: pa.Table, fixed: int, cfg: Config, job: Job, docs: Documents) -> Found:
    """Every document's verdict. known: a row each, in shard order, the first `fixed` of them kept."""
    from pipeline.kernels import neighbours as near

    order = preference(known, cfg.keep, fixed)
    twin = copies(known, order)
    live = order[(twin[order] == order) & np.asarray(known["words"])[order]].astype(np.uint32)
    pair, agree = candidates(live, int(np.sum(live < fixed)), cfg, job, docs.scratch)
    similar = near.estimate(agree, cfg.permutations).astype(np.float32)
    alike = np.where(similar >= zone(cfg)[1], near.YES, near.MAYBE).astype(np.uint8)
    state = near.settle(pair, alike, len(live))
    first, second = near.split(pair)
    maybe = alike == near.MAYBE
    unsure = maybe & (state[second] == near.OPEN) & (state[first] != near.GONE)
    similar[maybe] = 0
    similar[unsure] = measured(live[first[unsure]], live[second[unsure]], cfg, job, docs)
    keeper, value = near.keepers(pair, similar, cfg.threshold, len(live))
    exact = np.isin((np.arange(len(live), dtype=np.uint64) << np.uint64(32)) | keeper, pair[unsure])
    return _merged(twin, live, keeper, value, exact)


def _merged(
    twin: NDArray[np.int64],
    live: NDArray[np.uint32],
    keeper: NDArray[np.uint32],
    value: NDArray[np.float32],
    exact: NDArray[np.bool_],
) -> Found:
    """Verdicts on distinct contents spread to their copies: a copy goes where its original goes."""
    values, exacts = np.full(len(twin), np.nan, np.float32), np.ones(len(twin), bool)
    moved, values[live], exacts[live] = np.arange(len(twin)), value, exact
    moved[live] = live[keeper]
    out = moved[twin]
    values = np.where(out == twin, 1, values[twin]).astype(np.float32)
    return Found(out, values, exacts[twin] | (out == twin), int(exact.sum()))


def preference(known: pa.Table, keep: Sequence[Preference], fixed: int) -> NDArray[np.int64]:
    """Row numbers, the first `fixed` and then the most wanted first; ties by content, then uid."""
    size = np.asarray(known["bytes"]).astype(np.int64)
    keys = {
        "licence": np.asarray(known["licence"]),
        "stars": -np.asarray(known["stars"]).astype(np.int64),
        "longest": -size,
        "shortest": size,
    }
    hashes = [np.asarray(known[f"{n}_{h}"]) for n in ("uid", "content") for h in reversed(_HALVES)]
    wanted = [keys[name] for name in reversed(keep)]
    return np.lexsort([*hashes, *wanted, np.arange(len(known)) >= fixed])


def copies(known: pa.Table, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each document the most wanted one of the same content; itself where it is that one."""
    high, low = (np.asarray(known[f"content_{half}"])[order] for half in _HALVES)
    by = np.lexsort([np.arange(len(order)), low, high])
    new = np.ones(len(order), bool)
    new[1:] = (high[by][1:] != high[by][:-1]) | (low[by][1:] != low[by][:-1])
    out = np.empty(len(order), np.int64)
    out[order[by]] = order[by][new][np.cumsum(new) - 1]
    return out


def zone(cfg: Config) -> tuple[float, float]:
    """Estimates between which a pair has to be measured: the threshold, give or take SIGMAS."""
    from pipeline.kernels.neighbours import error

    width = SIGMAS * error(min(cfg.threshold, 0.95), cfg.permutations)
    return cfg.threshold - width, cfg.threshold + width


def candidates(
    live: NDArray[np.uint32], fixed: int, cfg: Config, job: Job, scratch: str
) -> tuple[NDArray[np.uint64], NDArray[np.uint16]]:
    """(pairs, agreeing bytes) of the documents `live`, from all bands, a few of them a task."""
    from datasketch import MinHashLSH

    threshold = min(cfg.threshold, 0.99)  # at 1 it finds no bands that would do
    lsh = MinHashLSH(threshold, cfg.permutations, weights=(1 - RECALL, RECALL))
    job.store.gather([live.tobytes()], scratch, "live")
    work = partial(_paired, job.store, scratch, cfg, lsh.r, fixed)
    items = [{"from": b, "to": min(b + _GROUP, lsh.b)} for b in range(0, lsh.b, _GROUP)]
    found = list(job.each(work, items, 0 if len(live) <= FEW else len(live)))
    pair, first = np.unique(np.concatenate([f["pairs"] for f in found]), return_index=True)
    return pair, np.concatenate([f["agree"] for f in found])[first]


def _paired(
    store: Store, scratch: str, cfg: Config, rows: int, fixed: int, item: dict[str, Any]
) -> dict[str, Any]:
    """The pairs of some bands. Each task reads all sketches by mapping one file into memory."""
    from pipeline.kernels import neighbours as near

    live = np.fromfile(store.local(scratch, "live"), np.uint32)
    least, sure = (near.agreeing(s, cfg.permutations) for s in zone(cfg))
    pair, agree = near.pairs(
        _mapped(store.local(scratch, "sketches"), np.uint8).reshape(-1, cfg.permutations),
        live,
        range(item["from"], item["to"]),
        rows,
        least=least,
        sure=sure,
        cap=cfg.bucket,
        fixed=fixed,
    )
    return {"pairs": pair, "agree": agree}


def _mapped(path: Path, dtype: Any) -> NDArray[Any]:
    """A file's numbers, mapped read-only; an empty file cannot be."""
    return np.asarray(np.memmap(path, dtype, "r")) if path.stat().st_size else np.empty(0, dtype)


def measured(
    left: NDArray[np.uint32], right: NDArray[np.uint32], cfg: Config, job: Job, docs: Documents
) -> NDArray[np.float32]:
    """The exact similarity of document pairs: the texts of those in them are read once more."""
    needed = np.unique(np.concatenate([left, right])).astype(np.int64)
    sizes = [np.zeros(1, np.int64)]
    job.store.gather(_gram_sets(needed, sizes, cfg, job, docs), docs.scratch, "grams")
    job.store.gather([np.cumsum(np.concatenate(sizes)).tobytes()], docs.scratch, "bounds")
    places = np.stack([np.searchsorted(needed, side) for side in (left, right)])
    items = [{"pairs": places[:, at : at + _PAIRS]} for at in range(0, len(left), _PAIRS)]
    found = job.each(partial(_measure, job.store, docs.scratch), items, len(left))
    return np.concatenate([np.empty(0, np.float32), *(f["similarity"] for f in found)])


def _measure(store: Store, scratch: str, item: dict[str, Any]) -> dict[str, Any]:
    from pipeline.kernels.neighbours import jaccard

    grams = _mapped(store.local(scratch, "grams"), np.uint32)
    bounds = _mapped(store.local(scratch, "bounds"), np.int64)
    left, right = np.ascontiguousarray(item["pairs"])
    return {"similarity": jaccard(left, right, grams, bounds)}


def _gram_sets(
    needed: NDArray[np.int64],
    sizes: list[NDArray[np.int64]],
    cfg: Config,
    job: Job,
    docs: Documents,
) -> Iterator[bytes]:
    """The gram sets of the needed documents in order; their sizes are added to `sizes`."""
    at = np.searchsorted(needed, docs.starts)
    parts = [
        needed[s:e] - start for s, e, start in zip(at, [*at[1:], None], docs.starts, strict=True)
    ]
    items = [
        {"shard": shard, "rows": rows[part]}
        for shard, rows, part in zip(docs.shards, docs.rows, parts, strict=True)
        if len(part)
    ]
    for found in job.each(partial(_gram_set, job.store, cfg.ngram), items, len(needed)):
        sizes.append(found["sizes"])
        yield found["grams"]


def _gram_set(store: Store, ngram: int, item: dict[str, Any]) -> dict[str, Any]:
    from pipeline.kernels import shingles

    table = read_shard(store, item["shard"], ["text"])
    table = table.filter(pc.is_in(table["row"], pa.array(item["rows"])))
    grams, bounds = shingles.gram_sets(*flat(table["text"]), ngram)
    return {"grams": grams.tobytes(), "sizes": np.diff(bounds)}


def decisions(docs: Documents, known: pa.Table, found: Found) -> Iterator[pa.Table]:
    """The verdicts of each own shard; a removal's evidence is its kept twin's uid."""
    for number in range(docs.own, len(docs.shards)):
        rows = docs.rows[number]
        at = np.arange(docs.starts[number], docs.starts[number] + len(rows))
        yield decide(known, found, at).append_column("row", pa.array(rows))


def decide(known: pa.Table, found: Found, at: NDArray[np.int64]) -> pa.Table:
    """The verdicts of the documents `at`: `exact` where the kept twin has the same content."""
    twin, value = found.twin[at], found.value[at].astype(float)
    gone = twin != at
    same = np.logical_and.reduce(
        [
            np.asarray(known[f"content_{h}"])[twin] == np.asarray(known[f"content_{h}"])[at]
            for h in _HALVES
        ]
    )
    rules = np.where(same, "exact", "near").astype(object)
    rules[~gone] = None
    evidence = iter(_hex(known, twin[gone]))
    return verdicts(
        pa.array(_hex(known, at)),
        rules.tolist(),
        [v if g else None for v, g in zip(value.tolist(), gone.tolist(), strict=True)],
        [next(evidence) if g else None for g in gone.tolist()],
        measured=pa.array(found.exact[at], mask=~gone),
    )


def _hex(known: pa.Table, rows: NDArray[np.int64]) -> list[str]:
    """The uids of some documents, as they are written."""
    high, low = (np.asarray(known[f"uid_{half}"])[rows].tolist() for half in _HALVES)
    return [f"{h:016x}{x:016x}" for h, x in zip(high, low, strict=True)]
