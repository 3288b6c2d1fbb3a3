"""Perplexity: whose model scores whom, the same numbers for any shards and workers, small languages,
what gets no score, and that every document stays.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import perplexity
from pipeline.core.errors import StageError
from pipeline.core.files import Files, verdicts
from pipeline.core.job import Job
from pipeline.core.schema import digest
from pipeline.core.store import Store
from pipeline.kernels import ngrams
from pipeline.kernels.hashing import places
from tests.running import bare_job, recipe_file, run, stored, verdicts_of

Row = dict[str, Any]


def text(seed: int, words: int = 30) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(f"name{n % 7} = {n}" for n in rng.integers(0, 40, words))


def rows(count: int = 60, language: str | None = "Python", first: int = 0) -> list[Row]:
    made = [{"text": text(n), "path": f"{language}/{n}"} for n in range(first, first + count)]
    return [row | {"language": language} for row in made]


def tokenized(documents: list[Row], store: Store, shards: int = 1) -> Files:
    """Documents whose tokens are their bytes."""
    files = stored(documents, store, shards)
    job = bare_job(store, "tokenize")
    return job.layer(files, _bytes, ["text"], kind="tokens", sidecar=("ids", "uint16"))


def _bytes(table: pa.Table) -> pa.Table:
    ids = [list(t.encode()) for t in table["text"].to_pylist()]
    return verdicts(table["uid"], [None] * len(ids), ids=pa.array(ids, pa.large_list(pa.uint16())))


def scored(
    files: Files, reference: Files | None = None, workers: int = 0, **settings: Any
) -> tuple[dict[str, float | None], Job]:
    """uid -> perplexity."""
    job = bare_job(files.store, "perplexity", workers=workers)
    cfg = perplexity.Config(**{"order": 3, "least": 10, "shortest": 5} | settings)
    job.identity = {"settings": vars(cfg), "inputs": {}}
    perplexity.run(files, cfg, job, reference)
    found = verdicts_of(job)
    assert all(v["keep"] is not False for v in found.values())
    return {uid: v["perplexity"] for uid, v in found.items()}, job


def documents_of(files: Files) -> list[dict[str, Any]]:
    return [r for s in files.shards for r in files.read(s, ["text", "language"]).to_pylist()]


def half(uid: str) -> int:
    return int(places(pa.array([uid]), "perplexity")[0] & np.uint64(1))


def by_hand(asked: Row, learnt: list[Row]) -> float:
    """The perplexity of a document under a model of others."""
    raw = [r["text"].encode() for r in [*learnt, asked]]
    ids = np.frombuffer(b"".join(raw), np.uint8).astype(np.uint16)
    bounds = np.cumsum([0, *map(len, raw)])
    model = ngrams.learn(ids, bounds[:-1], 1 + int(ids.max()), 3)
    found = ngrams.log_probabilities(model, ids, bounds[-2:-1], bounds[-1:])
    return float(np.exp(-found[0] / (len(raw[-1]) + 1)))


def test_a_document_is_scored_by_its_languages_other_half(tmp_path: Path) -> None:
    files = tokenized(rows() + rows(40, "C", 100), Store(str(tmp_path)), 3)
    found, job = scored(files)
    told = documents_of(files)
    for row in told[::17]:
        alike = [r for r in told if r["language"] == row["language"]]
        other = [r for r in alike if half(r["uid"]) != half(row["uid"])]
        assert found[row["uid"]] == pytest.approx(by_hand(row, other), rel=1e-4)
    assert {n: f["model"] for n, f in job.facts["languages"].items()} == {
        "C": "C",
        "Python": "Python",
    }
    assert job.facts["models"]["C"]["documents"] == 40


def test_being_in_the_corpus_does_not_reward_a_document(tmp_path: Path) -> None:
    odd = {"text": "".join(chr(33 + n * 37 % 90) for n in range(200)), "path": "odd.py"}
    found, _ = scored(tokenized([*rows(), odd], Store(str(tmp_path))))
    assert sorted(v for v in found.values() if v)[-1] > 5 * np.median(
        [v for v in found.values() if v]
    )


def test_any_cut_into_shards_gives_the_same_numbers(tmp_path: Path) -> None:
    made = rows() + rows(3, "C", 100)
    results = [scored(tokenized(made, Store(str(tmp_path / str(n))), n))[0] for n in (1, 2, 7)]
    assert results[0] == results[1] == results[2]


@pytest.mark.ray
def test_workers_do_not_change_a_number(tmp_path: Path, ray_local: None) -> None:
    files = tokenized(rows(150), Store(str(tmp_path)), 5)
    here, _ = scored(files)
    for workers in (1, 2):
        cfg = perplexity.Config(order=3, least=10, shortest=5)
        job = bare_job(files.store, f"perplexity{workers}", workers=workers)
        perplexity.run(files, cfg, job)
        assert {u: v["perplexity"] for u, v in verdicts_of(job).items()} == here


def test_a_language_with_few_tokens_is_scored_by_all_languages(tmp_path: Path) -> None:
    few = [*rows(3, "C", 100), {"text": text(7), "language": None, "path": "none"}]
    files = tokenized(rows() + few, Store(str(tmp_path)))
    found, job = scored(files, least=4000)
    languages = job.facts["languages"]
    assert {n: f["model"] for n, f in languages.items()} == {
        "": perplexity.EVERY,
        "C": perplexity.EVERY,
        "Python": "Python",
    }
    told = documents_of(files)
    one = next(r for r in told if r["language"] == "C")
    others = [r for r in told if half(r["uid"]) != half(one["uid"])]
    assert found[one["uid"]] == pytest.approx(by_hand(one, others), rel=1e-4)
    assert languages["C"]["scored"] == 3


def test_short_documents_and_empty_ones_are_null_and_stay(tmp_path: Path) -> None:
    files = tokenized([*rows(20), {"text": ""}, {"text": "x = 1"}], Store(str(tmp_path)))
    found, job = scored(files, shortest=6)
    assert sum(v is None for v in found.values()) == 2
    assert job.facts["languages"]["Python"]["null"] == 2
    counts = job.layers[-1]["shards"][0]["counts"]
    assert counts == {"in": 22, "kept": 22, "dropped": {}, "quarantined": 0}


def test_one_document_has_no_model_and_none_at_all_is_no_error(tmp_path: Path) -> None:
    found, _ = scored(tokenized(rows(1), Store(str(tmp_path / "one"))))
    assert list(found.values()) == [None]
    store = Store(str(tmp_path / "none"))
    assert scored(Files(store, "tokens", ()))[0] == {}
    gone = tokenized(rows(2), store)
    job = bare_job(store, "drop")
    empty = job.layer(gone, _drop, ["text"])
    assert set(scored(empty)[1].facts["languages"]) == set()


def _drop(table: pa.Table) -> pa.Table:
    return verdicts(table["uid"], ["gone"] * len(table))


def test_models_learn_from_the_reference_alone(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    files = tokenized(rows(), store, 2)
    best = bare_job(store, "drop").layer(files, _keep_some, ["text"])
    found, told = scored(files, reference=best)
    known = documents_of(best)
    assert 0 < len(known) < 60
    for row in documents_of(files)[::13]:
        other = [r for r in known if half(r["uid"]) != half(row["uid"])]
        assert found[row["uid"]] == pytest.approx(by_hand(row, other), rel=1e-4)
    assert told.facts["models"]["Python"]["documents"] == len(known)


def _keep_some(table: pa.Table) -> pa.Table:
    return verdicts(table["uid"], [None if u < "8" else "rest" for u in table["uid"].to_pylist()])


def test_the_sample_is_the_first_documents_by_place(tmp_path: Path) -> None:
    files = tokenized(rows(200), Store(str(tmp_path)), 3)
    _, job = scored(files, sample=10_000)
    told = documents_of(files)
    lengths = {r["uid"]: len(r["text"]) for r in told}
    most = max(lengths.values())
    assert 10_000 <= job.facts["models"]["Python"]["tokens"] <= 10_000 + 2 * most


def test_documents_without_tokens_name_the_step_that_is_missing(tmp_path: Path) -> None:
    files = stored(rows(2), Store(str(tmp_path)))
    with pytest.raises(
        StageError, match=r"no tokens; put a step above it, tokens: \{use: tokenize"
    ):
        perplexity.run(files, perplexity.Config(), bare_job(files.store, "perplexity"))
    with pytest.raises(StageError, match="put a `tokenize` step above"):
        files.read(files.shards[0], ["ids"])


def test_tokens_are_read_as_a_column_of_the_kept_rows(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    files = tokenized([*rows(5), {"text": ""}], store)
    some = bare_job(store, "drop").layer(files, _keep_some, ["text"])
    for given in (files, some):
        for row in given.read(given.shards[0], ["ids", "text", "uid"]).to_pylist():
            assert bytes(row["ids"]).decode() == row["text"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"order": 9}, "order is 9"),
        ({"sample": 10}, "sample is 10 tokens"),
        ({"prune": -1}, "prune is -1"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        perplexity.Config(**settings)


def test_in_a_recipe(tmp_path: Path) -> None:
    for n in range(30):
        path = tmp_path / "source" / f"repo{n % 3}" / f"{digest(str(n))[:6]}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(n))
    steps = {
        "raw": {"use": "ingest", "source": str(tmp_path / "source")},
        "vocab": {"use": "tokenizer", "files": "raw", "size": 300},
        "tokens": {"use": "tokenize", "files": "raw", "tokenizer": "vocab"},
        "surprise": {"use": "perplexity", "files": "tokens", "least": 100},
    }
    made = run(recipe_file(tmp_path / "r.yaml", steps), tmp_path / "store")
    told = made["surprise"]
    assert told["rows"] == {"in": 30, "kept": 30, "dropped": {}, "quarantined": 0}
    assert told["facts"]["languages"]["Python"]["scored"] == 30
    assert 1 < told["facts"]["languages"]["Python"]["p50"] < 300
