"""Synthetic documents written from seed files: phase 3's data (SnowCoder 2409.02326 §2.3).

The writer here is deterministic and ours: it turns documented functions of the seeds into
exercise-like files, signature and docstring first, then the solution. The paper's writer is a large
model asked for whole problem-solving files. Knows nothing of benchmarks: decontaminate follows.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import pyarrow as pa

from pipeline.core.config import config
from pipeline.core.errors import StageError
from pipeline.core.files import Files, read_shard
from pipeline.core.job import Job
from pipeline.core.schema import DOCUMENTS, LEDGER, digest, uid
from pipeline.core.store import Store
from pipeline.kernels.exercises import exercises

VERSION = 1


@config
class Config:
    writer: Literal["functions"] = "functions"
    """Who writes: `functions` turns documented Python functions into exercises (ours)."""
    min_length: int = 120
    """Shorter exercises, in characters, are left out (ours: below it there is only a wrapper)."""
    max_length: int = 4000
    """Longer exercises, in characters, are left out (ours: about 1,000 tokens)."""
    max_per_file: int = 8
    """The first so many exercises of one file (ours: no file may dominate)."""


def run(seeds: Files, cfg: Config, job: Job) -> None:
    items = [
        {"name": s.name, "fingerprint": s.fingerprint, "shard": s, "rows": s.rows}
        for s in seeds.shards
    ]
    made = job.documents(items, partial(documents, store=seeds.store, cfg=cfg))
    if not made.shards:
        raise StageError(
            f"step {job.step}: no seed holds a documented Python function; choose more seeds"
        )
    job.facts["text_bytes"] = sum(r["text_bytes"] for r in job.base or [])


def documents(
    item: dict[str, Any], store: Store, cfg: Config
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """One shard of seeds: the files written from them, and the seeds that gave none."""
    seeds = read_shard(
        store, item["shard"], ["repo", "path", "language", "licence", "text"]
    ).to_pylist()
    rows: dict[str, dict[str, Any]] = {}
    ledger: list[dict[str, Any]] = []
    for seed in seeds:
        written = write(seed, cfg)
        rows |= {row["uid"]: row for row in written}
        if not written:
            told = {
                "repo": seed["repo"],
                "path": seed["path"],
                "rule": "no_exercise",
                "evidence": seed["uid"],
            }
            ledger.append(told)
    made = pa.Table.from_pylist(list(rows.values()), DOCUMENTS)
    yield made, pa.Table.from_pylist(ledger, LEDGER)


def write(seed: dict[str, Any], cfg: Config) -> list[dict[str, Any]]:
    """The documents written from one seed; each path names the seed and the number in it."""
    if seed["language"] != "Python":
        return []
    texts = exercises(seed["text"], cfg.min_length, cfg.max_length, cfg.max_per_file)
    return [_document(seed, f"{seed['path']}#{n}", text) for n, text in enumerate(texts)]


def _document(seed: dict[str, Any], path: str, text: str) -> dict[str, Any]:
    content = digest(text)
    return {
        "uid": uid("synthetic", seed["repo"], path, content),
        "source": "synthetic",
        "repo": seed["repo"],
        "path": path,
        "language": "Python",
        "licence": seed["licence"],
        "stars": None,
        "bytes": len(text.encode()),
        "content": content,
        "text": text,
    }
