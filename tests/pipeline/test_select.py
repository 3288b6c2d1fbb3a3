"""Select: exactly what a sort of all documents would choose, in any shards, from sums alone; its
settings' and columns' errors."""

import pickle
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import select
from pipeline.core.config import parse
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job, stack
from pipeline.core.schema import digest
from pipeline.core.store import Store
from pipeline.kernels import cuts, ranks
from tests.running import bare_job, stored, verdicts_of

Row = dict[str, Any]
SCORES = st.sampled_from([None, -1.5, 0.0, -0.0, 0.25, 0.5, 0.5000001, 3.0, float("inf")])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "language": st.sampled_from(["C", "Go", "Python"]),
            "length": st.sampled_from([0, 1, 7, 50]),
            "quality": SCORES,
            "perplexity": SCORES,
        }
    ),
    max_size=60,
)


SCHEMA = pa.schema(
    {
        "uid": pa.string(),
        "language": pa.string(),
        "length": pa.int64(),
        "quality": pa.float64(),
        "perplexity": pa.float64(),
    }
)


def scored(rows: list[Row], store: Store, shards: int = 1) -> Files:
    """Documents with a layer of tokens and one of scores, as tokenize and annotate leave them."""
    told = {f"f{n}.py": row for n, row in enumerate(rows)}
    texts = [{"text": f"text {n}", "language": r["language"]} for n, r in enumerate(rows)]

    def lengths(table: pa.Table) -> pa.Table:
        found = [told[p]["length"] for p in table["path"].to_pylist()]
        return verdicts(table["uid"], [None] * len(found), length=pa.array(found, pa.int64()))

    def judged(table: pa.Table) -> pa.Table:
        mine = [told[p] for p in table["path"].to_pylist()]
        kinds = {"quality": pa.float32(), "perplexity": pa.float64()}
        found = {k: pa.array([r.get(k) for r in mine], t) for k, t in kinds.items()}
        found["tested"] = pa.array(["test" in r for r in mine])
        found["nothing"] = pa.nulls(len(mine))
        return verdicts(table["uid"], [None] * len(mine), **found)

    files = bare_job(store, "tokenize").layer(
        stored(texts, store, shards), lengths, ["path"], kind="tokens"
    )
    return bare_job(store, "annotate").layer(files, judged, ["path"], kind="scores")


def chosen(files: Files, workers: int = 0, **cfg: Any) -> Job:
    job = bare_job(files.store, "select", workers=workers)
    select.run(files, select.Config(**cfg), job)
    return job


def kept(job: Job) -> set[str]:
    return {uid for uid, row in verdicts_of(job).items() if row["keep"]}


def known(files: Files) -> list[Row]:
    columns = ["path", "language", "length", "quality", "perplexity"]
    return [row for s in files.shards for row in files.read(s, columns).to_pylist()]


def sorted_choice(rows: list[Row], quota: dict[str, int], column: str = "quality") -> set[str]:
    """What one sort per language would keep: scores from the top, ties by uid, null last."""
    out: set[str] = set()
    for language, most in quota.items():
        mine = [r for r in rows if r["language"] == language]
        worst = [(r[column] is None, -(r[column] or 0.0), r["uid"]) for r in mine]
        total = 0
        for _, row in sorted(zip(worst, mine, strict=True), key=lambda p: p[0]):
            total += row["length"]
            if total > most:
                break
            out.add(row["uid"])
    return out


def tokens(rows: list[Row]) -> dict[str, int]:
    names = sorted({r["language"] for r in rows})
    return {n: sum(r["length"] for r in rows if r["language"] == n) for n in names}


