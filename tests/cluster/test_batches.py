"""A batch is told as the phase trained on it: every piece by its document, and the text as it was seen."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from cluster import batches, cli, runs
from cluster.explain import stories
from pipeline.core.errors import RecipeError
from pipeline.core.schema import FIM_PAD
from pipeline.core.store import Store, read_parquet
from tests.corpus import repositories
from tests.running import recipe_file, run, whole


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """phase1 on concatenated repositories; `mixed` of two sources, corrupted, without a phase."""
    folder = tmp_path_factory.mktemp("batches")
    steps = whole(repositories(folder / "source", 4))
    kept = list(steps)[: list(steps).index("phase1") + 1]
    vocab = steps["vocab"] | {"masks": 20}
    few = {"use": "filter", "files": "tokens", "limits": {"max_line": 60}}
    mixed = {"use": "pack", "files": {"all": "tokens", "few": "few"}, "length": 128, "fit": "best"}
    mixed |= {
        "mix": {"all": 0.75, "few": 0.25},
        "budget": 4096,
        "corrupt": 0.5,
        "infill": {"few": 1.0},
    }
    mixed |= {"spans": {"masks": 20}}
    made = {n: steps[n] for n in kept} | {"vocab": vocab, "few": few, "mixed": mixed}
    run(recipe_file(folder / "small.yaml", made), folder / "store")
    return Store(str(folder / "store"))


def documents(store: Store) -> dict[str, str]:
    """uid -> repo/path of everything ingested."""
    raw = runs.artifact(store, "small", "raw")
    tables = [read_parquet(store.local(s.layers[0].file)) for s in raw.files.shards]
    rows = pa.concat_tables(tables).to_pylist()
    return {r["uid"]: f"{r['repo']}/{r['path']}" for r in rows}


@pytest.mark.parametrize("step", ["phase1", "mixed"])
def test_a_batch_names_every_piece_of_the_index(store: Store, step: str) -> None:
    pack, train = batches._phase(store, "small", step)
    fed, names = batches._fed(store, pack, train), documents(store)
    for number in range(fed.steps):
        told = batches.batch(store, f"small/{step}", number)
        pieces = [p for s in told["sequences"] for p in s["pieces"]]
        assert told["used"] == fed.tokens(number) == (fed.batch(number).ids != FIM_PAD).sum()
        rows = fed.pieces(number).to_pylist()
        for piece, row in zip(pieces, rows, strict=True):
            assert f"{piece['repo']}/{piece['path']}" == names[row["uid"]]
            assert 0 <= piece["offset"] <= piece["offset"] + piece["length"] <= piece["of"]
            assert piece["ends"] == (
                piece["offset"] + piece["length"] == piece["of"] and row["end"] >= 0
            )


def test_sources_and_objectives_are_told(store: Store) -> None:
    told = [batches.batch(store, "mixed", n) for n in range(32)]
    pieces = [p for t in told for s in t["sequences"] for p in s["pieces"]]
    assert {p["source"] for p in pieces} == {"all", "few"}
    assert {p["done"] for p in pieces if p["source"] == "few" and p["length"] >= 16} == {
        "infilled",
        "corrupted",
    }
    assert {p["done"] for p in pieces if p["source"] == "all"} == {"plain", "corrupted"}
    facts = runs.artifact(store, "small", "mixed").facts
    assert facts["corrupted"] == sum(p["done"] == "corrupted" for p in pieces)
    assert 0 < facts["padding"] < 0.3


def test_the_text_is_what_the_model_saw(store: Store) -> None:
    told = batches.batch(store, "phase1", 0, 1)
    (found,) = told["sequences"]
    assert found["sequence"] == 1
    seen = told["text"]
    assert seen.count("<|fim_middle|>") == sum(p["done"] == "infilled" for p in found["pieces"])
    masked = [
        n
        for n in range(32)
        for p in batches.batch(store, "mixed", n)["sequences"][0]["pieces"]
        if p["done"] == "corrupted"
    ]
    assert "<mask_1>" in batches.batch(store, "mixed", masked[0], 0)["text"]


def test_a_document_knows_the_batches_that_name_it(store: Store) -> None:
    """`explain` is the inverse of `show --batch`."""
    told = batches.batch(store, "phase1", 3)
    uids = {p["uid"] for s in told["sequences"] for p in s["pieces"] if p["length"]}
    for uid in sorted(uids)[:5]:
        (story,) = stories(store, "small", uid)
        (phase,) = [t for t in story["trained"] if t["phase"] == "phase1"]
        assert 3 in phase["batches"]
        for number in phase["batches"]:
            index = batches.batch(store, "phase1", number)
            assert uid in {p["uid"] for s in index["sequences"] for p in s["pieces"]}


def test_what_is_not_there_is_refused(store: Store) -> None:
    for name, number, sequence, why in [
        ("clean", 0, None, "step clean uses filter; batches are of a train or a pack step"),
        ("phase1", 10**6, None, "counted from 0: there is no 1000000"),
        ("phase1", 0, 4, "a batch of step phase1 has 4 sequences"),
        ("phase9", 0, None, "did you mean 'phase1'"),
    ]:
        with pytest.raises(RecipeError, match=why):
            batches.batch(store, name, number, sequence)


def test_the_command_prints_people_a_table_and_programs_json(store: Store) -> None:
    where = ["--store", str(store.local())]
    shown = CliRunner().invoke(cli.cli, ["show", "phase1", "--batch", "2", *where])
    assert shown.exit_code == 0
    assert "phase1 batch 2 of" in shown.stdout
    assert "offset:length in the document's own tokens" in shown.stdout
    words = ["show", "phase1", "--batch", "2", "--sequence", "0", "--json", *where]
    data: dict[str, Any] = json.loads(CliRunner().invoke(cli.cli, words).stdout)
    assert data["text"]
    assert len(data["sequences"]) == 1
    lone = CliRunner().invoke(cli.cli, ["show", "--batch", "2", *where])
    assert isinstance(lone.exception, RecipeError)


def test_a_pack_step_shows_the_batches_of_its_phase(store: Store) -> None:
    ours, theirs = (batches.batch(store, step, 1) for step in ("batches1", "phase1"))
    assert ours | {"step": ""} == theirs | {"step": ""}
    index = read_parquet(runs.artifact(store, "small", "mixed").folder / "index.parquet")
    last = int(np.max(index["sequence"].to_numpy()))
    assert batches.batch(store, "mixed", last)["batches"] == last + 1
    assert pc.max(index["sequence"]).as_py() == last
