"""Export: the corpus's scores beside the judge, equal to what a sort of all documents tells."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import export
from pipeline.core.files import Files, verdicts
from pipeline.core.store import Store
from pipeline.kernels.standing import BARS, percentile, standing
from tests.running import bare_job, stored


def told(folder: Path, scores: list[float | None], shards: int = 3) -> dict[str, Any]:
    """What is written down of documents with these scores, every third of them in Go."""
    store = Store(str(folder))
    rows = [
        {"text": f"t{n}", "path": str(n), "language": "C" if n % 3 else "Go"}
        for n in range(len(scores))
    ]

    def judged(table: pa.Table) -> pa.Table:
        mine = [scores[int(p)] for p in table["path"].to_pylist()]
        return verdicts(table["uid"], [None] * len(mine), quality=pa.array(mine, pa.float32()))

    files: Files = bare_job(store, "annotate").layer(
        stored(rows, store, shards), judged, ["path"], kind="scores"
    )
    return standing(partial(export.visit, files, "quality", bare_job(store, "export")))


def test_percentiles_are_those_of_all_documents(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    every = np.float32(rng.beta(0.3, 0.6, 3000))
    place = told(tmp_path, [*every.tolist(), None])
    assert (place["range"], place["all"]["documents"]) == ([0, 1], 3000)
    assert {n: r["documents"] for n, r in place["languages"].items()} == {"C": 2000, "Go": 1000}
    assert place["languages"]["Go"]["unscored"] == 1
    for score in (0.0, 0.001, 0.3, 0.9, 0.999, 2.0):
        for row, some in ((place["all"], every), (place["languages"]["Go"], every[::3])):
            assert percentile(row, score) == pytest.approx((some < score).mean(), abs=0.01)
    counts = np.histogram(every, BARS, (0, 1))[0]
    assert np.abs(np.array(place["all"]["counts"]) - counts).max() <= 30


def test_ties_count_half_and_other_ranges_are_told(tmp_path: Path) -> None:
    place = told(tmp_path, [1.0] * 30 + [5.0] * 60 + [9.0] * 10)
    assert place["range"] == [1, 9]
    assert sum(place["all"]["counts"]) == 100
    for score, below in ((0.0, 0), (1.0, 0.15), (5.0, 0.6), (9.0, 0.95), (10.0, 1)):
        assert percentile(place["all"], score) == pytest.approx(below, abs=0.03)


def test_without_a_score_there_is_no_standing(tmp_path: Path) -> None:
    assert told(tmp_path, [None] * 5) == {}
    assert percentile(None, 0.5) is None
    alone = told(tmp_path / "one", [0.5, None, None])
    assert percentile(alone["languages"]["C"], 0.5) is None
