"""`make demo`'s own command in an empty folder: it ends well, twice, and keeps its promises."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster import runs
from cluster.verify import problems
from pipeline.core.store import Store

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo has run twice."""
    made = tmp_path_factory.mktemp("demo")
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        subprocess.run([sys.executable, "-m", "cluster.demo"], cwd=made, env=here, check=True)
    return made


def test_the_run_verifies_and_phases_are_long_enough_to_see(folder: Path) -> None:
    store = Store(str(folder / "store"))
    assert problems(store, "snowcoder")[0] == []
    for phase in ("phase1", "phase2", "phase3"):
        assert runs.artifact(store, "snowcoder", phase).facts["steps"] >= 200


def test_text_is_written_once_and_layers_are_small(folder: Path) -> None:
    store = folder / "store"
    layers = [
        p
        for p in store.rglob("*.parquet")
        if p.relative_to(store).parts[0] not in ("ingest", "synthesise", "tokenize")
    ]
    assert all("text" not in pq.read_schema(p).names for p in layers)
    corpus = runs.artifact(Store(str(store)), "snowcoder", "raw").facts["text_bytes"]
    assert sum(p.stat().st_size for p in layers) < 0.15 * corpus
