"""How fast a share of a corpus is selected, and that memory does not grow with the corpus.

    python -m tests.bench.select --documents 1M 4M --json

Made-up documents (30 languages, two columns of scores, no text) in shards of --shard rows; the real box
in one fresh process for each size. `ours` is the whole step: passes, verdicts written, facts. `sort`
is what it stands in for: the same columns of all documents in memory, one sort, no verdict written.
Memory is the peak resident size above that of the process before it began. Both have to keep the
same documents.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import select
from pipeline.core.arrays import halves
from pipeline.core.files import Files, verdicts
from pipeline.core.schema import DOCUMENTS, LEDGER
from pipeline.core.store import Store, read_parquet
from tests.bench.corpus import parser, size, tell
from tests.running import bare_job

LANGUAGES = [f"language {n}" for n in range(30)]
SHARE = 12.5 / 400
"""SnowCoder's share of the corpus."""


def main(args: argparse.Namespace) -> None:
    rows = [measure(documents, args.shard) for documents in args.documents]
    data: dict[str, Any] = {"share": SHARE, "sizes": rows}
    tell(data, [HEAD, *map(line, rows)], args)


HEAD = """| documents | ours: documents/s | s | peak MB | one sort: s | peak MB | same files |
|--:|--:|--:|--:|--:|--:|:--|"""


def line(row: dict[str, Any]) -> str:
    ours, sort = row["ours"], row["sort"]
    return (
        f"| {row['documents']:,} | {row['documents'] / ours['seconds']:,.0f} | {ours['seconds']:.1f} | "
        f"{ours['mb']:.0f} | {sort['seconds']:.1f} | {sort['mb']:.0f} | {row['same']} |"
    )


def measure(documents: int, shard: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        files = corpus(documents, shard, Store(folder))
        ours, sort = alone(box, files), alone(one_sort, files)
    kept = [found.pop("kept") for found in (ours, sort)]
    return {"documents": documents, "ours": ours, "sort": sort, "same": kept[0] == kept[1]}


def alone(work: Any, files: Files) -> dict[str, Any]:
    """`work(files)` in a process of its own: seconds, peak above its start, and a digest of its answer."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return dict(pool.apply(timed, (work, files)))


def timed(work: Any, files: Files) -> dict[str, Any]:
    work(Files(files.store, files.step, files.shards[:1]))  # imports, compiled kernels, one shard
    before, start = peak(), time.perf_counter()
    kept = work(files)
    return {"seconds": time.perf_counter() - start, "mb": peak() - before, "kept": kept}


def peak() -> float:
    """Of this program alone: ru_maxrss would keep what its parent had when it was started."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) / 1024


def box(files: Files) -> int:
    job = bare_job(files.store, "select")
    select.run(files, select.Config(share=SHARE), job)
    total = 0
    for record in job.layers[0]["shards"]:
        made = read_parquet(files.store.local(record["file"]), ["uid", "keep"])
        total ^= folded(made.filter(made["keep"])["uid"])
    return total


def one_sort(files: Files) -> int:
    columns = ["language", "length", "quality"]
    table = pa.concat_tables(files.read(s, columns) for s in files.shards)
    codes = table["language"].combine_chunks().dictionary_encode().indices.to_numpy()
    uids, length = halves(table["uid"]), table["length"].to_numpy()
    order = np.lexsort([uids[:, 1], uids[:, 0], -table["quality"].to_numpy(), codes])
    starts = np.searchsorted(codes[order], np.arange(codes.max() + 2))
    kept = []
    for a, b in pairwise(starts):
        tokens = np.cumsum(length[order[a:b]])
        kept.append(order[a:b][tokens <= int(tokens[-1] * SHARE)])
    return folded(table["uid"].take(pa.array(np.concatenate(kept))))


def folded(uids: pa.ChunkedArray) -> int:
    """One number for a set of uids, in any order."""
    return int(np.bitwise_xor.reduce(halves(uids)[:, 0], initial=np.uint64(0)))


def corpus(documents: int, shard: int, store: Store) -> Files:
    items = [
        {"name": f"part-{n:04}", "fingerprint": f"{n} {shard}", "seed": n, "rows": shard}
        for n in range(documents // shard)
    ]
    files = bare_job(store, "ingest").documents(items, made)
    files = bare_job(store, "tokenize").layer(files, lengths, ["bytes"], kind="tokens")
    return bare_job(store, "annotate").layer(files, scores, ["bytes"], kind="scores")


def made(item: dict[str, Any]) -> Iterator[tuple[pa.Table, pa.Table]]:
    rng, n = np.random.default_rng(item["seed"]), item["rows"]
    halves = rng.integers(0, 2**64, (n, 2), np.uint64).tolist()
    skewed = np.minimum(rng.geometric(0.2, n) - 1, len(LANGUAGES) - 1)
    given = {
        "uid": [f"{a:016x}{b:016x}" for a, b in halves],
        "language": np.array(LANGUAGES)[skewed],
        "bytes": np.maximum(1, rng.lognormal(7.5, 1.2, n)).astype(np.int64),
        "text": pa.array([""] * n, pa.large_string()),
    }
    empty = {f.name: pa.nulls(n, f.type) for f in DOCUMENTS}
    yield pa.table(empty | given).cast(DOCUMENTS), pa.Table.from_pylist([], LEDGER)


def lengths(table: pa.Table) -> pa.Table:
    return verdicts(table["uid"], [None] * len(table), length=table["bytes"].to_numpy() // 4)


def scores(table: pa.Table) -> pa.Table:
    rng = np.random.default_rng(int(table["bytes"].to_numpy()[:100].sum()))
    quality = pa.array(1 / (1 + np.exp(rng.normal(3, 2, len(table)))), pa.float32())
    return verdicts(table["uid"], [None] * len(table), quality=quality)


if __name__ == "__main__":
    options = parser(__doc__, "0")
    options.add_argument("--documents", nargs="+", type=size, default=[1_000_000, 4_000_000])
    options.add_argument("--shard", type=size, default=50_000, help="documents in a shard")
    main(options.parse_args())
