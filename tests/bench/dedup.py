"""Near-duplicate removal: speed from Parquet to verdicts, and what was removed against exact Jaccard.

    python -m tests.bench.dedup --corpus DIR_OR_PARQUET --limit 135M --seeds 3 --out FILE.md

Every tool gets the same distinct texts. Rivals are measured when they can be imported: datasketch,
rensa, datatrove (as shipped where spaCy is there, and with a regular expression for its words),
text-dedup. Rates are per CPU second of this process and its children, but for `ray`: wall time times
cores. Reading the input is in our figures only.
"""

import argparse
import contextlib
import io
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import dedup
from pipeline.core.files import Files
from pipeline.core.schema import digest
from pipeline.core.store import Store, read_parquet
from tests.bench import corpus, rivals
from tests.bench.truth import Truth, truth
from tests.running import bare_job, stored

THRESHOLD = 0.7
BUCKETS = (0.7, 0.75, 0.8, 0.85, 0.9, 1.01)


def main() -> None:
    args = _arguments()
    table = _distinct(corpus.load(args.corpus, args.limit))
    texts = table["text"].to_pylist()
    size = corpus.text_bytes(table)
    ours = _ours(table, args.seeds, args.workers)
    exact = truth(texts, THRESHOLD)
    keys = [digest(t) for t in texts]
    told: dict[str, Any] = {
        "ours": _told(ours["cpu"], size)
        | judged([ours["kept"][s] for s in ours["kept"]], keys, exact),
        "rivals": {},
        "corpus": corpus.described(table, args.corpus) | {"pairs": len(exact.left)},
        "versions": corpus.versions(
            "pyarrow", "numpy", "numba", "ray", "datasketch", "rensa", "datatrove", "text-dedup"
        ),
    }
    told["ours"] |= {
        "compile_s": round(ours["compile"], 2),
        "ray_mb_per_s_core": ours["ray"] and round(size / 1e6 / ours["ray"], 1),
    }
    for name, run in rivals.available(texts).items():
        part = slice(None) if size <= args.rival_limit else _first(table, args.rival_limit)
        seconds, kept = _timed(partial(run, texts[part]))
        told["rivals"][name] = _told(seconds, corpus.text_bytes(table.slice(0, len(texts[part]))))
        whole = len(texts[part]) == len(texts)
        told["rivals"][name] |= _judged(kept, exact) if whole else {}
    corpus.tell(told, _lines(told), args)


def _arguments() -> argparse.Namespace:
    made = corpus.parser(__doc__, "100M")
    made.add_argument(
        "--rival-limit",
        type=corpus.size,
        default="1T",
        help="bytes a rival gets (quality only when all)",
    )
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--workers", type=int, default=0, help="through Ray Data too, on so many")
    return made.parse_args()


def _first(table: pa.Table, limit: int) -> slice:
    sizes = np.cumsum(pc.binary_length(table["text"]).to_numpy())
    return slice(0, int(np.searchsorted(sizes, limit)) + 1)


def _distinct(table: pa.Table) -> pa.Table:
    """Without exact copies: all tools agree on those."""
    first = {}
    for row, text in enumerate(table["text"].to_pylist()):
        first.setdefault(text, row)
    return table.take(pa.array(sorted(first.values())))