def of_many(count: int, languages: str = "ab", ties: int = 0) -> list[Row]:
    """Rows with scores that bunch near 1; `ties` of the values of a score at most, if given."""
    rng = np.random.default_rng(count)
    quality = 1 - rng.exponential(0.01, count)
    quality = np.floor(quality * ties) / ties if ties else quality
    length, language = rng.integers(0, 900, count), rng.integers(0, len(languages), count)
    perplexity = np.exp(rng.normal(1, 1, count))
    return [
        {"language": languages[k], "length": int(n), "quality": float(q), "perplexity": float(p)}
        for k, n, q, p in zip(language, length, quality, perplexity, strict=True)
    ]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits under which a few hundred documents take every path of a large corpus."""
    monkeypatch.setattr(cuts, "SAMPLE", 8)
    monkeypatch.setattr(cuts, "EXACT", 3)


def planned(look: cuts.Look, cfg: select.Config) -> cuts.Plan:
    return cuts.planned(look, (1.0,), partial(select.quotas, cfg=cfg))


def look_at(tables: list[pa.Table], cfg: select.Config) -> cuts.Look:
    """A pass over shards that are in memory."""

    def look(work: cuts.Work) -> Iterator[tuple[str, Any]]:
        for table in tables:
            for name, _, group in select.groups(table, cfg):
                yield name, work(name, group)

    return look


@settings(max_examples=200, deadline=None)
@given(ROWS, st.integers(1, 400), st.integers(1, 4), st.sampled_from([(2, 1), (1024, 4096)]))
def test_the_choice_is_that_of_a_sort(
    rows: list[Row], budget: int, shards: int, limits: tuple[int, int]
) -> None:
    there = [r | {"uid": digest(str(n))} for n, r in enumerate(rows)]
    tables = [pa.Table.from_pylist(there[n::shards], SCHEMA) for n in range(shards)]
    total = sum(tokens(rows).values()) or 1
    for cfg, quota in (
        (select.Config(budget=budget), {n: budget * t // total for n, t in tokens(rows).items()}),
        (select.Config(share=0.2), {n: t // 5 for n, t in tokens(rows).items()}),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cuts, "SAMPLE", limits[0])
            patch.setattr(cuts, "EXACT", limits[1])
            plan = planned(look_at(tables, cfg), cfg)
        found = [select.decide(table, cfg, plan).to_pylist() for table in tables]
        stay = {r["uid"] for part in found for r in part if r["keep"]}
        assert stay == sorted_choice(there, quota)


@pytest.mark.parametrize("ties", [0, 1, 20])
@pytest.mark.usefixtures("small")
def test_a_cut_among_many_is_narrowed_to_the_document(tmp_path: Path, ties: int) -> None:
    rows = of_many(3000, ties=ties)
    files = scored(rows, Store(str(tmp_path)), 3)
    quota = {n: int(t * Fraction("0.03")) for n, t in tokens(rows).items()}
    assert kept(chosen(files, share=0.03)) == sorted_choice(known(files), quota)


def test_shards_and_workers_change_no_verdict(tmp_path: Path, small: None) -> None:
    rows = of_many(1200, ties=300)
    laid = [scored(rows, Store(str(tmp_path / str(n))), n) for n in (1, 8)]
    for cfg in (
        {"budget": 50_000, "mix": {"a": 0.5}},
        {"share": 0.1, "by": {"quality": 0.7, "perplexity": -0.3}},
        {"between": (0.05, 0.95), "by": "perplexity"},
        {"min": 0.98},
        {"budget": 50_000, "by": "random", "seed": 3},
    ):
        one, eight = (chosen(files, **cfg) for files in laid)
        assert verdicts_of(one) == verdicts_of(eight)
        assert one.facts == eight.facts
        assert 0 < one.facts["files"] < 1200


@pytest.mark.ray
def test_rays_workers_choose_the_same(tmp_path: Path, ray_local: None) -> None:
    files = scored(of_many(300), Store(str(tmp_path)), 4)
    here, there = (
        chosen(files, workers=n, share=0.2, by={"quality": 1, "perplexity": -1}) for n in (0, 2)
    )
    assert verdicts_of(here) == verdicts_of(there)


def test_rows_are_accounted_for_by_rule(tmp_path: Path) -> None:
    scores = [0.9, None, 0.1, 0.5, 0.7, 0.3]
    rows = [{"language": "C", "length": 10, "quality": q} for q in scores]
    files = scored(rows, Store(str(tmp_path)))

    def rules(**cfg: Any) -> dict[float | None, str | None]:
        found = verdicts_of(chosen(files, **cfg))
        return {r["quality"]: found[r["uid"]]["rule"] for r in known(files)}

    def told(**dropped: list[float | None]) -> dict[float | None, str | None]:
        every = {np.float32(q).item() if q else None: None for q in scores}
        return every | {
            np.float32(q).item() if q else None: k for k, v in dropped.items() for q in v
        }

    assert rules(budget=30) == told(below_quota=[0.1, 0.3], unscored=[None])
    assert rules(budget=29) == told(below_quota=[0.1, 0.3, 0.5], unscored=[None])
    assert rules(budget=60) == told()
    assert rules(between=(0.2, 0.8)) == told(low_tail=[0.1], high_tail=[0.9], unscored=[None])
    assert rules(min=0.5) == told(below_min=[0.1, 0.3], unscored=[None])


def test_a_percentile_is_the_share_of_tokens_below(tmp_path: Path) -> None:
    lengths = {0.1: 10, 0.2: 30, 0.3: 40, 0.4: 20}
    rows = [{"language": "C", "length": n, "quality": q} for q, n in lengths.items()]
    job = chosen(scored(rows, Store(str(tmp_path))), budget=60)
    found = sorted(verdicts_of(job).values(), key=lambda r: r["percentile"])
    assert [round(r["percentile"], 3) for r in found] == [0.05, 0.25, 0.6, 0.9]
    assert [r["value"] for r in found] == [0.05, 0.25, 0.6, 0.9]
    assert [r["keep"] for r in found] == [False, False, True, True]
    facts = job.facts["languages"]["C"]
    assert {k: v for k, v in facts.items() if k != "percentiles"} == {
        "files": 2,
        "tokens": 60,
        "of_files": 4,
        "of_tokens": 100,
        "unscored": 0,
        "lowest": 0.3,
        "highest": 0.4,
    }
    assert [facts["percentiles"][n] for n in (0, 5, 25, 60, 90, 100)] == [
        0.1,
        0.1,
        0.2,
        0.3,
        0.4,
        0.4,
    ]


def test_percentiles_of_a_large_language_are_near(tmp_path: Path) -> None:
    rows = of_many(6000, "a")
    job = chosen(scored(rows, Store(str(tmp_path)), 2), share=0.5)
    order = sorted(known(scored(rows, Store(str(tmp_path)), 2)), key=lambda r: r["quality"])
    ends = np.cumsum([r["length"] for r in order])
    exact = {r["uid"]: (e - r["length"] / 2) / ends[-1] for r, e in zip(order, ends, strict=True)}
    found = {uid: r["percentile"] for uid, r in verdicts_of(job).items()}
    assert max(abs(found[uid] - p) for uid, p in exact.items()) < 0.003


def test_columns_are_combined_by_their_percentiles(tmp_path: Path) -> None:
    rows = of_many(400, "a")
    files = scored(rows, Store(str(tmp_path)), 3)
    job = chosen(files, share=0.1, by={"quality": 0.7, "perplexity": -0.3})
    there = known(files)
    for column in ("quality", "perplexity"):
        order = sorted(there, key=lambda r: r[column])
        ends = np.cumsum([r["length"] for r in order])
        for row, end in zip(order, ends, strict=True):
            row[f"{column} share"] = (end - row["length"] / 2) / ends[-1]
    for row in there:
        row["both"] = 0.7 * row["quality share"] + 0.3 * (1 - row["perplexity share"])
    assert kept(job) == sorted_choice(there, {"a": tokens(rows)["a"] // 10}, "both")


def test_one_column_with_a_negative_weight_is_the_lowest_first(tmp_path: Path) -> None:
    rows = of_many(200, "a")
    files = scored(rows, Store(str(tmp_path)))
    job = chosen(files, share=0.3, by={"perplexity": -2})
    turned = [r | {"less": -r["perplexity"]} for r in known(files)]
    assert kept(job) == sorted_choice(turned, {"a": tokens(rows)["a"] * 3 // 10}, "less")


def test_columns_of_other_kinds_and_of_an_earlier_choice(tmp_path: Path) -> None:
    rows = of_many(20, "a")
    for row in rows[:3]:
        row["test"] = True
    files = scored(rows, Store(str(tmp_path)), 2)
    tested = chosen(files, min=1, by="tested")
    assert tested.facts["files"] == 3
    assert chosen(files, min=0, by="nothing").facts["unscored"] == 20
    records = [{"kind": "verdict", "shards": tested.layers[0]["shards"]}]
    again = chosen(stack(files, "first", records), share=1, by="percentile")
    assert again.facts["files"] == 3
    assert again.facts["languages"]["a"]["highest"] < 1


def test_controls_need_no_scores(tmp_path: Path) -> None:
    rows = [{"language": "C", "length": 10, "quality": None} for _ in range(40)]
    files = scored(rows, Store(str(tmp_path)), 2)
    first, other = (kept(chosen(files, budget=100, by="random", seed=n)) for n in (1, 2))
    assert len(first) == len(other) == 10
    assert first != other
    uids = sorted(r["uid"] for r in known(files))
    assert kept(chosen(files, budget=100, by="none")) == set(uids[:10])


def test_a_mix_leaves_the_others_their_proportions() -> None:
    there = {"Python": 100, "C": 300, "Go": 100}
    budget = {"budget": 1000}
    assert select.quotas(there, select.Config(**budget)) == {"Python": 200, "C": 600, "Go": 200}
    half = select.Config(**budget, mix={"Python": 0.5})
    assert select.quotas(there, half) == {"Python": 500, "C": 375, "Go": 125}
    two = select.Config(**budget, mix={"Python": 0.9, "C": 0.1})
    assert select.quotas(there, two) == {"Python": 900, "C": 100, "Go": 0}
    with pytest.raises(StageError, match="mix names 'Pyhton', a language without documents; did"):
        select.quotas(there, select.Config(**budget, mix={"Pyhton": 0.5}))
    short = select.Config(**budget, mix={"Python": 0.5, "C": 0.2, "Go": 0.1})
    with pytest.raises(StageError, match=r"leaves 0\.2 of the budget to none; let its shares sum"):
        select.quotas(there, short)


def test_a_quota_that_cannot_be_filled_is_told(caplog: pytest.LogCaptureFixture) -> None:
    select.quotas({"C": 10, "Go": 990}, select.Config(budget=100, mix={"C": 0.5}))
    assert caplog.messages == ["select: all of C is kept and is less than its quota"]


def test_what_is_nearly_nothing(tmp_path: Path) -> None:
    """No documents, a language of one file, one of empty files, one without a score."""
    empty = chosen(scored([], Store(str(tmp_path / "none"))), budget=10)
    assert empty.facts == {"languages": {}} | dict.fromkeys(select._SUMS, 0)
    lone = [
        {"language": "one", "length": 5, "quality": 0.5},
        *({"language": "empty", "length": 0, "quality": q} for q in (0.1, 0.2)),
        {"language": "dumb", "length": 5, "quality": None},
    ]
    files = scored(lone, Store(str(tmp_path / "few")))
    found = chosen(files, between=(0.05, 0.95)).facts["languages"]
    assert {n: f["files"] for n, f in found.items()} == {"one": 1, "empty": 2, "dumb": 0}
    assert found["dumb"]["percentiles"] == []
    assert found["dumb"]["lowest"] is None
    assert found["dumb"]["unscored"] == 1
    assert chosen(files, budget=10).facts["files"] == 4


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({}, "give one of budget, share, between and min; given: none"),
        ({"budget": 5, "share": "5%"}, "given: {'budget': 5, 'share': 0.05}"),
        ({"budget": 0}, "budget is 0 tokens: 1 or more"),
        ({"share": 0}, "share is 0.0: more than 0, at most 1"),
        ({"between": ["95%", "5%"]}, r"between is \[0.95, 0.05\]: two shares, the lower one first"),
        ({"share": 0.1, "by": {}}, "by is empty"),
        (
            {"share": 0.1, "by": {"quality": 0}},
            "'quality' the weight 0.0: a column, a number but 0",
        ),
        ({"share": 0.1, "by": {"random": 1}}, "by gives 'random' the weight 1.0: a column"),
        ({"min": 0.5, "by": "random"}, "min is 0.5 and by 'random': a finite score, of one column"),
        ({"min": 0.5, "by": {"a": 1, "b": 1}}, "a finite score, of one column"),
        ({"share": 0.1, "mix": {"C": 0.5}}, "mix divides a budget"),
        ({"budget": 9, "mix": {"C": "60%", "Go": "50%"}}, "shares of at most 1 in all"),
        ({"budget": 9, "seed": 1}, "seed is 1 .0 or more., by 'quality': only random draws"),
        ({"budget": 9, "epochs": 4}, "no setting 'epochs'"),
    ],
)
def test_settings_out_of_bounds(cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(select.Config, cfg, "step best")


def test_columns_that_are_not_there_or_no_numbers(tmp_path: Path) -> None:
    files = scored(of_many(3), Store(str(tmp_path)))
    with pytest.raises(StageError, match=r"by is 'qualty', a column .*; did you mean 'quality'\?"):
        chosen(files, budget=9, by="qualty")
    with pytest.raises(
        StageError, match=r"there is: bytes, length, none, .* perplexity, quality, random"
    ):
        chosen(files, budget=9, by={"zzz": 1, "quality": 1})
    with pytest.raises(
        StageError, match=r"'repo', a column that holds no scores \(string\); there"
    ):
        chosen(files, budget=9, by="repo")
    untold = stored([{"text": "a"}], Store(str(tmp_path / "bare")))
    with pytest.raises(StageError, match="its files have none; tokenize them first"):
        chosen(untold, budget=9, by="bytes")


def synthetic(count: int, shards: int) -> Iterator[pa.Table]:
    """A corpus of two languages, one shard in memory at a time."""
    for shard in range(shards):
        rng = np.random.default_rng(shard)
        size = count // shards
        columns = {
            "uid": [f"{h:032x}" for h in rng.integers(0, 2**63, size).tolist()],
            "language": np.array(["a", "b"])[rng.integers(0, 2, size)],
            "length": rng.integers(1, 2000, size),
            "quality": 1 - rng.exponential(0.01, size),
        }
        yield pa.table(columns)


def test_what_passes_bring_back_does_not_grow_with_documents(small: None) -> None:
    """Bytes that reach the driver per shard and language, the largest of all passes."""

    def largest(count: int) -> tuple[int, int]:
        cfg, sizes = select.Config(share=0.03), []

        def look(work: cuts.Work) -> Iterator[tuple[str, Any]]:
            for table in synthetic(count, 2):
                for name, _, group in select.groups(table, cfg):
                    found = work(name, group)
                    sizes.append(len(pickle.dumps(found)))
                    yield name, found

        plan = planned(look, cfg)
        return max(sizes), len(pickle.dumps(plan))

    few, many = largest(4_000), largest(64_000)
    assert many[1] == pytest.approx(few[1], rel=0.05)
    assert many[0] <= 3 * 8 * (1 << ranks.SLOTS) + 2000
