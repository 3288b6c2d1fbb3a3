"""Dedup over ever larger corpora, through Ray Data: rate per core and the driver's memory.

    python -m tests.bench.scale --corpus DIR_OR_PARQUET --limit 1G --workers 2 --out FILE.md

The corpus is taken at 1/8, 1/4, 1/2 and the whole of the limit, each measured in a process of its
own whose workers have been warmed on the smallest. Then the ranking and the deciding alone, on 20
million documents and as many pairs, and what they hold beside them. Rates are wall time times workers; memory is the driver's peak resident set.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import dedup
from pipeline.core.files import Files
from pipeline.core.job import base_shard
from pipeline.core.store import Store
from tests.bench import corpus
from tests.running import bare_job, stored

PARTS = (8, 4, 2, 1)
DOCUMENTS, PAIRS = 20_000_000, 20_000_000


def main() -> None:
    made = corpus.parser(__doc__, "800M")
    made.add_argument("--workers", type=int, default=os.cpu_count())
    made.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    args = made.parse_args()
    if args.step:
        print(json.dumps(_STEPS[args.step[0]](*args.step[1:])))
        return
    told = _measured(args.corpus, args.limit, args.workers)
    corpus.tell(told, _lines(told), args)


def _measured(where: str | None, limit: int, workers: int) -> dict[str, Any]:
    folder = tempfile.mkdtemp(prefix="scale-")
    try:
        for part in PARTS:
            _in_process("make", where or "", str(limit // part), f"{folder}/{part}")
        sizes = [
            _in_process("run", f"{folder}/{part}", f"{folder}/{PARTS[0]}", str(workers))
            for part in PARTS
        ]
    finally:
        shutil.rmtree(folder)
    return {
        "sizes": sizes,
        "ranks": _in_process("ranks"),
        "clusters": _in_process("clusters"),
        "workers": workers,
        "corpus": where or "what is installed",
        "versions": corpus.versions("pyarrow", "numpy", "numba", "ray"),
    }


def _in_process(*step: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.scale", "--step", *step]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def make(where: str, limit: str, folder: str) -> dict[str, Any]:
    """Store the corpus as ingest would, in shards of 16 MB."""
    table = corpus.load(where or None, int(limit))
    store, size = Store(folder), corpus.text_bytes(table)
    files = stored(table.to_pylist(), store, max(1, size // 16_000_000))
    shards = [
        {"name": s.name, "rows": s.rows, "file": s.layers[0].file, "sha256": s.layers[0].sha256}
        for s in files.shards
    ]
    store.replace(json.dumps({"bytes": size, "shards": shards}).encode(), "base.json")
    return {"files": len(table)}


def run(folder: str, small: str, workers: str) -> dict[str, Any]:
    """Dedup of one size; what it took, and the most memory this process ever held."""
    from cluster.start import connect

    connect()
    _dedup(small, int(workers))
    began = time.monotonic()
    rows, size = _dedup(folder, int(workers))
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rate = size / 1e6 / seconds / int(workers)
    return {
        "files": rows,
        "mb": size / 1e6,
        "seconds": seconds,
        "mb_per_s_core": rate,
        "driver_mb": peak / 1e3,
    }


def _dedup(folder: str, workers: int) -> tuple[int, int]:
    store = Store(folder)
    told = store.load("base.json") or {}
    files = Files(store, "raw", tuple(base_shard("raw", r) for r in told["shards"]))
    dedup.run(files, dedup.Config(), bare_job(store, "dedup", workers=workers))
    shutil.rmtree(store.local("dedup"))
    return sum(s.rows for s in files.shards), told["bytes"]


def clusters() -> dict[str, Any]:
    """Who stays of 20 million documents with 20 million pairs, drawn at random."""
    from pipeline.kernels.neighbours import everyone, keepers

    none = np.zeros(PAIRS, bool)
    keepers(np.zeros(1, np.uint64), np.zeros(1, np.float32), none[:1], 0.7, everyone(1))
    rng = np.random.default_rng(0)
    pair = rng.integers(0, DOCUMENTS, PAIRS, dtype=np.uint64)
    other = rng.integers(0, DOCUMENTS, PAIRS, dtype=np.uint64)
    pair, other = np.maximum(pair, other), np.minimum(pair, other)
    np.left_shift(pair, np.uint64(32), out=pair)
    np.bitwise_or(pair, other, out=pair)
    del other
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    pair.sort()
    similarity = np.full(PAIRS, 0.8, np.float32)
    keeper = everyone(DOCUMENTS)
    keepers(pair, similarity, none, 0.7, keeper)
    seconds = time.monotonic() - began
    gone = int(np.sum(keeper.keeper != np.arange(DOCUMENTS, dtype=np.uint32)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_mb": peak / 1e3, "before_mb": before / 1e3, "removed": gone}


def ranks() -> dict[str, Any]:
    """Rank 20 million documents of 1,000 shards, every fifth a copy of another."""
    from pipeline.core import preference, spill

    rng, each = np.random.default_rng(0), DOCUMENTS // 1000
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for n in range(1000):
            made = rng.integers(0, 2**63, (each, preference.WIDTH), dtype=np.uint64)
            made[: each // 5, 2:4] = np.arange(each // 5)[:, None]
            made[:, 6] = (preference.places(n, each) << np.uint64(1)) | np.uint64(1)
            runs.append(Path(folder) / f"rank-{n}")
            spill.ordered(made).tofile(runs[-1])
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        found = preference.ranked(runs, DOCUMENTS, Path(folder))
        seconds = time.monotonic() - began
        gone = int((~found.alive).sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_mb": peak / 1e3, "before_mb": before / 1e3, "copies": gone}


_STEPS = {"make": make, "run": run, "ranks": ranks, "clusters": clusters}


def _lines(told: dict[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{k} {v}" for k, v in told["versions"].items())
    yield f"{told['corpus']}; {told['workers']} workers of Ray Data on {os.cpu_count()} cores; {versions}."
    yield ""
    yield "| size | files | MB | seconds | MB/s per core | driver's peak, MB |"
    yield "|---|---|---|---|---|---|"
    for part, s in zip(PARTS, told["sizes"], strict=True):
        numbers = [
            f"{s['mb']:.0f}",
            f"{s['seconds']:.1f}",
            f"{s['mb_per_s_core']:.1f}",
            f"{s['driver_mb']:.0f}",
        ]
        yield f"| x{PARTS[0] // part} | {s['files']:,} | " + " | ".join(numbers) + " |"
    r, c = told["ranks"], told["clusters"]
    yield ""
    yield (
        f"Ranking {DOCUMENTS:,} documents on disk and finding {r['copies']:,} copies among them: "
        f"{r['seconds']:.0f} s, peak {r['peak_mb']:.0f} MB, of which {r['before_mb']:.0f} MB before it began."
    )
    yield ""
    yield (
        f"Deciding {PAIRS:,} pairs of {DOCUMENTS:,} documents (sort and keepers): {c['seconds']:.1f} s, "
        f"peak {c['peak_mb']:.0f} MB, of which {c['before_mb']:.0f} MB before it began; {c['removed']:,} go."
    )


if __name__ == "__main__":
    main()
