"""A phase measures itself on held-out files, leaves what it should, and refuses bad input unstarted.

The recipe is real, with the smallest models; nothing that must be refused gets as far as `launch`.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster import runs
from pipeline import train
from pipeline.core import recipe, runner
from pipeline.core.errors import IcefloeError
from pipeline.core.store import Store
from tests.corpus import repositories
from tests.running import Manifests, curation, recipe_file, run
from tests.tiny import tiny_model_folder

SCHEDULE = {"warmup": 0.1, "peak": 1e-3, "shape": "linear", "end": 0.0}
PHASE: dict[str, Any] = {
    "use": "train",
    "data": "batches1",
    "tokenizer": "vocab",
    "model": "snowcoder-tiny",
    "batch": 4,
    "threads": 1,
}


def steps(source: Path) -> dict[str, Any]:
    """The curation with a second tokenizer, and two phases of 7 steps."""
    measured = {"heldout": "corpus", "heldout_every": 3, "heldout_bytes": 3000}
    kept = {"checkpoint_every": 3, "keep": "all", "log_to": ["tensorboard"]}
    found = curation(source)
    found["batches1"]["budget"] = 2000
    return found | {
        "other": {"use": "tokenizer", "files": "corpus", "size": 300},
        "phase1": PHASE | measured | kept | {"schedule": dict(SCHEDULE)},
        "phase2": PHASE | {"start": "phase1", "schedule": dict(SCHEDULE)},
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Store, Manifests]:
    """(recipe, store, manifests) of one run."""
    folder = tmp_path_factory.mktemp("train")
    path = recipe_file(folder / "small.yaml", steps(repositories(folder / "source", 4)))
    return path, Store(str(folder / "store")), run(path, folder / "store")


def test_a_phase_is_measured_on_the_files_held_out(made: tuple[str, Store, Manifests]) -> None:
    _, store, manifests = made
    phase = runs.artifact(store, "small", "phase1")
    lines = list(map(json.loads, store.read("train", phase.key, "metrics.jsonl").splitlines()))
    assert [x["step"] for x in lines if "heldout" in x] == [2, 5, 6]
    held = manifests["phase1"]["facts"]["heldout"]
    corpus = runs.artifact(store, "small", "corpus").files
    tables = [corpus.read(s, ["language"], side="heldout") for s in corpus.shards]
    assert set(held) == {n for t in tables for n in t["language"].to_pylist()}
    assert {name: value for name, value in held.items() if not 2 < value < 12} == {}
    assert "heldout" not in manifests["phase2"]["facts"]


def test_a_phase_leaves_its_checkpoints_and_logs(made: tuple[str, Store, Manifests]) -> None:
    _, store, manifests = made
    phase = runs.artifact(store, "small", "phase1")
    rows = json.loads((phase.folder / "checkpoints.json").read_text())
    assert [(r["phase"], r["step"]) for r in rows] == [("phase1", n) for n in (3, 6, 7)]
    assert all((phase.folder / r["path"] / "state.json").exists() for r in rows)
    assert any("logs/tensorboard/" in name for name in manifests["phase1"]["files"])
    assert manifests["phase2"]["facts"]["tokens_seen"] == 2 * manifests["phase1"]["facts"]["tokens"]


def test_where_a_phase_logs_to_is_not_its_identity(made: tuple[str, Store, Manifests]) -> None:
    path, store, _ = made
    planned = runner.plan(
        recipe.load(path, (), ["phase1.log_to=[]", "phase2.log_to=[wandb]"]), store
    )
    assert {p.step.name: p.why for p in planned if not p.made} == {}


def never(*_: Any) -> Any:
    raise AssertionError("it was computed")


def refused(made: tuple[str, Store, Manifests], match: str, *overrides: str) -> None:
    path, store, _ = made
    resolved = recipe.load(path, (), overrides)
    runtime = runner.Runtime(0, lambda: None, never)
    with pytest.raises(IcefloeError, match=match):
        list(runner.run(resolved, store, runner.plan(resolved, store), runtime))


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["phase1.tokenizer=other"], r"phase1: the data was tokenized with another tokenizer"),
        (["phase2.model=phi1-tinny"], r"no architecture or folder .* mean 'phi1-tiny'"),
        (["phase2.model=phi1-tiny"], r"phase2: model is phi1-tiny, but it starts from a snowcoder"),
        (["phase1.heldout=clear"], r"phase1: nothing was held out of `heldout`"),
        (["batches1.epochs=1", "batches1.budget=1B"], r"the budget needs 1,000,000,000 tokens"),
        (["phase2.schedule={peak: inherit, end: 1}"], r"end is 1.0, above the inherited peak"),
        (["phase1.schedule.peak=inherit"], r"peak is inherit, but there is no phase before"),
        (["phase1.schedule.warmup=50"], r"warmup is 50, but the phase has 7 steps"),
        (["phase1.batch=100"], r"batch is 100, more sequences than were packed \(31\)"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_computed(
    made: tuple[str, Store, Manifests], overrides: list[str], match: str
) -> None:
    refused(made, match, *overrides)


def small(folder: Path) -> None:
    tiny_model_folder(folder, context=32)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (small, r"vocab_size is 320, but the tokenizer has 400 ids"),
        (lambda folder: folder.mkdir(), r"no config.json"),
    ],
)
def test_a_users_folder_that_does_not_fit_is_refused(
    made: tuple[str, Store, Manifests],
    make: Callable[[Path], None],
    match: str,
    tmp_path: Path,
) -> None:
    make(tmp_path / "mine")
    refused(made, match, f"phase1.model={tmp_path / 'mine'}")


def test_a_users_folder_is_part_of_the_identity(tmp_path: Path) -> None:
    cfg = train.Config(model=str(tiny_model_folder(tmp_path / "mine")))
    before = train.fingerprint(cfg)
    (tmp_path / "mine" / "config.json").write_text("{}")
    assert train.fingerprint(cfg) != before
    assert train.fingerprint(train.Config()) == ""


def test_a_phase_before_that_is_damaged_is_refused(
    made: tuple[str, Store, Manifests], tmp_path: Path
) -> None:
    path, store, _ = made
    copy = Store(str(shutil.copytree(store.uri, tmp_path / "store")))
    weights = runs.artifact(copy, "small", "phase1").folder / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    refused((path, copy, {}), r"cut off; copy it again", "phase2.seed=1")


def test_held_out_texts_are_few_and_the_same_ones() -> None:
    table = pa.table(
        {
            "row": range(60),
            "uid": [f"{i:032x}" for i in range(60)],
            "text": pa.array(["x" * (10 + i) for i in range(60)], pa.large_string()),
            "language": ["Python", "C", None] * 20,
        }
    )
    whole = train.few(table, 100, seed=0)
    parts = [train.few(table.slice(i, 20), 100, seed=0) for i in (0, 20, 40)]
    assert train.few(pa.concat_tables(parts), 100, seed=0).equals(whole)
    assert set(whole["language"].to_pylist()) == {"Python", "C", "other"}
    sizes = [len(r["text"]) for r in whole.to_pylist() if r["language"] == "C"]
    assert 0 < sum(sizes) <= 100
    assert len(train.few(table, 5, seed=0)) == 3  # one a language, cut
