"""Packing: an order that the seed alone decides, each token once a pass, numbers that go on."""

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
from pipeline.core.errors import StageError
from pipeline.core.schema import END, FILE_SEP, digest
from pipeline.core.store import Store
from pipeline.kernels.packing import SENTINELS
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


def index(table: pa.Table, cfg: pack.Config, epochs: int = 1) -> pa.Table:
    return pa.concat_tables(pack.passes(table, cfg, epochs))


def test_groups_are_languages_then_repositories_in_random_order() -> None:
    table, cfg = documents(), config()
    order = pack.order(table, cfg, 0)
    assert sorted(order.tolist()) == list(range(60))
    names = table.select(["language", "repo"]).take(pa.array(order)).to_pylist()
    assert sum(a != b for a, b in pairwise(names)) == 9
    assert sum(a["language"] != b["language"] for a, b in pairwise(names)) == 1
    assert order.tolist() != pack.order(table, cfg, 1).tolist()
    assert order.tolist() != pack.order(table, config(seed=1), 0).tolist()


def test_files_of_a_repository_are_joined_and_repositories_end() -> None:
    table, cfg = documents(), config()
    ends = pack._ends(table, pack.order(table, cfg, 0), cfg)
    assert (ends == END).sum() == 10
    assert (ends == FILE_SEP).sum() == 50
    alone = pack._ends(table, pack.order(table, cfg, 0), config(group=("language",)))
    assert (alone == END).all()


@settings(max_examples=20)
@given(st.permutations(range(30)), st.sampled_from([(), ("repo",), ("language", "repo")]))
def test_the_order_is_one_of_documents_not_of_rows(rows: list[int], group: Any) -> None:
    """Shards may come in any order: the same documents follow one another."""
    table, cfg = documents(30), config(group=group)
    other = table.take(pa.array(rows))
    wanted = table["uid"].take(pa.array(pack.order(table, cfg, 0)))
    assert other["uid"].take(pa.array(pack.order(other, cfg, 0))).to_pylist() == wanted.to_pylist()
    told = ["uid", "sequence", "length", "infill", "end"]
    assert index(other, cfg).select(told).equals(index(table, cfg).select(told))


@settings(max_examples=20)
@given(st.integers(0, 2**63 - 1), st.sampled_from([0.0, 0.5, 1.0]), st.integers(8, 80))
def test_each_pass_has_every_token_once_in_full_sequences(
    seed: int, infill: float, length: int
) -> None:
    table, cfg = documents(), config(seed=seed, infill=infill, length=length)
    found = index(table, cfg, 2)
    assert found.schema.equals(pack.INDEX)
    numbers = found["sequence"].to_numpy()
    assert np.unique(np.diff(numbers, prepend=-1)).tolist() == [0, 1]
    for epoch in (0, 1):
        mine = found.filter(pc.equal(found["epoch"], epoch))
        assert _spans(mine) == _spans(table.filter(pc.greater(table["length"], 0)))
        assert pc.sum(pc.greater_equal(mine["end"], 0)).as_py() == len(table)
    places = found["length"].to_numpy() + SENTINELS * found["infill"].to_numpy()
    used = np.bincount(numbers, places + (found["end"].to_numpy() >= 0))
    assert used.max() == length
    assert (used < length).sum() <= 2  # the last of each pass


def _spans(table: pa.Table) -> list[tuple[str, int]]:
    """Every (uid, token) that the rows cover, sorted."""
    rows = table.select(["uid", "start", "length"]).to_pylist()
    return sorted((r["uid"], r["start"] + i) for r in rows for i in range(r["length"]))


def test_a_pass_is_cut_at_the_budget_and_none_is_made_beyond_it() -> None:
    table, whole = documents(), index(documents(), config(), 3)
    last = whole.filter(pc.equal(whole["epoch"], 0))["sequence"][-1].as_py()
    cut = index(table, config(budget=LENGTH * (last + 3)), 3)
    assert cut.equals(whole.slice(0, len(cut)))
    assert cut["sequence"][-1].as_py() == last + 2
    assert pc.unique(cut["epoch"]).to_pylist() == [0, 1]
    assert index(table, config(budget=1), 1)["sequence"].to_pylist()[-1] == 0


def test_pieces_follow_their_sequence_when_sequences_are_shuffled() -> None:
    begins, number = np.array([0, 2, 3, 6]), np.array([2, 0, 1])
    sequence, rows = pack._shuffled(begins, number)
    assert sequence.tolist() == [0, 1, 1, 1, 2, 2]
    assert rows.tolist() == [2, 3, 4, 5, 0, 1]


def test_a_budget_that_the_data_cannot_fill_is_refused() -> None:
    with pytest.raises(
        StageError, match=r"budget of 1,000 tokens needs 10 passes over 100 tokens, but epochs is 4"
    ):
        pack._epochs(pack.Config(budget=1000, epochs=4), 100)
    assert pack._epochs(pack.Config(budget=1000), 100) == 10
    assert pack._epochs(pack.Config(epochs=4), 100) == 4


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"length": 7}, "length is 7"),
        ({"epochs": 0}, "epochs 0"),
        ({"budget": 0}, "budget is 0 tokens: 1 or more"),
        ({"infill": 1.5}, "infill is 1.5"),
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


def test_nothing_to_pack_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for count in (0, 2):
        files = stored([{"text": f"x{i}", "path": f"{i}.py"} for i in range(count)], store)
        dropped = bare_job(store, f"none{count}").layer(files, _nothing, ["text"])
        with pytest.raises(StageError, match="no document is left to pack"):
            pack.run(dropped, config(), bare_job(store, "pack"))


def _ids(table: pa.Table) -> pa.Table:
    from pipeline.core.files import verdicts

    ids = pa.array([[7, 8, 9, 10]] * len(table), pa.large_list(pa.uint16()))
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
