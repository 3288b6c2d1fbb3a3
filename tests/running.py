"""Runs recipes in tests the way the command does, without Ray unless asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline.core import recipe, runner
from pipeline.core.store import Store

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

    resolved = recipe.load(name, (), overrides)
    where = Store(str(store))
    planned = runner.plan(resolved, where, until)
    runs.record(where, resolved, [], list(overrides))
    runtime = runner.Runtime(workers, connect, lambda job, processes: _launch(job, processes))
    return {
        p.step.name: m | {"made_now": now}
        for p, m, now in runner.run(resolved, where, planned, runtime)
    }


def _launch(job: Any, processes: int) -> Any:
    from cluster.train import launch

    return launch(job, processes)


def curation(source: Path | list[Any]) -> dict[str, Any]:
    """The curation steps of the snowcoder recipe over a folder, ending in packed batches."""
    return {
        "raw": {"use": "ingest", "source": str(source) if isinstance(source, Path) else source},
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
