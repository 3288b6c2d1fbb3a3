"""Measures of separation: the split, the AUC and its interval, languages, matching, calibration."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import StageError
from pipeline.model.separation import (
    FEW,
    Judged,
    auc,
    by_language,
    calibration,
    histogram,
    matched,
    measured,
    roc,
    split,
)
from pipeline.model.settings import EncoderConfig


def test_the_split_keeps_repositories_whole_and_both_classes_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    for seed in range(30):
        groups = [f"r{g}" for g in rng.zipf(1.5, size=200).clip(max=40)]
        labels = (rng.random(200) < 0.3).astype(int).tolist()
        held = split(labels, groups, EncoderConfig(seed=seed))
        sides = [set(np.array(groups)[held == side]) for side in (False, True)]
        assert not sides[0] & sides[1]
        for side in (held, ~held):
            assert set(np.array(labels)[side]) == {0, 1}


def test_the_split_takes_a_tenth_of_each_class_where_repositories_are_small() -> None:
    labels = [0] * 300 + [1] * 100
    groups = [f"r{k // 2}" for k in range(400)]
    held = split(labels, groups, EncoderConfig())
    assert np.bincount(np.array(labels)[held]).tolist() == [30, 10]
    # The order of the files does not matter, only their repositories.
    turned = split(labels[::-1], groups[::-1], EncoderConfig())
    assert turned[::-1].tolist() == held.tolist()


@pytest.mark.parametrize(
    ("labels", "groups", "says"),
    [
        ([0, 0, 0, 1, 1], list("abcdd"), r"good files \(label 1\).*there are 2 in 1 repositories"),
        ([1, 1, 1], list("abc"), r"corpus files \(label 0\).*there are 0 in 0"),
        ([0, 1, 0, 1], list("aaaa"), "corpus files"),
    ],
)
def test_what_cannot_be_split_is_named(labels: list[int], groups: list[str], says: str) -> None:
    with pytest.raises(StageError, match=says):
        split(labels, groups, EncoderConfig())


def test_labels_other_than_0_and_1_are_refused() -> None:
    with pytest.raises(ValueError, match="labels of"):
        split([0, 1, 2], list("abc"), EncoderConfig())


def test_auc_counts_pairs_and_halves_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = np.array([0, 1, *rng.integers(0, 2, size=30)])
        scores = rng.integers(0, 8, size=32) / 8
        good, rest = scores[labels == 1], scores[labels == 0]
        pairs = np.sign(good[:, None] - rest[None, :]) / 2 + 0.5
        area, (low, high) = auc(scores, labels)
        assert area == pytest.approx(pairs.mean())
        by_good, by_rest = pairs.mean(1), pairs.mean(0)
        if min(len(good), len(rest)) > 1 and 0 < area < 1:
            half = 1.96 * np.sqrt(by_good.var(ddof=1) / len(good) + by_rest.var(ddof=1) / len(rest))
            assert (low, high) == pytest.approx((max(0, area - half), min(1, area + half)))


def test_a_perfect_auc_still_has_an_interval() -> None:
    area, (low, high) = auc(np.array([0.1, 0.2, 0.3, 0.8, 0.9]), np.array([0, 0, 0, 1, 1]))
    assert (area, low, high) == (1, 0, 1)
    area, (low, high) = auc(np.arange(60.0), np.arange(60) // 30)
    assert (area, round(low, 3), high) == (1, 0.9, 1)


def judged(n: int = 400, seed: int = 0, **given: object) -> Judged:
    """Good files, a third of them, score and weigh more; Python and C, a few of Ruby."""
    rng = np.random.default_rng(seed)
    good = np.arange(n) % 3 == 0
    values = {
        "scores": np.clip(rng.normal(0.4 + 0.2 * good, 0.2), 0, 1),
        "good": good,
        "languages": ["Ruby" if k < 3 else ("Python", "C")[k % 2] for k in range(n)],
        "sizes": np.round(2 ** rng.normal(10 + 2 * good, 1.5, n)),
        "comments": np.clip(rng.normal(0.1 + 0.2 * good, 0.1), 0, 1),
    }
    return Judged(**values | given)  # type: ignore[arg-type]


def test_a_language_with_few_files_is_told_under_others() -> None:
    files = judged()
    rows = by_language(files)
    assert [r["name"] for r in rows] == ["C", "Python", "others"]
    assert sum(r["good"] + r["corpus"] for r in rows) == 400
    assert (rows[2]["good"], rows[2]["corpus"], rows[2]["auc"]) == (1, 2, None)
    python = np.array(files.languages) == "Python"
    assert rows[1]["auc"] == auc(files.scores[python], files.good[python].astype(int))[0]


def test_languages_of_one_class_alone_are_others() -> None:
    files = judged(languages=["Python" if k % 3 == 0 else "C" for k in range(400)])
    assert [(r["name"], r["auc"] is None) for r in by_language(files)] == [("others", False)]


def test_matched_files_do_not_differ_in_size_or_comments() -> None:
    """Where size alone made the scores, nothing is left of them after matching."""
    files = judged(3000)
    by_size = judged(3000, scores=np.log2(np.maximum(files.sizes, 1)) / 20)
    told = measured(by_size)
    assert told["alone"]["size"] == told["auc"] > 0.75
    assert told["matched"]["pairs"] > 100
    assert abs(told["matched"]["auc"] - 0.5) < 0.06
    assert abs(told["matched"]["alone"]["comments"] - 0.5) < 0.06


def test_matching_is_one_to_one_within_a_language() -> None:
    files = Judged(
        np.array([0.9, 0.8, 0.1, 0.2, 0.3]),
        np.array([True, True, False, False, False]),
        ["C", "C", "C", "Python", "C"],
        np.array([100.0, 100, 100, 100, 1000]),
        np.zeros(5),
    )
    assert matched(files)["pairs"] == 1


def test_no_pair_is_told_as_none() -> None:
    files = judged(languages=["Python" if k % 3 == 0 else "C" for k in range(400)])
    told = matched(files)
    assert (told["pairs"], told["auc"], told["good"]) == (0, None, 0)


def test_calibration_of_probabilities_that_are_true_has_no_error() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(40_000)
    told = calibration(scores, rng.random(40_000) < scores)
    assert told["error"] < 0.01
    assert sum(b["files"] for b in told["bins"]) == 40_000
    assert all(abs(b["score"] - b["good"]) < 0.03 for b in told["bins"])


def test_calibration_weighs_the_classes_alike() -> None:
    good = np.array([True] * 10 + [False] * 1000)
    told = calibration(np.full(1010, 0.5), good)
    assert told["bins"] == [
        {"files": 1010, "score": pytest.approx(0.5), "good": pytest.approx(0.5)}
    ]
    assert told["error"] == pytest.approx(0)


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=60))
def test_the_curve_s_area_is_the_auc(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([s / 20 for s, _ in rows])
    good = np.array([g for _, g in rows])
    told = roc(scores, good)
    if good.any() and not good.all():
        assert (told["true"][0], told["false"][0]) == (0, 0)
        assert (told["true"][-1], told["false"][-1]) == (1, 1)
        found = np.trapezoid(told["true"], told["false"])
        assert found == pytest.approx(auc(scores, good.astype(int))[0])
    bars = histogram(scores, good)
    assert (sum(bars["good"]), sum(bars["corpus"])) == (good.sum(), (~good).sum())


def test_few_is_what_an_interval_needs() -> None:
    files = judged(2 * FEW, languages=["C"] * (2 * FEW), good=np.arange(2 * FEW) < FEW)
    (row,) = by_language(files)
    low, high = row["auc_interval"]
    assert low < row["auc"] < high
