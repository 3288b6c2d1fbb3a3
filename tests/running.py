"""Runs recipes in tests the way the command does, without Ray unless asked."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from pipeline.core import recipe, runner
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.schema import DOCUMENTS, LEDGER, digest, uid
from pipeline.core.store import Store, read_parquet

Manifests = dict[str, dict[str, Any]]


def recipe_file(path: Path, steps: dict[str, Any]) -> str:
    """A recipe on disk; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"steps": steps}, sort_keys=False))
    return str(path)


def run(
    name: str,
    store: Path,
    *overrides: str,
    workers: int = 0,
    connect: Callable[[], None] = lambda: None,
    until: str | None = None,
) -> Manifests:
    """Run a recipe; returns each step's manifest (with `made_now`)."""
    from cluster import runs
    from cluster.train import launcher

    resolved = recipe.load(name, (), overrides)
    where = Store(str(store))
    planned = runner.plan(resolved, where, until)
    with where.lock(), launcher() as launch:
        runtime = runner.Runtime(workers, connect, launch)
        every = runner.plan(resolved, where) if until else planned
        runs.record(where, resolved, every, [], list(overrides))
        steps = runner.run(resolved, where, planned, runtime)
        return {p.step.name: m | {"made_now": now} for p, m, now in steps}


def bare_job(store: Store, stage: str, key: str = "k", workers: int = 0) -> Job:
    """A box's job without a recipe around it."""
    return Job(store, stage, stage, 1, key, {}, workers, 1, lambda: None, lambda *_: None)


def stored(rows: list[dict[str, Any]], store: Store, shards: int = 1) -> Files:
    """Documents as ingest leaves them; a row needs `text`, the rest is filled in."""
    made = [_document(number, row) for number, row in enumerate(rows)]
    items = [
        {
            "name": f"part-{n}",
            "fingerprint": digest(*(r["uid"] for r in made[n::shards])),
            "made": made[n::shards],
        }
        for n in range(shards)
    ]
    return bare_job(store, "ingest").documents(items, _stored)


def _document(number: int, row: dict[str, Any]) -> dict[str, Any]:
    content = digest(row["text"])
    filled = {
        "source": "test",
        "repo": "repo",
        "path": f"f{number}.py",
        "language": "Python",
        "content": content,
        "bytes": len(row["text"].encode()),
    } | row
    return {"uid": uid(filled["source"], filled["repo"], filled["path"], content), **filled}


def _stored(item: dict[str, Any]) -> Iterator[tuple[pa.Table, pa.Table]]:
    yield pa.Table.from_pylist(item["made"], DOCUMENTS), pa.Table.from_pylist([], LEDGER)


def verdicts_of(job: Job) -> dict[str, dict[str, Any]]:
    """uid -> the row of the job's last layer."""
    records = job.layers[-1]["shards"]
    return {
        r["uid"]: r
        for record in records
        for r in read_parquet(job.store.local(record["file"])).to_pylist()
    }


def whole(source: Path) -> dict[str, Any]:
    """The whole snowcoder recipe over a folder, with the smallest models and a few steps a phase."""
    schedule = {"warmup": 0.1, "peak": 1e-3, "shape": "linear", "end": 0.0}
    train = {
        "use": "train",
        "tokenizer": "vocab",
        "model": "snowcoder-tiny",
        "batch": 4,
        "checkpoint_every": 4,
        "schedule": schedule,
        "threads": 1,
    }
    phases = {"alpha": "phase1", "beta": "phase2", "final": "phase3"}
    packed = {"use": "pack", "length": 64, "infill": 0.5}
    return curation(source) | {
        "batches1": packed | {"files": "tokens", "group": ["language", "repo"], "budget": 3000},
        "phase1": train | {"data": "batches1"},
        "annotator": {
            "use": "annotator",
            "negatives": "tokens",
            "tokenizer": "vocab",
            "rule": 0.7,
            "files": 40,
            "window": 32,
            "hidden": 32,
            "heads": 2,
            "layers": 1,
            "unseen": 20,
            "epochs": 1,
            "threads": 1,
        },
        "scored": {"use": "annotate", "files": "tokens", "annotator": "annotator"},
        "best": {"use": "select", "files": "scored", "budget": 1200},
        "batches2": packed | {"files": "best", "epochs": 4},
        "phase2": train | {"data": "batches2", "start": "phase1"},
        "exercises": {"use": "synthesise", "seeds": "best"},
        "safe": {"use": "decontaminate", "files": "exercises", "suites": ["icefloe"]},
        "tokens3": {"use": "tokenize", "files": "safe", "tokenizer": "vocab"},
        "batches3": packed | {"files": "tokens3", "budget": 3000},
        "phase3": train | {"data": "batches3", "start": "phase2"},
        "scores": {
            "use": "evaluate",
            "models": phases,
            "heldout": "corpus",
            "text_bytes": 2000,
            "middles": 8,
            "wrong": 1,
            "max_tokens": 8,
            "threads": 1,
        },
        "release": {
            "use": "export",
            "model": "phase3",
            "annotator": "annotator",
            "files": "tokens",
            "scores": "scores",
            "scored": "scored",
            "phases": phases,
        },
    }


def curation(source: Path | list[Any]) -> dict[str, Any]:
    """The curation steps of the snowcoder recipe over a folder, in many shards, ending in packed batches."""
    given = str(source) if isinstance(source, Path) else source
    return {
        "raw": {"use": "ingest", "source": given, "shard_bytes": "30k"},
        "private": {"use": "redact", "files": "raw"},
        "clean": {"use": "filter", "files": "private"},
        "unique": {"use": "dedup", "files": "clean"},
        "clear": {"use": "decontaminate", "files": "unique", "suites": ["icefloe"]},
        "corpus": {"use": "holdout", "files": "clear", "share": 0.15},
        "vocab": {"use": "tokenizer", "files": "corpus", "size": 400},
        "tokens": {"use": "tokenize", "files": "corpus", "tokenizer": "vocab"},
        "batches1": {
            "use": "pack",
            "files": "tokens",
            "group": ["language", "repo"],
            "length": 64,
            "infill": 0.5,
        },
    }
