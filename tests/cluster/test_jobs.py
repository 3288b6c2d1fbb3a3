"""Job submission against a real head node of its own: the code gets there, runs, and can be ended."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import jobs
from cluster.runs import artifact
from cluster.verify import problems
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.store import Store
from tests.corpus import repositories
from tests.head import head_node
from tests.running import curation, recipe_file


@pytest.fixture(scope="module")
def address(ray_local: None) -> Iterator[str]:
    """A head node of two cores with this process's token, which `ray_local` has made."""
    with head_node(cpus=2) as url:
        yield url


def run(code: str, address: str, follow: bool = True) -> str:
    return jobs.submit_command([sys.executable, "-c", code], address, follow)


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_has_the_repository_and_the_cluster(
    address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code = """
import os
from cluster.start import connect
connect()
import ray
@ray.remote
def where():
    import pipeline.core.schema
    return os.environ["RAY_USAGE_STATS_ENABLED"]
print("it's", ray.get(where.remote()), int(ray.cluster_resources()["CPU"]), os.path.exists("tests"))
"""
    job = run(code, address)
    log = capfd.readouterr().out
    assert "it's 0 2 False" in log
    assert jobs.status(job, address) == "SUCCEEDED"
    assert not jobs.stop(job, address)


@pytest.mark.ray
@pytest.mark.slow
def test_a_recipe_that_trains_in_two_processes_runs_as_a_job_and_verifies(
    address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = curation(repositories(tmp_path / "source", 4))
    steps["batches1"]["budget"] = 2000
    steps["phase1"] = {
        "use": "train",
        "data": "batches1",
        "tokenizer": "vocab",
        "model": "snowcoder-tiny",
        "heldout": "corpus",
        "heldout_bytes": 2000,
        "batch": 4,
        "schedule": {"warmup": 0.1, "peak": 1e-3, "shape": "linear", "end": 0.0},
        "threads": 1,
        "on": {"processes": 2},
    }
    recipe = recipe_file(tmp_path / "small.yaml", steps)
    job = jobs.submit([recipe, "--store", str(tmp_path / "store")], address, follow=True)
    said = capfd.readouterr().out
    assert "unique" in said
    assert "phase1     7 steps" in said
    assert jobs.status(job, address) == "SUCCEEDED"
    found, checked = problems(Store(str(tmp_path / "store")), "small")
    assert found == []
    assert checked["steps"] == 7
    phase = artifact(Store(str(tmp_path / "store")), "small", "phase1")
    assert (phase.facts["steps"], len(list(phase.folder.glob("checkpoints/*/model-*")))) == (7, 2)


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_can_be_stopped_and_may_fail(address: str) -> None:
    sleeper = run("import time; time.sleep(600)", address, follow=False)
    failing = run("raise SystemExit(3)", address)
    assert jobs.status(failing, address) == "FAILED"
    assert jobs.stop(sleeper, address)
    for _ in range(100):
        if jobs.status(sleeper, address) == "STOPPED":
            break
        time.sleep(0.2)
    assert jobs.status(sleeper, address) == "STOPPED"
    with pytest.raises(StageError, match="no job nothing"):
        jobs.status("nothing", address)


@pytest.mark.ray
@pytest.mark.slow
def test_a_wrong_token_is_told(address: str) -> None:
    code = f"from cluster import jobs; jobs.status('x', {address!r})"
    wrong = {**os.environ, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=wrong, capture_output=True, text=True, cwd=jobs.ROOT
    )
    assert "StageError" in done.stderr
    assert "RAY_AUTH_TOKEN" in done.stderr


def test_a_store_in_the_scratch_folder_is_refused() -> None:
    for store in ("store", "./store", "../store"):
        with pytest.raises(RecipeError, match="every node"):
            jobs.submit(["snowcoder", "--store", store], "http://127.0.0.1:9")


def test_no_dashboard_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match=r"no Ray dashboard answers at http://127\.0\.0\.1:9"):
        jobs.submit(["snowcoder", "--store", "/store"], "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(RecipeError, match="RAY_ADDRESS"):
        jobs.status("x", "http://127.0.0.1:9")
