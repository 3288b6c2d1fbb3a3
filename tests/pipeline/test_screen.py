"""Screening a step's files: every file accounted for, the same choice for any shards and workers, and
scores that are the annotator's own wherever it read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import annotate, screen
from pipeline.core.config import parse
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.files import Files, verdicts
from pipeline.core.runner import Artifact
from pipeline.core.store import Store
from pipeline.model.cascade import Screen
from tests.running import bare_job, stored, verdicts_of
from tests.tiny import TEXTS, tiny_annotator_folder

COUNT = 240
SETTINGS: dict[str, Any] = {
    "sample": 200,
    "share": 0.1,
    "recall": 0.5,
    "confidence": 0.5,
    "enough": 5,
    "bits": 12,
    "short": 20,
}


def rows() -> list[dict[str, Any]]:
    """Files made of a few lines each, in two languages and one file of a third."""
    rng = np.random.default_rng(0)
    lines = [line for text in TEXTS for line in text.splitlines()]
    texts = [
        "\n".join(rng.choice(lines, size=rng.integers(1, 12))) + f"\n# {k}" for k in range(COUNT)
    ]
    names = ["Ada" if k == 7 else ("Python", "C")[k % 2] for k in range(COUNT)]
    return [{"text": t, "language": n} for t, n in zip(texts, names, strict=True)]


def tokenized(store: Store, shards: int) -> Files:
    """The files with a `length`, as tokenize lays it."""
    job = bare_job(store, "tokenize", f"t{shards}")
    return job.layer(stored(rows(), store, shards), lengths, ["text"], kind="tokens")


def lengths(table: pa.Table) -> pa.Table:
    found = pa.array([len(text) // 3 + 1 for text in table["text"].to_pylist()])
    return verdicts(table["uid"], [None] * len(table), length=found)


def artifact(store: Store, stage: str, key: str, facts: dict[str, Any]) -> Artifact:
    """A made artifact, as far as the boxes look at one."""
    manifest = {"digest": f"{stage}-{key}", "facts": facts}
    store.create(json.dumps(manifest).encode(), stage, key, "manifest.json")
    return Artifact(store, stage, key)


def annotator_of(store: Store, key: str = "a", seed: int = 0) -> Artifact:
    tiny_annotator_folder(store.folder("annotator", key), seed=seed)
    return artifact(store, "annotator", key, {})


def screened(store: Store, files: Files, judge: Artifact, key: str = "k", **more: Any) -> Artifact:
    job = bare_job(store, "screen", key)
    screen.run(files, judge, screen.Config(**{**SETTINGS, **more}), job)
    return artifact(store, "screen", key, job.facts)


def annotated(
    store: Store, files: Files, judge: Artifact, by: Artifact | None
) -> tuple[dict, dict]:
    """(uid -> the row of the layer, the step's facts)."""
    job = bare_job(store, "annotate", f"{len(files.shards)}-{by.key if by else 'all'}")
    job.identity = {"annotator": judge.key, "screen": by and by.key}
    annotate.run(files, judge, annotate.Config(), job, by)
    return verdicts_of(job), job.facts


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Files, Artifact, Artifact]:
    store = Store(str(tmp_path_factory.mktemp("store")))
    files, judge = tokenized(store, 3), annotator_of(store)
    return store, files, judge, screened(store, files, judge)


def test_skipped_files_are_kept_without_a_score(
    whole: tuple[Store, Files, Artifact, Artifact],
) -> None:
    store, files, judge, by = whole
    everything, none = annotated(store, files, judge, None)
    found, facts = annotated(store, files, judge, by)
    assert set(found) == set(everything)
    assert all(row["keep"] for row in found.values())
    skipped = {uid for uid, row in found.items() if row["quality"] is None}
    assert facts == {"scored": COUNT - len(skipped), "skipped": len(skipped)}
    assert none == {}
    assert 0 < len(skipped) < COUNT
    for uid, row in found.items():
        assert 0 <= row["screen"] <= 1
        if uid in skipped:
            assert row["windows"] is None
        else:
            assert row["quality"] == pytest.approx(everything[uid]["quality"], abs=1e-6)


def test_the_facts_hold_the_curve_and_what_is_promised(
    whole: tuple[Store, Files, Artifact, Artifact],
) -> None:
    _, _, judge, by = whole
    facts = by.facts
    assert facts["annotator"] == judge.digest
    assert facts["column"] == "quality"
    assert facts["files"] == COUNT
    assert 150 <= facts["sample"] <= COUNT
    assert 0 < facts["missed"] <= 0.5 * facts["best"]
    assert facts["recall_promised"] <= 1 - facts["missed"] / facts["best"]
    assert [row["recall"] for row in facts["curve"]] == [0.8, 0.9, 0.95, 0.98, 0.99, 1.0]


@pytest.mark.parametrize("shards", [1, 8])
def test_any_cut_into_shards_gives_the_same_screen(
    whole: tuple[Store, Files, Artifact, Artifact], tmp_path: Path, shards: int
) -> None:
    _, _, _, by = whole
    store = Store(str(tmp_path))
    again = screened(store, tokenized(store, shards), annotator_of(store))
    old, new = Screen.load(by.folder), Screen.load(again.folder)
    np.testing.assert_allclose(new.weights, old.weights, atol=1e-4)
    assert new.floors == pytest.approx(old.floors, abs=1e-4)
    assert again.facts["sample"] == by.facts["sample"]


def test_a_screen_of_another_annotator_is_refused(
    whole: tuple[Store, Files, Artifact, Artifact],
) -> None:
    store, files, _, by = whole
    other = annotator_of(store, "b", seed=1)
    with pytest.raises(StageError, match="another annotator's scores"):
        annotated(store, files, other, by)


def test_files_without_tokens_are_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(StageError, match="'length'"):
        screened(store, stored(rows()[:5], store), annotator_of(store))


def test_a_corpus_of_nothing_says_so(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    job = bare_job(store, "tokenize")
    files = job.layer(stored(rows()[:1], store), lengths, ["text"], kind="tokens")
    with pytest.raises(StageError, match="1 files in the sample"):
        screened(store, files, annotator_of(store))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sample": 5}, "sample is 5: 100 to"),
        ({"recall": 1.0}, "recall is 1.0: above 0 and below 1"),
        ({"share": "0%"}, "share is 0.0"),
        ({"bits": 40}, "bits is 40: 8 to 26"),
        ({"penalty": 0}, "penalty is 0"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"samples": 5}, "did you mean 'sample'"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(screen.Config, settings, "screen")
