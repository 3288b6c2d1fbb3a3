"""The redact box: edits as a layer, counts as evidence, and no secret outside the documents."""

from functools import partial
from pathlib import Path

import pyarrow as pa

from pipeline import redact
from pipeline.core.schema import EDITS, VERDICT
from pipeline.core.store import Store
from tests.running import bare_job, stored, verdicts_of

TOKEN = "ghp_aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hJ6"
HEADED = "# Copyright 2020 Ada <ada@acme.org>\nx = 1\n"


def table(*texts: str, path: str = "a.py") -> pa.Table:
    n = len(texts)
    return pa.table(
        {
            "uid": [f"{i:032x}" for i in range(n)],
            "text": pa.array(texts, pa.large_string()),
            "path": [path] * n,
            "language": ["Python"] * n,
        }
    )


def test_every_row_is_kept_with_counts() -> None:
    found = redact.redact(table(f"a@acme.org {TOKEN} b@acme.org", "x = 1"), redact.Config())
    assert found["keep"].to_pylist() == [True, True]
    assert found["value"].to_pylist() == [3.0, 0.0]
    assert found["evidence"].to_pylist() == ["email 2, github_pat 1", None]
    assert found["edits"].type == EDITS
    assert found.schema.field("rule").type == VERDICT.field("rule").type


def test_each_setting_is_obeyed() -> None:
    text = f"a@acme.org 93.184.216.34 {TOKEN}"
    for name in ("emails", "ips", "keys"):
        left = redact.redact(table(text), redact.Config(**{name: False}))
        assert left["value"].to_pylist() == [2.0]


def test_licence_headers_go_on_demand() -> None:
    kept = redact.redact(table(HEADED), redact.Config())
    assert kept["evidence"].to_pylist() == ["email 1"]
    gone = redact.redact(table(HEADED), redact.Config(licence_headers=True))
    assert gone["evidence"].to_pylist() == ["licence_header 1"]


def test_the_same_secret_has_the_same_placeholder_in_every_text() -> None:
    found = redact.redact(table(f"t = '{TOKEN}'", f"other({TOKEN})"), redact.Config())
    assert {e["text"] for row in found["edits"].to_pylist() for e in row} == {"<KEY>"}


def test_the_layer_is_read_with_its_edits_and_holds_no_secret(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    files = stored([{"text": f"t = '{TOKEN}'\nmail = 'ada@acme.org'\n"}, {"text": HEADED}], store)
    cfg, job = redact.Config(licence_headers=True), bare_job(store, "redact")
    redact.run(files, cfg, job)
    assert TOKEN not in str(verdicts_of(job))
    assert "acme" not in str(verdicts_of(job))
    judge = partial(redact.redact, cfg=cfg)
    top = job.layer(files, judge, ["text", "path", "language"], kind="edits")
    assert job.kept_shards == len(files.shards)
    texts = {t for shard in top.shards for t in top.read(shard, ["text"])["text"].to_pylist()}
    assert texts == {"t = '<KEY>'\nmail = '<EMAIL>'\n", "x = 1\n"}