def _ours(table: pa.Table, seeds: int, workers: int) -> dict[str, Any]:
    """CPU seconds of the box in this process (median over seeds), after one run that compiles."""
    folder = Path(tempfile.mkdtemp(prefix="dedup-"))
    try:
        store = Store(str(folder))
        files = stored_in(table, store)
        first, _ = _timed(partial(removed, files, 0, store, 0))
        runs = {s: _timed(partial(removed, files, s, store, 0)) for s in range(1, seeds + 1)}
        seconds = sorted(r[0] for r in runs.values())[seeds // 2]
        ray = _on_ray(files, store, workers) if workers else None
        return {
            "cpu": seconds,
            "compile": first - seconds,
            "kept": {s: r[1] for s, r in runs.items()},
            "ray": ray,
        }
    finally:
        shutil.rmtree(folder)


def _on_ray(files: Files, store: Store, workers: int) -> float:
    """Core seconds through Ray Data, its workers started and warm: wall time times workers."""
    from cluster.start import connect

    connect()
    removed(files, 99, store, workers)
    began = time.monotonic()
    removed(files, 98, store, workers)
    return (time.monotonic() - began) * workers


def stored_in(table: pa.Table, store: Store, shard_bytes: int = 16_000_000) -> Files:
    """The corpus as ingest would leave it: documents in Parquet shards."""
    return stored(table.to_pylist(), store, max(1, corpus.text_bytes(table) // shard_bytes))


def removed(files: Files, seed: int, store: Store, workers: int) -> dict[str, str]:
    """What dedup drops under a seed: content hash -> its kept twin's."""
    job = bare_job(store, "dedup", f"seed{seed}-{workers}", workers)
    dedup.run(files, dedup.Config(threshold=THRESHOLD, seed=seed), job)
    names, gone = {}, {}
    for shard, record in zip(files.shards, job.layers[-1]["shards"], strict=True):
        base = read_parquet(store.local(shard.layers[0].file), ["uid", "content"]).to_pylist()
        names |= {r["uid"]: r["content"] for r in base}
        for row in read_parquet(store.local(record["file"])).to_pylist():
            if not row["keep"]:
                gone[row["uid"]] = row["evidence"]
    shutil.rmtree(store.local("dedup"))
    return {names[u]: names[twin] for u, twin in gone.items()}


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """(CPU seconds of this process and its ended children, result)."""
    began = _cpu()
    with contextlib.redirect_stdout(io.StringIO()):
        result = work()
    return _cpu() - began, result


def _cpu() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in both)


def _told(seconds: float, size: int) -> dict[str, Any]:
    return {"mb_per_s_core": round(size / 1e6 / seconds, 2), "cpu_s": round(seconds, 2)}


def judged(runs: list[dict[str, str]], keys: list[str], exact: Truth) -> dict[str, Any]:
    """The worst of several seeds' runs, by every measure; each claimed twin held against the truth."""
    number = {k: i for i, k in enumerate(keys)}
    found = []
    for gone in runs:
        kept = np.ones(len(keys), bool)
        kept[[number[k] for k in gone]] = False
        claims = [exact.jaccard(number[k], number[t]) for k, t in gone.items()]
        below = sum(c < THRESHOLD for c in claims) / max(len(claims), 1)
        found.append(
            _judged(kept, exact)
            | {
                "claimed_twin_below": round(below, 5),
                "twins_gone": sum(t in gone for t in gone.values()),
            }
        )
    worst = {k: max(f[k] for f in found) for k in found[0] if k not in ("recall", "removed")}
    recall = {b: min(f["recall"][b] for f in found) for b in found[0]["recall"]}
    return worst | {"removed": [f["removed"] for f in found], "recall": recall}


def _judged(kept: np.ndarray, exact: Truth) -> dict[str, Any]:
    """wrong_removals: share of removed files without a kept twin at the threshold; pairs_085_left;
    pairs_missed: share of pairs at the threshold of which both stay; recall per bucket of similarity."""
    good = np.zeros(len(kept), bool)
    for one, other in ((exact.left, exact.right), (exact.right, exact.left)):
        good[one[kept[other]]] = True
    left = kept[exact.left] & kept[exact.right]
    at = np.digitize(exact.similarity, BUCKETS)
    recall = {
        f"{low:.2f}": round(1 - float(left[at == n + 1].mean()), 4) if (at == n + 1).any() else 1.0
        for n, low in enumerate(BUCKETS[:-1])
    }
    gone = int((~kept).sum())
    return {
        "removed": gone,
        "wrong_removals": round(float((~kept & ~good).sum() / max(gone, 1)), 5),
        "pairs_085_left": int((left & (exact.similarity >= 0.85)).sum()),
        "pairs_missed": round(float(left.mean()), 5) if len(left) else 0.0,
        "recall": recall,
    }


def _lines(told: dict[str, Any]) -> Iterator[str]:
    c = told["corpus"]
    yield f"Corpus: {c['files']:,} distinct files, {c['bytes'] / 1e6:.1f} MB of {c['source']}; {c['pairs']:,} pairs at J >= {THRESHOLD}."
    yield f"{os.cpu_count()} cores; {', '.join(f'{k} {v}' for k, v in told['versions'].items())}. Compiling took {told['ours']['compile_s']} s of the first run."
    yield ""
    buckets = list(told["ours"]["recall"])
    yield (
        "| tool | MB/s per core | removed | without a kept twin | pairs >= 0.85 left | pairs missed | "
        + " | ".join(f"recall {b}" for b in buckets)
        + " |"
    )
    yield "|---" * (6 + len(buckets)) + "|"
    for name, r in {"icefloe": told["ours"], **told["rivals"]}.items():
        recall = [f"{r['recall'][b]:.2%}" if "recall" in r else "" for b in buckets]
        quality = (
            [
                r.get("removed", ""),
                f"{r['wrong_removals']:.2%}",
                r["pairs_085_left"],
                f"{r['pairs_missed']:.2%}",
            ]
            if "recall" in r
            else [""] * 4
        )
        yield "| " + " | ".join(map(str, [name, r["mb_per_s_core"], *quality, *recall])) + " |"
    if told["ours"]["ray_mb_per_s_core"]:
        yield f"\nThrough Ray Data: {told['ours']['ray_mb_per_s_core']} MB/s per core (wall time times workers)."


if __name__ == "__main__":
    main()
