"""The whole recipe, smallest settings, real parts: what comes out, and that it can be traced."""

import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cluster import runs
from cluster.explain import stories
from cluster.verify import problems
from pipeline.core.errors import RecipeError
from pipeline.core.store import Store
from tests.corpus import repositories
from tests.running import Manifests, recipe_file, run, whole

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Manifests]:
    """One run of everything: (store, manifests)."""
    folder = tmp_path_factory.mktemp("whole")
    source = repositories(folder / "source", 8)
    manifests = run(recipe_file(folder / "whole.yaml", whole(source)), folder / "store")
    return Store(str(folder / "store")), manifests


def test_every_step_is_made_verified_and_listed(made: tuple[Store, Manifests]) -> None:
    store, manifests = made
    assert problems(store, "whole")[0] == []
    listed = runs.steps(store, "whole")
    assert [e["step"] for e in listed] == list(manifests)
    assert {"step", "stage", "key", "path", "seconds", "bytes"} <= listed[0].keys()
    for entry in listed:
        if rows := entry.get("rows"):
            assert (
                rows["in"] == rows["kept"] + sum(rows["dropped"].values()) + rows["quarantined"]
            ), entry["step"]


def test_the_results_have_every_measure_for_every_phase(made: tuple[Store, Manifests]) -> None:
    models = made[1]["scores"]["facts"]["models"]
    assert list(models) == ["alpha", "beta", "final"]
    for found in models.values():
        assert set(found["bits_per_byte"]) == {"ordinary", "quality", "exercises"}
        assert found["middle"]["middles"] > 0
        assert 0 <= found["ranking"]["accuracy"] <= 1
        assert found["pass_at_1"]["tasks"] == 32


def test_the_release_loads_without_our_code(made: tuple[Store, Manifests]) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    folder = runs.artifact(made[0], "whole", "release").folder
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    ids = tokenizer("def f(x):\n    return x\n", return_tensors="pt")["input_ids"]
    assert model(ids).logits.shape[:2] == ids.shape
    assert tokenizer.decode(ids[0]) == "def f(x):\n    return x\n"
    assert AutoModelForSequenceClassification.from_pretrained(folder / "annotator").num_labels == 2
    scores = json.loads((folder / "annotator" / "scores.json").read_text())
    assert scores["all"]["documents"] == made[1]["scored"]["rows"]["kept"]
    card = json.loads((folder / "model/icefloe.json").read_text())
    assert (card["phase"], card["infill"]) == ("phase3", True)
    assert (folder / "checkpoints.csv").read_text().count("\n") == 1 + 3 * 2


def test_best_documents_are_trained_on_four_times(made: tuple[Store, Manifests]) -> None:
    store, manifests = made
    assert manifests["batches2"]["facts"]["epochs"] == 4
    index = pq.read_table(runs.artifact(store, "whole", "batches2").folder / "index.parquet")
    assert set(index["epoch"].to_pylist()) <= {0, 1, 2, 3}


def test_a_trained_document_is_explained_down_to_its_batches(made: tuple[Store, Manifests]) -> None:
    store, manifests = made
    index = pq.read_table(runs.artifact(store, "whole", "batches1").folder / "index.parquet")
    batch = manifests["phase1"]["identity"]["settings"]["batch"]
    uid = index["uid"][0].as_py()
    (story,) = stories(store, "whole", uid)
    steps = [v["step"] for v in story["steps"]]
    assert steps[:4] == ["private", "clean", "clean", "unique"]
    scored = next(v for v in story["steps"] if v["step"] == "scored")
    assert scored["quality"] == pytest.approx(np.mean(scored["windows"]), abs=1e-5)
    (phase,) = [t for t in story["trained"] if t["phase"] == "phase1"]
    mine = index.filter(pc.equal(index["uid"], uid))["sequence"].to_pylist()
    seen = manifests["phase1"]["facts"]["steps"] * batch
    assert phase["batches"] == sorted({s // batch for s in mine if s < seen})


def test_a_dropped_document_names_its_keeper_and_a_left_out_one_its_reason(
    made: tuple[Store, Manifests],
) -> None:
    store = made[0]
    told = stories(store, "whole", "common.py")
    dropped = [s for s in told if s["steps"][-1]["keep"] is False]
    assert dropped[0]["steps"][-1]["kept_instead"].endswith("common.py")
    assert not dropped[0]["trained"]
    assert stories(store, "whole", "data.bin")[0]["rule"] == "not_source"
    with pytest.raises(RecipeError, match="no document of run whole"):
        stories(store, "whole", "nowhere.py")


def test_the_same_recipe_gives_the_same_bytes_elsewhere(
    made: tuple[Store, Manifests], tmp_path: Path
) -> None:
    """Down to the weights: same CPU, same thread count."""
    source = repositories(tmp_path / "source", 8)
    again = run(recipe_file(tmp_path / "whole.yaml", whole(source)), tmp_path / "store")
    first = {n: m["digest"] for n, m in made[1].items() if n not in ("scores",)}
    assert {n: m["digest"] for n, m in again.items() if n not in ("scores",)} == first
