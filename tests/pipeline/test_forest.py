"""The forest's box: labels find their documents, a step's model reads them, what lacks is told."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.verify import problems
from pipeline import export, forest
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.files import Files
from pipeline.core.job import Job
from pipeline.core.runner import Artifact
from pipeline.core.store import Store, parquet_bytes
from tests.corpus import bare, documented, repositories
from tests.judge import completion, judge
from tests.running import bare_job, recipe_file, run, stored
from tests.tiny import tiny_model_folder

SMALL: dict[str, Any] = {"trees": 15, "leaf": 2, "window": 64, "held_out": 0.25, "threads": 1}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def documents(store: Store, shards: int = 2) -> Files:
    rows = [
        {
            "text": make(random.Random(f"{repo} {n}")),
            "repo": f"r{repo}",
            "path": f"{make.__name__}{n}.py",
        }
        for repo in range(6)
        for n in range(5)
        for make in (documented, bare)
    ]
    return stored(rows, store, shards)


def labels(files: Files, more: int = 0) -> Artifact:
    """What `label` leaves: documented files 5, bare ones 0, and `more` of documents not there."""
    rows = [r for s in files.shards for r in files.read(s, ["path"]).to_pylist()]
    uids = [r["uid"] for r in rows] + [f"{n:032x}" for n in range(more)]
    values = [5.0 if r["path"].startswith("documented") else 0.0 for r in rows] + [1.0] * more
    made = Artifact(files.store, "label", "l")
    folder = files.store.folder("label", "l")
    table = pa.table({"uid": uids, "label": pa.array(values, pa.float64())})
    (folder / "labels.parquet").write_bytes(parquet_bytes(table))
    return made


def test_a_forest_on_a_steps_model(store: Store) -> None:
    files = documents(store)
    phase = Artifact(store, "train", "p")
    tiny_model_folder(store.folder("train", "p") / "model")
    job = bare_job(store, "forest")
    forest.run(files, labels(files, 3), forest.Config(**SMALL), job, phase)
    assert job.facts["auc"] > 0.9
    assert (job.facts["labels"], job.facts["elsewhere"]) == (63, 3)
    assert (job.folder / "annotator.json").is_file()
    card = export.model_card(export.Config(), {}, {}, made(store, job))
    assert f"ROC-AUC {job.facts['auc']:.3f} on held-out repositories" in card


def made(store: Store, job: Job) -> Artifact:
    """The step of `job` as a later one gets it."""
    store.create(json.dumps({"facts": job.facts}).encode(), "forest", "k", "manifest.json")
    return Artifact(store, "forest", "k")


def test_from_documents_to_a_judge_in_one_recipe(tmp_path: Path) -> None:
    source = tiny_model_folder(tmp_path / "encoder")
    with judge(lambda text, nth: completion("5" if '"""Return' in text else "1")) as model:
        steps = {
            "raw": {"use": "ingest", "source": str(repositories(tmp_path / "source", 5))},
            "labels": {"use": "label", "files": "raw", "endpoint": model.url, "model": "judge-1"},
            "judge": {"use": "forest", "files": "raw", "labels": "labels", "encoder": str(source)}
            | SMALL,
        }
        config = recipe_file(tmp_path / "phi.yaml", steps)
        made = run(config, tmp_path / "store")
        again = run(config, tmp_path / "store", "labels.seed=1")
        assert set(model.asked.values()) == {1}
    assert made["judge"]["facts"]["auc"] > 0.9
    assert made["judge"]["facts"]["elsewhere"] == 0
    assert [m["made_now"] for m in again.values()] == [False, True, True]
    assert again["labels"]["digest"] == made["labels"]["digest"]
    assert problems(Store(str(tmp_path / "store")), "phi")[0] == []


def test_shards_do_not_matter(tmp_path: Path) -> None:
    made = []
    for shards in (1, 3):
        store = Store(str(tmp_path / f"store{shards}"))
        files, job = documents(store, shards), bare_job(store, "forest")
        source = tiny_model_folder(tmp_path / f"source{shards}")
        forest.run(files, labels(files), forest.Config(**SMALL, encoder=str(source)), job)
        made.append((job.folder / "forest.safetensors").read_bytes())
    assert made[0] == made[1]


def test_a_gate(store: Store, tmp_path: Path) -> None:
    files, source = documents(store), tiny_model_folder(tmp_path / "source")
    table = pa.table({"uid": [], "label": []})
    given = labels(files)
    noisy = pa.table({"uid": uids(files), "label": [float(n % 2 * 5) for n in range(60)]})
    (given.folder / "labels.parquet").write_bytes(parquet_bytes(noisy))
    cfg = forest.Config(**SMALL, encoder=str(source), min_auc=0.95)
    with pytest.raises(StageError, match=r"is below min_auc 0.95"):
        forest.run(files, given, cfg, bare_job(store, "forest"))
    (given.folder / "labels.parquet").write_bytes(parquet_bytes(table))
    with pytest.raises(StageError, match="none of the 0 labels"):
        forest.run(files, given, cfg, bare_job(store, "forest"))


def uids(files: Files) -> list[str]:
    return sorted(u for s in files.shards for u in files.read(s, [])["uid"].to_pylist())


def test_one_reader_exactly() -> None:
    for cfg, inputs in ((forest.Config(), {}), (forest.Config(encoder="x"), {"model": "phase1"})):
        with pytest.raises(RecipeError, match=r"step judge: name one of `encoder`"):
            forest.check(cfg, inputs, "step judge")
    forest.check(forest.Config(encoder="x"), {}, "step judge")
    forest.check(forest.Config(), {"model": "phase1"}, "step judge")


def test_a_changed_encoder_folder_is_another_key(tmp_path: Path) -> None:
    source = tiny_model_folder(tmp_path / "source")
    cfg = forest.Config(encoder=str(source))
    before = forest.fingerprint(cfg)
    assert before == forest.fingerprint(cfg)
    (source / "config.json").write_text((source / "config.json").read_text() + "\n")
    assert forest.fingerprint(cfg) != before
    assert forest.fingerprint(forest.Config(encoder="name/of-the-hub")) == ""
