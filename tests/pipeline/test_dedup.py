"""Dedup as a box: who stays, why the others go, over any cut into shards and against an older corpus."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import dedup
from pipeline.core import spill
from pipeline.core.errors import StageError
from pipeline.core.store import Store
from tests.bench.truth import truth
from tests.running import bare_job, stored, verdicts_of


def body(seed: int, lines: int = 60) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        f"value_{a} = compute(first_{b}, second_{c})"
        for a, b, c in rng.integers(0, 500, (lines, 3))
    ]


def decided(
    rows: list[dict[str, Any]], folder: Path, shards: int = 1, workers: int = 0, **settings: Any
) -> list[tuple[str | None, int | None, float | None]]:
    """(rule, number of the kept twin, similarity) of each row."""
    store = Store(str(folder))
    files = stored(rows, store, shards)
    job = bare_job(store, "dedup", workers=workers)
    dedup.run(files, dedup.Config(**settings), job)
    found = verdicts_of(job)
    uids = [u for n in range(len(rows)) for u in [_uid(files, rows, n)]]
    return [
        (
            found[u]["rule"],
            found[u]["evidence"] and uids.index(found[u]["evidence"]),
            found[u]["value"],
        )
        for u in uids
    ]


def _uid(files: Any, rows: list[dict[str, Any]], number: int) -> str:
    path = rows[number].get("path", f"f{number}.py")
    for shard in files.shards:
        for row in files.read(shard, ["path"]).to_pylist():
            if row["path"] == path:
                return str(row["uid"])
    raise AssertionError(path)


def test_the_wanted_twin_stays_and_evidence_says_how_alike(tmp_path: Path) -> None:
    one, other = body(1), body(2)
    near = [*one[:57], "changed = True", "also = False"]
    texts = ["\n".join(x) for x in (one, other, near, one)]
    free = [None, "MIT", None, "MIT"]
    found = decided(
        [{"text": t, "licence": x} for t, x in zip(texts, free, strict=True)], tmp_path / "a"
    )
    assert [f[:2] for f in found] == [("exact", 3), (None, None), ("near", 3), (None, None)]
    assert found[0][2] == 1.0
    assert 0.7 <= (found[2][2] or 0) < 1.0
    stars = [{"text": t, "stars": s} for t, s in zip(texts, (0, 0, 9, 0), strict=True)]
    assert [f[1] for f in decided(stars, tmp_path / "b")] == [2, None, None, 2]


def test_a_copy_follows_its_original_to_the_file_that_stays(tmp_path: Path) -> None:
    """Two copies near a longer file: neither may name the other, which goes too."""
    one = body(1)
    longer = "\n".join([*one, "extra = 1"])
    found = decided(
        [{"text": "\n".join(one)}, {"text": "\n".join(one)}, {"text": longer}], tmp_path
    )
    assert [f[:2] for f in found] == [("near", 2), ("near", 2), (None, None)]


def test_a_chain_does_not_wipe_out_a_family(tmp_path: Path) -> None:
    """Each next file shares 5/6 with the one before; first and last share nothing."""
    lines = body(3, 240)
    texts = ["\n".join(lines[i * 10 : i * 10 + 60]) for i in range(18)]
    found = decided([{"text": t} for t in texts], tmp_path, shards=3)
    kept = {n for n, f in enumerate(found) if f[0] is None}
    assert len(kept) >= 5
    assert all(f[1] in kept and (f[2] or 0) >= 0.7 for f in found if f[0])


def test_files_without_words_go_only_as_exact_copies(tmp_path: Path) -> None:
    found = decided([{"text": t} for t in ("+ - *", "{ } ;", "+ - *")], tmp_path)
    assert sorted(f[0] or "" for f in found) == ["", "", "exact"]


def test_short_files_are_compared_by_what_they_have(tmp_path: Path) -> None:
    found = decided(
        [
            {"text": t}
            for t in ("import os", "import  os\n", "import sys", "from a import b, c, d, e")
        ],
        tmp_path,
    )
    assert [f[0] is None for f in found].count(False) == 1
    assert {found[0][0], found[1][0]} == {None, "near"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_goes_has_a_kept_twin_and_no_twins_stay(tmp_path: Path, seed: int) -> None:
    """Families with every degree of likeness, held against exact similarities."""
    rng = np.random.default_rng(seed)
    texts = []
    for family in range(30):
        first = body(family + 100 * seed)
        for _ in range(rng.integers(1, 9)):
            changed = [
                line
                if rng.random() > rng.choice([0.005, 0.02, 0.05])
                else f"x_{rng.integers(10**6)} = 1"
                for line in first
            ]
            texts.append("\n".join(changed))
    texts = list(dict.fromkeys(texts))
    found = decided([{"text": t} for t in texts], tmp_path, shards=4, seed=seed)
    exact = truth(texts, 0.7)
    for number, (rule, twin, value) in enumerate(found):
        if rule:
            assert twin is not None
            assert found[twin][0] is None
            assert exact.jaccard(number, twin) >= 0.7
            assert value == pytest.approx(exact.jaccard(number, twin), abs=0.12)
    stay = np.array([f[0] is None for f in found])
    both = stay[exact.left] & stay[exact.right]
    assert not (both & (exact.similarity >= 0.72)).any()
    assert both.mean() < 0.01


def test_any_cut_into_shards_gives_the_same_verdicts(tmp_path: Path) -> None:
    rows = [{"text": "\n".join([*body(n % 7), f"last = {n % 11}"])} for n in range(40)]
    results = [decided(rows, tmp_path / str(n), shards=n) for n in (1, 2, 7, 40)]
    for one, other in pairwise(results):
        assert one == other


def test_what_is_held_at_a_time_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": "\n".join([*body(n % 9, 30), *body(n + 100, 1 + n % 8)])} for n in range(80)]
    rows += [{"text": row["text"]} for row in rows[::3]]
    whole = decided(rows, tmp_path / "whole", shards=5)
    monkeypatch.setattr(spill, "MOST", 7)
    monkeypatch.setattr(dedup, "_PART", 20)
    assert decided(rows, tmp_path / "parts", shards=5) == whole


@pytest.mark.ray
def test_through_ray_every_stage_decides_the_same(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": "\n".join([*body(n % 9, 30), *body(n + 100, 1 + n % 8)])} for n in range(150)]
    here = decided(rows, tmp_path / "here", shards=5)
    assert len({f[0] for f in here}) > 1
    monkeypatch.setattr(dedup, "FEW", 0)
    monkeypatch.setattr(dedup, "_PAIRS", 16)
    for workers in (1, 2, 4):
        assert decided(rows, tmp_path / str(workers), shards=5, workers=workers) == here


def test_a_hot_family_is_thinned_to_one(tmp_path: Path) -> None:
    """More near copies than a bucket compares in full."""
    one = body(5, 40)
    rows = [{"text": "\n".join([*one, f"number = {n}"])} for n in range(300)]
    found = decided(rows, tmp_path, shards=3, bucket=8)
    assert sum(f[0] is None for f in found) == 1


def test_against_an_older_corpus_only_the_new_part_is_read_and_decided(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    old_rows = [{"text": "\n".join(body(n)), "path": f"old{n}.py"} for n in range(6)] + [
        {"text": "\n".join([*body(0), "z = 1"]), "path": "gone.py"}
    ]
    old = stored(old_rows, store)
    first = bare_job(store, "dedup", "old")
    dedup.run(old, dedup.Config(), first)
    kept = [u for u, v in verdicts_of(first).items() if v["keep"]]
    from pipeline.core.job import stack

    unique = stack(old, "unique", first.layers)
    new_rows = [
        {"text": "\n".join([*body(n), "new = 1"]), "path": f"new{n}.py", "stars": 99}
        for n in (1, 2)
    ] + [{"text": "\n".join(body(3))}, {"text": "\n".join(body(77))}]
    job = bare_job(store, "dedup", "new")
    dedup.run(stored(new_rows, store), dedup.Config(), job, against=unique)
    found = list(verdicts_of(job).values())
    assert [f["rule"] for f in found] == ["near", "near", "exact", None]
    assert all(f["evidence"] in kept for f in found if f["rule"])
    assert job.kept_shards == 1  # the old part's sketches


def test_files_are_not_held_against_themselves(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    files = stored([{"text": "a = 1"}, {"text": "b = 2"}], store, 2)
    with pytest.raises(StageError, match="give it an older corpus"):
        dedup.run(files, dedup.Config(), bare_job(store, "dedup"), against=files)


@pytest.mark.parametrize("permutations", [64, 256, 1024])
def test_at_a_threshold_of_one_only_files_of_the_same_words_go(
    tmp_path: Path, permutations: int
) -> None:
    text = "\n".join(body(1))
    rows = [{"text": text}, {"text": text.replace(" ", "  ")}, {"text": text + "\nz = 1"}]
    found = decided(rows, tmp_path, threshold=1, permutations=permutations)
    assert sorted(f[0] or "" for f in found) == ["", "", "near"]
    assert found[2][0] is None


def test_nothing_is_left_in_scratch_and_nothing_in_gives_nothing_out(tmp_path: Path) -> None:
    decided([{"text": "a = 1"}], tmp_path / "one")
    assert not list((tmp_path / "one/dedup/scratch").iterdir())
    assert not list((tmp_path / "one").rglob("spill"))
    job = bare_job(Store(str(tmp_path / "none")), "dedup")
    dedup.run(stored([], Store(str(tmp_path / "none")), 0), dedup.Config(), job)


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 0.1},
        {"threshold": 1.2},
        {"ngram": 0},
        {"permutations": 0},
        {"bucket": 1},
        {"bucket": 10**30},
        {"seed": -1},
        {"keep": ("longest", "stars", "shortest")},
        {"keep": ("stars", "stars")},
    ],
)
def test_settings_have_bounds(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        dedup.Config(**settings)
