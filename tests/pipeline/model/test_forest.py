"""Our walk down the trees is scikit-learn's prediction; a forest is the same every time, separates
what can be separated, and says what it lacks.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from pipeline.core.errors import StageError
from pipeline.model.forest import (
    Forest,
    arrays,
    fitted,
    grown,
    measured,
    predict,
    train_forest,
)
from pipeline.model.separation import wilson
from pipeline.model.settings import ForestConfig
from tests.corpus import bare, documented
from tests.tiny import tiny_annotator_folder, tiny_model_folder


def planted(seed: int, files: int = 300, width: int = 12) -> tuple[Any, Any]:
    """Vectors, and labels 0..5 that two of their numbers decide, with noise."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(files, width)).astype(np.float32)
    wanted = 2.5 + 1.5 * vectors[:, 0] - vectors[:, 3] + rng.normal(scale=0.5, size=files)
    return vectors, np.clip(np.round(wanted), 0, 5)


@pytest.mark.parametrize("target", ["class", "label"])
@pytest.mark.parametrize("depth", [None, 1, 4])
@pytest.mark.parametrize("leaf", [1, 7])
def test_predictions_are_scikit_learns(target: Any, depth: int | None, leaf: int) -> None:
    cfg = ForestConfig(target=target, depth=depth, leaf=leaf, trees=30, threads=1)
    vectors, labels = planted(1)
    theirs = fitted(vectors, labels, cfg)
    new = np.concatenate([vectors, planted(2, 3000)[0], np.full((1, 12), 1e30, np.float32)])
    new[0] = theirs.estimators_[0].tree_.threshold[0]  # exactly at a threshold
    wanted = theirs.predict(new) if target == "label" else theirs.predict_proba(new)[:, 1]
    np.testing.assert_array_equal(predict(arrays(theirs), new), wanted)


def test_trees_that_ask_nothing() -> None:
    vectors, labels = planted(1, 12)
    trees = grown(vectors, labels, ForestConfig(leaf=12, trees=3))
    assert (trees.depth, len(trees.value)) == (0, 3)
    assert len(set(predict(trees, vectors))) == 1
    assert predict(trees, vectors[:0]).shape == (0,)


