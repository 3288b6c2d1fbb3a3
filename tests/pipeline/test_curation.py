"""The curation boxes, each on a table small enough to check by eye."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import holdout
from pipeline.core.files import Shard
from pipeline.core.licences import from_metadata, from_text, permissive
from tests.corpus import repositories
from tests.running import curation, recipe_file, run

EVALDATA = Path(os.environ.get("ICEFLOE_EVALDATA", Path(__file__).parents[3] / "shared/evaldata"))


def documents(texts: list[str], **columns: list) -> pa.Table:
    n = len(texts)
    base = {
        "row": list(range(n)),
        "uid": [f"{i:032x}" for i in range(n)],
        "text": texts,
        "content": [str(hash(t)) for t in texts],
        "licence": [None] * n,
        "stars": [None] * n,
        "bytes": [len(t) for t in texts],
    }
    table = pa.table(base | columns)
    return table.set_column(
        table.column_names.index("stars"), "stars", table["stars"].cast(pa.int32())
    )


def body(seed: int, lines: int = 60) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        f"value_{a} = compute(first_{b}, second_{c})"
        for a, b, c in rng.integers(0, 500, (lines, 3))
    ]


def test_licences_are_recognised_and_judged() -> None:
    assert (
        from_text("Redistribution and use in source and binary forms ... Neither the name of")
        == "BSD-3-Clause"
    )
    assert from_text("hello") is None
    assert from_metadata(None, ["License :: OSI Approved :: MIT License"], None) == "MIT"
    assert from_metadata("MIT OR GPL-3.0-only", [], None) == "MIT OR GPL-3.0-only"
    assert permissive("MIT OR GPL-3.0-only")
    assert not permissive("MIT AND GPL-3.0-only")
    assert permissive("Apache-2.0 WITH LLVM-exception")
    assert not permissive(None)


def test_holdout_takes_whole_repositories_and_their_near_copies_leave() -> None:
    one, other = body(5), body(6)
    copy = [*one[:50], *body(8, 10)]
    texts = ["\n".join(x) for x in (one, other, copy, body(9))]
    table = documents(texts, repo=["a", "a", "b", "c"])
    made, words = holdout.sketch(table, 0)
    assert words.all()
    near = holdout.near_copies(made[:2], made[1:], np.array([False, True, True]), 0.5)
    assert near.tolist() == [False, True, False]
    out = holdout.chosen(table.select(["repo", "bytes"]), holdout.Config(share=0.3))
    assert 1 <= len(out) < 3


def test_shards_are_held_against_what_is_out_in_portions_no_smaller_than_it() -> None:
    shards = [Shard(str(n), rows, ()) for n, rows in enumerate([3, 1, 9, 2])]
    found = [[s.name for s in part] for part in holdout.portions(shards, 4)]
    assert found == [["0", "1"], ["2"], ["3"]]
    assert [len(part) for part in holdout.portions(shards, 0)] == [1, 1, 1, 1]


def judged(store: Path, manifests: dict) -> dict[tuple[str, int, str], dict]:
    """(step, layer, uid) -> the row of that layer, but for where its values lie in a flat file."""
    out = {}
    for step, manifest in manifests.items():
        for number, layer in enumerate(manifest["layers"]):
            for record in layer["shards"]:
                for row in pq.read_table(store / record["file"]).to_pylist():
                    row.pop("start", None)
                    out[(step, number, row["uid"])] = row
    return out


def test_any_cut_into_shards_judges_every_document_alike(tmp_path: Path) -> None:
    source = repositories(tmp_path / "source", 10)
    name = recipe_file(tmp_path / "cut.yaml", curation(source))
    found, shards = [], []
    for size in ("5k", "40k", "64M"):
        store = tmp_path / size
        made = run(name, store, f"raw.shard_bytes={size}", until="tokens")
        found.append(judged(store, made))
        shards.append(len(made["raw"]["base"]))
    assert shards[0] > shards[1] > shards[2] == 1
    assert found[0] == found[1] == found[2]
