"""Exact and near-duplicate removal: one keeper per group, every removal checked against it.

Each shard's sketches are a layer of their own; bands of all sketches, read side by side, give
candidate pairs; pairs whose estimate is too near the threshold are measured exactly. The best
document first, and a file goes only when one that stays is like it: chains (A ~ B ~ C) cannot wipe
out families, as connected components do. Given `against`, its kept documents are the better ones.
Records, pairs and verdicts are files; this process holds 10 bytes of every distinct document.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core import preference, removals, spill
from pipeline.core.arrays import I64, U8, U64, flat
from pipeline.core.config import config
from pipeline.core.errors import StageError
from pipeline.core.files import Files, Shard, read_shard, verdicts
from pipeline.core.job import Job
from pipeline.core.preference import Preference, Ranked
from pipeline.core.removals import Kept
from pipeline.core.store import Store, read_parquet

VERSION = 2
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
_PART = 50_000_000
"""Documents that a task compares at a time: it holds some 20 bytes of each (ours)."""
_MOST = 1 << 32
"""A pair of documents is one number of 64 bits."""


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
        both = {"longest", "shortest"} <= set(self.keep)
        if both or len(set(self.keep)) < len(self.keep):
            raise ValueError(f"keep is {', '.join(self.keep)}: each once, longest or shortest")
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
class Corpus:
    """The documents at hand: shards in order, of which the first `against` are not the step's own,
    and how many documents each has. scratch: a folder of the store; home: one on this machine."""

    shards: tuple[Shard, ...]
    against: int
    counts: I64
    scratch: str
    home: Path


def run(files: Files, cfg: Config, job: Job, against: Files | None = None) -> None:
    names = {shard.name for shard in files.shards}
    if against and names and names <= {shard.name for shard in against.shards}:
        raise StageError(
            f"step {job.step}: every document of `files` is one of `against`'s, so none would stay; "
            "give it an older corpus than `files`, or leave `against` out"
        )
    made = sketched(files, cfg, job)
    sides = ([sketched(against, cfg, job, own=False)] if against else []) + [made]
    with job.scratch() as scratch, job.spill() as home:
        docs = prepared(sides, cfg, job, scratch, home)
        runs = [job.store.local(scratch, f"rank-{n}") for n in range(len(docs.shards))]
        known = preference.ranked(runs, int(docs.counts.sum()), home)
        found = twins(known, docs, cfg, job)
        groups = removals.gathered(known, found, home)
        job.write(made, decisions(job.store, docs, known))
    job.facts |= {"groups": groups, "measured_pairs": int(found.exact.sum())}


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


def prepared(sides: Sequence[Files], cfg: Config, job: Job, scratch: str, home: Path) -> Corpus:
    """Every shard's documents as sorted records (`rank-N`), and all sketches side by side."""
    shards = tuple(shard for side in sides for shard in side.shards)
    against = len(shards) - len(sides[-1].shards)
    items = [{"shard": s, "number": n, "own": n >= against} for n, s in enumerate(shards)]
    work = partial(_prepare, job.store, scratch, cfg.keep)
    counts = [found["count"] for found in job.each(work, items, sum(s.rows for s in shards))]
    if sum(counts) >= _MOST:
        raise StageError(
            f"step {job.step}: {sum(counts):,} documents, and {_MOST - 1:,} are the most at a time; "
            "dedup one part first and give it as `against` to the other"
        )
    parts = (job.store.local(scratch, f"sketch-{n}") for n in range(len(shards)))
    job.store.gather(_bytes(parts), scratch, "sketches")
    return Corpus(shards, against, np.array(counts, np.int64), scratch, home)


def _prepare(
    store: Store, scratch: str, keep: Sequence[Preference], item: dict[str, Any]
) -> dict[str, Any]:
    table = read_shard(store, item["shard"], preference.COLUMNS)
    records = preference.wanted(table, keep, item["number"], item["own"])
    store.gather([records.tobytes()], scratch, f"rank-{item['number']}")
    sketches = sketches_of(store, item["shard"], table["row"].to_numpy())
    store.gather([sketches.tobytes()], scratch, f"sketch-{item['number']}")
    return {"count": len(table)}


