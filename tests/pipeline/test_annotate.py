"""Annotating: every file scored with its windows, alike for any shards, in 8 bits nearly so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import annotate
from pipeline.core.config import parse
from pipeline.core.errors import RecipeError
from pipeline.core.store import Store
from tests.pipeline.test_screen import annotator_of, rows
from tests.running import bare_job, stored, verdicts_of

FILES = 60


def annotated(where: Path, shards: int, **settings: Any) -> dict[str, dict[str, Any]]:
    """uid -> the row of the layer."""
    store = Store(str(where))
    job = bare_job(store, "annotate")
    cfg = annotate.Config(**settings)
    annotate.run(stored(rows()[:FILES], store, shards), annotator_of(store), cfg, job)
    return verdicts_of(job)


def test_a_score_is_the_mean_of_its_windows_for_any_shards(tmp_path: Path) -> None:
    one = annotated(tmp_path / "one", 1)
    assert len(one) == FILES
    for row in one.values():
        assert row["keep"]
        assert row["quality"] == pytest.approx(sum(row["windows"]) / len(row["windows"]), abs=1e-6)
    many = annotated(tmp_path / "many", 7)
    assert set(many) == set(one)
    for uid, row in many.items():
        assert row["quality"] == pytest.approx(one[uid]["quality"], abs=1e-5)
    assert annotated(tmp_path / "again", 1) == one


def test_eight_bits_are_near_and_the_same_for_any_shards(tmp_path: Path) -> None:
    exact = annotated(tmp_path / "exact", 1)
    one = annotated(tmp_path / "one", 1, precision="int8")
    assert annotated(tmp_path / "many", 7, precision="int8") == one
    gaps = [abs(row["quality"] - exact[uid]["quality"]) for uid, row in one.items()]
    assert 0 < max(gaps) < 0.15  # weights this wild are no trained annotator's
    assert sum(gaps) / len(gaps) < 0.03


def test_what_scores_enough_in_eight_bits_is_scored_again_exactly(tmp_path: Path) -> None:
    exact = annotated(tmp_path / "exact", 1)
    eight = annotated(tmp_path / "eight", 1, precision="int8")
    least = float(np.median([row["quality"] for row in eight.values()]))
    mixed = annotated(tmp_path / "mixed", 3, precision="int8", exact_from=least)
    assert eight != exact
    for uid, row in eight.items():
        wanted = exact if row["quality"] >= least else eight
        assert mixed[uid]["quality"] == pytest.approx(wanted[uid]["quality"], abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"exact_from": 0.5}, "it needs precision: int8"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"threads": 0}, "threads is 0: 1 or more"),
        ({"precison": "int8"}, "did you mean 'precision'"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(annotate.Config, settings, "annotate")