def test_the_same_trees_for_any_number_of_threads() -> None:
    vectors, labels = planted(3)
    a, b = (grown(vectors, labels, ForestConfig(threads=n, trees=20)) for n in (1, 2))
    for name in ("left", "right", "feature", "threshold", "value", "roots"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_measured_by_language() -> None:
    scores, labels = np.array([0.9, 0.2, 0.8, 0.6]), np.array([5.0, 1.0, 4.0, 0.0])
    told = measured(scores, labels, np.array(["C", "C", "Go", "Go"]), ForestConfig())
    assert (told["auc"], told["accuracy"], told["held_out"]) == (1.0, 0.75, [2, 2])
    assert told["languages"]["C"]["accuracy"] == 1
    one = measured(scores[:1], labels[:1], np.array(["C"]), ForestConfig())
    assert (one["auc"], one["auc_interval"]) == (None, None)


def test_wilson() -> None:
    low, high = wilson(81, 263)
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert wilson(5, 5)[1] == 1
    assert wilson(0, 5)[0] == 0


def corpus(repos: int = 8, seed: int = 0) -> dict[str, list[Any]]:
    """Documented files labelled 4, bare ones 1, in repositories of both."""
    rows = []
    for repo in range(repos):
        rng = random.Random(f"{seed} {repo}")
        rows += [(documented(rng), 4.0, f"r{repo}", "Python") for _ in range(6)]
        rows += [(bare(rng), 1.0, f"r{repo}", "Python") for _ in range(6)]
    return dict(
        zip(
            ("texts", "labels", "groups", "languages"),
            map(list, zip(*rows, strict=True)),
            strict=True,
        )
    )


SMALL = ForestConfig(trees=20, window=64, leaf=2, held_out=0.25, threads=1)


@pytest.mark.parametrize("folder", [tiny_model_folder, tiny_annotator_folder])
def test_a_forest_separates_planted_files(tmp_path: Path, folder: Any) -> None:
    cfg = (
        SMALL
        if folder is tiny_model_folder
        else ForestConfig(trees=20, leaf=2, held_out=0.25, threads=1)
    )
    source = folder(tmp_path / "source")
    report = train_forest(**corpus(), source=str(source), cfg=cfg, folder=tmp_path / "judge")
    assert report["auc"] > 0.95
    assert report["auc_interval"][0] <= report["auc"] <= report["auc_interval"][1]
    assert report["accuracy_interval"][0] <= report["accuracy"] <= report["accuracy_interval"][1]
    assert (report["train"], report["held_out"]) == ([36, 36], [12, 12])
    judge = Forest(tmp_path / "judge", threads=2)
    assert judge.column == "education"
    unseen = corpus(3, seed=9)
    scores = np.array([s.score for s in judge.score(unseen["texts"])])
    good = np.array(unseen["labels"]) > 3
    assert scores[good].mean() > scores[~good].mean() + 0.5
    card = json.loads((tmp_path / "judge" / "annotator.json").read_text())
    assert (card["kind"], card["column"], card["auc"]["auc"]) == (
        "forest",
        "education",
        report["auc"],
    )


def test_a_forest_of_labels_scores_on_their_scale(tmp_path: Path) -> None:
    source = tiny_model_folder(tmp_path / "source")
    cfg = ForestConfig(**{**SMALL.__dict__, "target": "label"})
    report = train_forest(**corpus(), source=str(source), cfg=cfg, folder=tmp_path / "judge")
    assert report["error"] < 1
    scores = [s.score for s in Forest(tmp_path / "judge").score(corpus(2, seed=5)["texts"])]
    assert 1 <= min(scores) < 2 < 3 < max(scores) <= 4


def test_the_same_bytes_and_no_pickle(tmp_path: Path) -> None:
    source = tiny_model_folder(tmp_path / "source")
    for name in ("a", "b"):
        train_forest(**corpus(), source=str(source), cfg=SMALL, folder=tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert {Path(f).suffix for f in files} == {".json", ".safetensors"}
    assert [(tmp_path / "a" / f).read_bytes() for f in files] == [
        (tmp_path / "b" / f).read_bytes() for f in files
    ]
    with safe_open(tmp_path / "a" / "forest.safetensors", "np") as f:
        assert set(f.keys()) == {"left", "right", "feature", "threshold", "value", "roots"}


def test_a_score_does_not_depend_on_the_others(tmp_path: Path) -> None:
    source = tiny_model_folder(tmp_path / "source")
    train_forest(**corpus(), source=str(source), cfg=SMALL, folder=tmp_path / "judge")
    judge, texts = Forest(tmp_path / "judge"), corpus(2, seed=4)["texts"]
    together = [s.score for s in judge.score(texts)]
    assert together == pytest.approx([judge.score([t])[0].score for t in texts], abs=0.06)
    assert judge.score([]) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"labels": [4.0] * 96}, "96 labels are 3 or more, 0 less; set `good`"),
        ({"groups": ["one"] * 96}, "one repository, 'one'"),
        (
            {"labels": [4.0] * 12 + [1.0] * 84, "groups": ["a"] * 12 + ["b"] * 84},
            "in different repositories",
        ),
    ],
)
def test_bad_labels(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    given = corpus() | change
    with pytest.raises(StageError, match=told):
        train_forest(**given, source="nowhere", cfg=SMALL, folder=tmp_path / "judge")


def test_an_encoder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="name another encoder"):
        train_forest(**corpus(), source=str(tmp_path / "no"), cfg=SMALL, folder=tmp_path / "judge")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"trees": 0}, "trees is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"window": 4}, "window is 4"),
        ({"held_out": 0}, "held_out is 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ForestConfig(**settings)


def test_a_folder_that_is_no_forest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no forest"):
        Forest(tmp_path)