def sketches_of(store: Store, shard: Shard, rows: I64) -> U8:
    """The sketches of some rows of a shard, from its newest layer."""
    layer = shard.layers[-1]
    starts, lengths = read_parquet(store.local(layer.file), ["start", "length"]).columns
    size = int(pc.max(lengths).as_py() or 0)
    if not len(rows):
        return np.empty((0, size), np.uint8)
    stored = np.fromfile(store.local(str(layer.sidecar)), np.uint8).reshape(-1, size)
    return np.asarray(stored[starts.take(pa.array(rows)).to_numpy() // size])


def _bytes(paths: Iterator[Path]) -> Iterator[bytes]:
    """The content of some files, one after the other; each is deleted when it has been read."""
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 24):
                yield chunk
        path.unlink()


def twins(known: Ranked, docs: Corpus, cfg: Config, job: Job) -> Kept:
    """Who stays of the documents with words that copy no other, numbered from the most wanted."""
    from pipeline.kernels import neighbours as near

    count = numbered(known, docs, job)
    runs = candidates(count, docs, cfg, job) if count else []
    state = settled(runs, count, docs.home, cfg)
    measured(state, docs, cfg, job)
    kept = near.everyone(count)
    with open(docs.home / "similarity", "rb") as exact:
        for part in spill.chunks(docs.home / "pairs", 2):
            alike, similar = likeness(part[:, 1], cfg)
            unsure = _unsure(part[:, 0], alike, state)
            similar[alike == near.MAYBE] = 0
            similar[unsure] = np.fromfile(exact, np.float32, int(unsure.sum()))
            near.keepers(part[:, 0], similar, unsure, cfg.threshold, kept)
    return kept


def numbered(known: Ranked, docs: Corpus, job: Job) -> int:
    """Number the documents that can have near copies; how many there are.

    Their sketches' rows go to `live` of the scratch folder, places and ranks to `places` and
    `ranks` of the home, and every rank's number, counted from 1, to `numbers`.
    """
    starts = np.cumsum(docs.counts) - docs.counts
    shape = (max(1, len(known.alive)),)
    numbers = np.memmap(docs.home / "numbers", np.uint32, "w+", shape=shape)

    def rows() -> Iterator[bytes]:
        at = 0
        with open(docs.home / "places", "wb") as places, open(docs.home / "ranks", "wb") as ranks:
            for place, rank in preference.live(known):
                numbers[rank] = np.arange(at + 1, at + 1 + len(rank))
                at += len(rank)
                spill.put(places, place)
                spill.put(ranks, rank.astype(np.uint64))
                shard, own = preference.split(place)
                yield (starts[shard] + own).astype(np.uint32).tobytes()

    job.store.gather(rows(), docs.scratch, "live")
    return (docs.home / "ranks").stat().st_size // 8


def candidates(count: int, docs: Corpus, cfg: Config, job: Job) -> list[Path]:
    """Runs of (pair, agreeing bytes) of the numbered documents, from some bands each."""
    from datasketch import MinHashLSH

    threshold = min(cfg.threshold, 0.99)  # at 1 it finds no bands that would do
    lsh = MinHashLSH(threshold, cfg.permutations, weights=(1 - RECALL, RECALL))
    ranks = spill.records(docs.home / "ranks", 1)[:, 0]
    fixed = int(np.searchsorted(ranks, docs.counts[: docs.against].sum()))
    parts = -(-count // _PART)
    items = [
        {"bands": range(b, min(b + _GROUP, lsh.b)), "part": p, "name": f"pairs-{b}-{p}"}
        for b in range(0, lsh.b, _GROUP)
        for p in range(parts)
    ]
    work = partial(_paired, job.store, docs.scratch, cfg, lsh.r, fixed, parts)
    names = [found["name"] for found in job.each(work, items, 0 if count <= FEW else count)]
    return [job.store.local(docs.scratch, name) for name in names]


def _paired(
    store: Store,
    scratch: str,
    cfg: Config,
    rows: int,
    fixed: int,
    parts: int,
    item: dict[str, Any],
) -> dict[str, Any]:
    """The pairs of some bands. Each task reads all sketches by mapping one file into memory."""
    from pipeline.kernels import neighbours as near

    least, sure = (near.agreeing(s, cfg.permutations) for s in zone(cfg))
    pair, agree = near.pairs(
        spill.records(store.local(scratch, "sketches"), cfg.permutations, np.uint8),
        spill.records(store.local(scratch, "live"), 1, np.uint32)[:, 0],
        item["bands"],
        rows,
        least=least,
        sure=sure,
        cap=cfg.bucket,
        fixed=fixed,
        part=(item["part"], parts),
    )
    found = np.column_stack([pair, agree.astype(np.uint64)])
    store.gather([found.tobytes()], scratch, item["name"])
    return {"name": item["name"]}


def zone(cfg: Config) -> tuple[float, float]:
    """Estimates between which a pair has to be measured: the threshold, give or take SIGMAS."""
    from pipeline.kernels.neighbours import error

    width = SIGMAS * error(min(cfg.threshold, 0.95), cfg.permutations)
    return cfg.threshold - width, cfg.threshold + width


def likeness(agree: U64, cfg: Config) -> tuple[U8, NDArray[np.float32]]:
    """(YES or MAYBE, estimated similarity) of pairs with so many agreeing bytes."""
    from pipeline.kernels import neighbours as near

    similar = near.estimate(agree, cfg.permutations).astype(np.float32)
    return np.where(similar >= zone(cfg)[1], near.YES, near.MAYBE).astype(np.uint8), similar


def settled(runs: Sequence[Path], count: int, home: Path, cfg: Config) -> U8:
    """What the surely alike pairs settle of each document; all pairs, each once, go to `pairs`."""
    from pipeline.kernels import neighbours as near

    state = np.zeros(count, np.uint8)
    with open(home / "pairs", "wb") as pairs:
        for part in spill.merged(runs, 2, 1):
            part = part[np.diff(part[:, 0], prepend=~part[0, 0]) != 0]
            spill.put(pairs, part)
            near.settle(part[:, 0], likeness(part[:, 1], cfg)[0], state)
    return state


def _unsure(pair: U64, alike: U8, state: U8) -> NDArray[np.bool_]:
    """Which pairs decide about a document, and have to be measured for that."""
    from pipeline.kernels import neighbours as near

    first, second = near.split(pair)
    open_ = (state[second] == near.OPEN) & (state[first] != near.GONE)
    return np.asarray((alike == near.MAYBE) & open_)


def measured(state: U8, docs: Corpus, cfg: Config, job: Job) -> None:
    """Measure the unsure pairs exactly, from texts read once more, into `similarity`, in order."""
    place = spill.records(docs.home / "places", 1)[:, 0]
    needed = np.zeros(len(state), bool)
    for pairs in _unsure_pairs(state, docs.home, cfg):
        needed[pairs] = True
    wanted = np.sort(place[needed])
    gram_sets(wanted, docs, cfg, job)
    found = (np.searchsorted(wanted, place[p]) for p in _unsure_pairs(state, docs.home, cfg))
    job.store.gather((f.astype(np.int64).tobytes() for f in found), docs.scratch, "unsure")
    count = job.store.local(docs.scratch, "unsure").stat().st_size // 16
    items = [{"from": at} for at in range(0, count, _PAIRS)]
    with open(docs.home / "similarity", "wb") as out:
        for part in job.each(partial(_measure, job.store, docs.scratch), items, count):
            spill.put(out, part["similarity"])


def _unsure_pairs(state: U8, home: Path, cfg: Config) -> Iterator[I64]:
    """(n, 2) numbers of the documents of unsure pairs, in order."""
    from pipeline.kernels import neighbours as near

    for part in spill.chunks(home / "pairs", 2):
        unsure = _unsure(part[:, 0], likeness(part[:, 1], cfg)[0], state)
        yield np.column_stack(near.split(part[unsure, 0]))


def _measure(store: Store, scratch: str, item: dict[str, Any]) -> dict[str, Any]:
    from pipeline.kernels.neighbours import jaccard

    grams = spill.records(store.local(scratch, "grams"), 1, np.uint32)[:, 0]
    bounds = spill.records(store.local(scratch, "bounds"), 1, np.int64)[:, 0]
    pairs = spill.records(store.local(scratch, "unsure"), 2, np.int64)[item["from"] :][:_PAIRS]
    left, right = np.ascontiguousarray(pairs.T)
    return {"similarity": jaccard(left, right, grams, bounds)}


def gram_sets(wanted: U64, docs: Corpus, cfg: Config, job: Job) -> None:
    """The gram sets of the documents at some sorted places, in that order: `grams` and `bounds`."""
    shard, own = preference.split(wanted)
    cuts = np.searchsorted(shard, np.arange(len(docs.shards) + 1))
    items = [
        {"shard": s, "rows": own[cuts[n] : cuts[n + 1]], "name": f"grams-{n}"}
        for n, s in enumerate(docs.shards)
        if cuts[n] < cuts[n + 1]
    ]
    sizes, work = [np.zeros(1, np.int64)], partial(_gram_set, job.store, docs.scratch, cfg.ngram)
    sizes += [found["sizes"] for found in job.each(work, items, len(wanted))]
    made = (job.store.local(docs.scratch, str(item["name"])) for item in items)
    job.store.gather(_bytes(made), docs.scratch, "grams")
    job.store.gather([np.cumsum(np.concatenate(sizes)).tobytes()], docs.scratch, "bounds")


def _gram_set(store: Store, scratch: str, ngram: int, item: dict[str, Any]) -> dict[str, Any]:
    from pipeline.kernels import shingles

    text = read_shard(store, item["shard"], ["text"])["text"].take(pa.array(item["rows"]))
    grams, bounds = shingles.gram_sets(*flat(text), ngram)
    store.gather([grams.tobytes()], scratch, item["name"])
    return {"sizes": np.diff(bounds)}


def decisions(store: Store, docs: Corpus, known: Ranked) -> Iterator[pa.Table]:
    """The verdicts of each own shard."""
    for number in range(docs.against, len(docs.shards)):
        table = read_shard(store, docs.shards[number], ["uid"])
        found = removals.decide(table["uid"], removals.of_shard(docs.home, number), known)
        yield found.append_column("row", table["row"])
