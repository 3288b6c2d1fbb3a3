"""Packing: an order that the seed alone decides, each token once a pass, numbers that go on."""

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import pack
from pipeline.core import recipe
from pipeline.core.errors import RecipeError, StageError
from pipeline.core.files import Files
from pipeline.core.schema import END, FILE_SEP, digest
from pipeline.core.store import Store
from pipeline.kernels import indexing, ordering
from pipeline.kernels.packing import places
from tests.corpus import repositories
from tests.running import bare_job, curation, recipe_file, run, stored

LENGTH = 32


def documents(count: int = 60, seed: int = 0) -> pa.Table:
    """Documents of 0 to 99 tokens in two shards; ten repositories in two languages."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 100, count)
    table = {
        "row": np.arange(count),
        "uid": [digest(str(i)) for i in range(count)],
        "language": [("Python", "C")[i % 10 // 5] for i in range(count)],
        "repo": [f"r{i % 10}" for i in range(count)],
        "start": np.cumsum(lengths) - lengths,
        "length": lengths,
    }
    slim = pack._slim(pa.table(table), ("language", "repo"))
    return slim.append_column("shard", pa.array(np.arange(count) % 2, pa.int32()))


def config(**settings: Any) -> pack.Config:
    return pack.Config(**{"length": LENGTH, "group": ("language", "repo")} | settings)


def source(table: pa.Table, cfg: pack.Config, epochs: int | None = 1) -> indexing.Source:
    infill = cfg.infill if isinstance(cfg.infill, float) else 0.0
    return indexing.Source("files", table, infill, epochs)


def index(table: pa.Table, cfg: pack.Config, epochs: int | None = 1) -> pa.Table:
    return pa.concat_tables(pack._packed([source(table, cfg, epochs)], cfg, "step p"))


def order(table: pa.Table, cfg: pack.Config, epoch: int) -> Any:
    return ordering.order(table, cfg.group, f"{cfg.seed} {epoch}")


def test_groups_are_languages_then_repositories_in_random_order() -> None:
    table, cfg = documents(), config()
    found = order(table, cfg, 0)
    assert sorted(found.tolist()) == list(range(60))
    names = table.select(["language", "repo"]).take(pa.array(found)).to_pylist()
    assert sum(a != b for a, b in pairwise(names)) == 9
    assert sum(a["language"] != b["language"] for a, b in pairwise(names)) == 1
    assert found.tolist() != order(table, cfg, 1).tolist()
    assert found.tolist() != order(table, config(seed=1), 0).tolist()


def test_files_of_a_repository_are_joined_and_repositories_end() -> None:
    table, cfg = documents(), config()
    ends = indexing._ends(table, order(table, cfg, 0), cfg.group)
    assert (ends == END).sum() == 10
    assert (ends == FILE_SEP).sum() == 50
    alone = indexing._ends(table, order(table, cfg, 0), ("language",))
    assert (alone == END).all()


@settings(max_examples=20)
@given(st.permutations(range(30)), st.sampled_from([(), ("repo",), ("language", "repo")]))
def test_the_order_is_one_of_documents_not_of_rows(rows: list[int], group: Any) -> None:
    """Shards may come in any order: the same documents follow one another."""
    table, cfg = documents(30), config(group=group)
    other = table.take(pa.array(rows))
    wanted = table["uid"].take(pa.array(order(table, cfg, 0)))
    assert other["uid"].take(pa.array(order(other, cfg, 0))).to_pylist() == wanted.to_pylist()
    told = ["uid", "sequence", "length", "infill", "end"]
    assert index(other, cfg).select(told).equals(index(table, cfg).select(told))


@settings(max_examples=20)
@given(
    st.integers(0, 2**63 - 1),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(8, 80),
    st.sampled_from(["cut", "best"]),
    st.sampled_from([0.0, 0.5]),
)
def test_each_pass_has_every_token_once_in_full_sequences(
    seed: int, infill: float, length: int, fit: Any, corrupt: float
) -> None:
    table = documents()
    cfg = config(seed=seed, infill=infill, length=length, fit=fit, corrupt=corrupt, group=())
    found = index(table, cfg, 2)
    assert found.schema.equals(indexing.INDEX)
    numbers = found["sequence"].to_numpy()
    assert np.unique(np.diff(numbers, prepend=-1)).tolist() == [0, 1]
    for epoch in (0, 1):
        mine = found.filter(pc.equal(found["epoch"], epoch))
        assert _spans(mine) == _spans(table.filter(pc.greater(table["length"], 0)))
        assert pc.sum(pc.greater_equal(mine["end"], 0)).as_py() == len(table)
    columns = [found[n].to_numpy() for n in ("length", "infill", "spans")]
    used = np.bincount(numbers, places(*columns, found["end"].to_numpy() >= 0))
    assert used.max() == length
    if fit == "cut":
        assert (used < length).sum() <= 2  # the last of each pass


def _spans(table: pa.Table) -> list[tuple[str, int]]:
    """Every (uid, token) that the rows cover, sorted."""
    rows = table.select(["uid", "start", "length"]).to_pylist()
    return sorted((r["uid"], r["start"] + i) for r in rows for i in range(r["length"]))


def test_a_pass_is_cut_at_the_budget_and_none_is_made_beyond_it() -> None:
    table, whole = documents(), index(documents(), config(), 3)
    last = whole.filter(pc.equal(whole["epoch"], 0))["sequence"][-1].as_py()
    cut = index(table, config(budget=LENGTH * (last + 3)), None)
    assert cut.equals(whole.slice(0, len(cut)))
    assert cut["sequence"][-1].as_py() == last + 2
    assert pc.unique(cut["epoch"]).to_pylist() == [0, 1]
    assert index(table, config(budget=1), 1)["sequence"].to_pylist()[-1] == 0


def test_pieces_follow_their_sequence_when_sequences_are_shuffled() -> None:
    begins, number = np.array([0, 2, 3, 6]), np.array([2, 0, 1])
    sequence, rows = ordering.shuffled(begins, number)
    assert sequence.tolist() == [0, 1, 1, 1, 2, 2]
    assert rows.tolist() == [2, 3, 4, 5, 0, 1]


def test_a_budget_that_the_data_cannot_fill_is_refused() -> None:
    table, cfg = documents(), config(budget=12_000, epochs=3)
    tokens = source(table, cfg).tokens
    short = 12_000 // LENGTH * LENGTH - 3 * tokens
    why = f"needs 12,000 tokens of files, which has {tokens:,} and epochs 3: {short:,} are short"
    with pytest.raises(RecipeError, match=why):
        index(table, cfg, 3)
    assert index(table, cfg, 4)["epoch"][-1].as_py() == 3
    assert index(table, cfg, None)["epoch"][-1].as_py() == 3


def test_repositories_are_chosen_for_infilling_anew_in_each_pass() -> None:
    """StarCoder2: half the repositories, then half of their files."""
    table = documents(3000)
    found = index(table, config(infill=1.0, infill_repos=0.5, length=4096), 2)
    repos = dict(zip(table["uid"].to_pylist(), table["repo"].to_pylist(), strict=True))
    chosen = []
    for epoch in (0, 1):
        rows = found.filter(
            pc.and_(pc.equal(found["epoch"], epoch), pc.greater_equal(found["length"], 16))
        )
        by_repo: dict[str, list[bool]] = {}
        for row in rows.select(["uid", "infill"]).to_pylist():
            by_repo.setdefault(repos[row["uid"]], []).append(row["infill"])
        assert all(np.mean(v) > 0.95 or np.mean(v) == 0 for v in by_repo.values())
        chosen.append({r for r, v in by_repo.items() if any(v)})
    assert all(1 <= len(c) <= 9 for c in chosen)
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"length": 7}, "length is 7"),
        ({"epochs": 0}, "epochs 0"),
        ({"budget": 0}, "budget is 0 tokens: 1 or more"),
        ({"infill": 1.5}, "infill is 1.5"),
        ({"corrupt": -0.5}, "corrupt is -0.5"),
        ({"mix": {"a": 0.5, "b": 0.4}}, "whose sum is 1, not 0.9"),
        ({"mix": {"a": 1.0, "b": 0.0}}, "shares above 0"),
        ({"epochs": {"a": 0}}, "epochs {'a': 0}"),
        ({"fit": "best"}, "leave group out"),
        ({"group": (), "infill_repos": 0.5}, "needs `repo` in group"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        config(**settings)


def test_the_box_writes_an_index_and_says_what_is_in_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    files = stored([{"text": f"x{i}", "path": f"{i}.py"} for i in range(9)], store, 3)
    tokens = bare_job(store, "tokens").layer(
        files, _ids, ["text"], kind="tokens", sidecar=("ids", "uint16")
    )
    job = bare_job(store, "pack")
    pack.run(tokens, config(length=8, budget=60), job)
    made = pq.read_table(job.folder / "index.parquet")
    assert job.facts["documents"] == 9
    assert job.facts["epochs"] == 2
    assert job.facts["sequences"] == made["sequence"][-1].as_py() + 1 == 7
    assert job.facts["tokens"] == 56
    assert [s.endswith(".u16") for s in job.facts["sidecars"]] == [True] * 3
    (told,) = job.facts["sources"].values()
    assert (told["sequences"], told["shards"]) == (7, [0, 3])
    assert told["tokens"] == made["length"].to_numpy().sum() + (made["end"].to_numpy() >= 0).sum()
    assert told["epochs"] == round(made["length"].to_numpy().sum() / 36, 4)
    assert job.facts["padding"] == pytest.approx(1 - job.facts["places"] / 56)


def tokens(store: Store, name: str, count: int, length: int = 4) -> Files:
    """`count` tokenized documents of `length` tokens."""
    files = stored([{"text": f"{name}{i}", "path": f"{name}{i}.py"} for i in range(count)], store)
    make = partial(_ids, length=length)
    return bare_job(store, f"tokens-{name}").layer(
        files, make, ["text"], kind="tokens", sidecar=("ids", "uint16")
    )


def mixture(folder: Path, **settings: Any) -> tuple[pa.Table, dict[str, Any]]:
    """The index and facts of a mixture of `code` (900 tokens a pass) and `text` (300)."""
    store = Store(str(folder))
    files = {"text": tokens(store, "text", 60), "code": tokens(store, "code", 180)}
    job = bare_job(store, "pack")
    pack.run(files, pack.Config(**{"length": 10} | settings), job)
    return pq.read_table(job.folder / "index.parquet"), job.facts


def test_a_mixture_has_its_shares_in_every_stretch(tmp_path: Path) -> None:
    found, facts = mixture(tmp_path, mix={"code": 0.37, "text": 0.63}, budget=1500)
    told = facts["sources"]
    assert [told[n]["sequences"] for n in ("code", "text")] == [56, 94]
    assert told["code"]["shards"] == [0, 1]
    assert told["text"]["shards"] == [1, 2]
    assert told["text"]["epochs"] == pytest.approx(94 * 10 / 300, abs=0.05)
    code = np.zeros(150, bool)
    code[found["sequence"].to_numpy()[found["shard"].to_numpy() == 0]] = True
    runs = np.convolve(code, np.ones(25), "valid")
    assert runs.min() >= 25 * 0.37 - 1.5
    assert runs.max() <= 25 * 0.37 + 1.5
    for sequence in range(150):
        rows = found.filter(pc.equal(found["sequence"], sequence))
        assert len(pc.unique(rows["shard"])) == 1


def test_without_a_mix_each_source_has_exactly_its_epochs(tmp_path: Path) -> None:
    found, facts = mixture(tmp_path, epochs={"code": 1, "text": 4})
    assert {n: s["epochs"] for n, s in facts["sources"].items()} == {"code": 1.0, "text": 4.0}
    counts = pc.value_counts(found.filter(pc.greater_equal(found["end"], 0))["uid"]).to_pylist()
    assert sorted({c["counts"] for c in counts}) == [1, 4]
    assert facts["epochs"] == 4
    assert facts["documents"] == 240


def test_a_mix_without_a_budget_is_as_long_as_its_epochs_allow(tmp_path: Path) -> None:
    _, facts = mixture(tmp_path, mix={"code": 0.5, "text": 0.5}, epochs={"text": 2})
    assert [s["sequences"] for s in facts["sources"].values()] == [61, 60]


def test_a_mixture_is_the_same_however_long_the_stretches_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"mix": {"code": 0.37, "text": 0.63}, "budget": 1500, "infill": 0.5}
    whole, _ = mixture(tmp_path / "a", **settings)
    monkeypatch.setattr(indexing, "STRETCH", 150)
    again, _ = mixture(tmp_path / "b", **settings)
    assert again.equals(whole)
    monkeypatch.setattr(indexing, "STRETCH", 16)
    cut, facts = mixture(tmp_path / "c", **settings)
    assert [s["sequences"] for s in facts["sources"].values()] == [56, 94]
    assert cut["sequence"].to_pylist() == sorted(cut["sequence"].to_pylist())
    assert pc.count_distinct(cut["sequence"]).as_py() == 150


def test_a_source_that_is_too_small_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"945 tokens of text.*300 and epochs 3: 45 are short|text, which has 300"
    ):
        mixture(tmp_path, mix={"code": 0.37, "text": 0.63}, budget=1500, epochs={"text": 3})


RECIPE = {
    "raw": {"use": "ingest", "source": "a"},
    "vocab": {"use": "tokenizer", "files": "raw"},
    "one": {"use": "tokenize", "files": "raw", "tokenizer": "vocab"},
    "two": {"use": "tokenize", "files": "raw", "tokenizer": "vocab"},
}


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ({"files": "one", "mix": {"one": 1.0}}, "mix is by name, but files is one step"),
        (
            {"mix": {"a": 0.5, "bb": 0.5}},
            "mix names 'bb', which is not among files; did you mean 'b'",
        ),
        ({"mix": {"a": 1.0}}, "mix gives 'b' no share"),
        ({"epochs": {"c": 1}}, "epochs names 'c', which is not among files"),
        ({"infill": {"c": 0.5}}, "infill names 'c'"),
        ({"mix": {"a": 0.5, "b": 0.6}}, "whose sum is 1, not 1.1"),
        ({"files": {}}, "files is an empty mapping"),
        ({"files": ["one"]}, "takes the name of one step"),
    ],
)
def test_names_that_do_not_fit_are_told_before_anything_runs(
    tmp_path: Path, step: dict[str, Any], why: str
) -> None:
    steps = RECIPE | {"p": {"use": "pack", "files": {"a": "one", "b": "two"}} | step}
    with pytest.raises(RecipeError, match=why):
        recipe.load(recipe_file(tmp_path / "r.yaml", steps))


def test_nothing_to_pack_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for count in (0, 2):
        files = stored([{"text": f"x{i}", "path": f"{i}.py"} for i in range(count)], store)
        dropped = bare_job(store, f"none{count}").layer(files, _nothing, ["text"])
        with pytest.raises(StageError, match="no document is left to pack"):
            pack.run(dropped, config(), bare_job(store, "pack"))


def _ids(table: pa.Table, length: int = 4) -> pa.Table:
    from pipeline.core.files import verdicts

    ids = pa.array([[7] * length] * len(table), pa.large_list(pa.uint16()))
    return verdicts(table["uid"], [None] * len(table), ids=ids)


def _nothing(table: pa.Table) -> pa.Table:
    from pipeline.core.files import verdicts

    zeros = np.zeros(len(table), np.int64)
    return verdicts(table["uid"], ["rule"] * len(table), start=zeros, length=zeros)


def test_tokens_are_found_below_a_layer_of_sketches(tmp_path: Path) -> None:
    steps = curation(repositories(tmp_path / "source", 4))
    packed = steps["batches1"]
    after = {
        "again": {"use": "dedup", "files": "tokens", "seed": 2},
        "batches2": packed | {"files": "again"},
        "late": {"use": "redact", "files": "tokens"},
        "batches3": packed | {"files": "late"},
    }
    name = recipe_file(tmp_path / "small.yaml", steps | after)
    made = run(name, tmp_path / "store", until="batches2")
    first, second = (made[n]["facts"] for n in ("batches1", "batches2"))
    assert first == second  # nothing was left to drop
    with pytest.raises(StageError, match="put the tokenize step after the redact step"):
        run(name, tmp_path / "store")
