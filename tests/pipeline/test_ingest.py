"""Ingest: every kind of source, and every kind of bad input: nothing lost, nothing half-read."""

import gzip
import io
import json
import os
import tarfile
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import RecipeError, StageError
from pipeline.core.runner import Artifact
from pipeline.core.schema import digest, uid
from pipeline.core.store import Store
from tests import poison
from tests.corpus import repositories, write
from tests.running import recipe_file, run

ROWS = [
    {
        "content": "x = 1\n",
        "max_stars_repo_name": "a/b",
        "max_stars_repo_path": "x.py",
        "lang": "Python",
        "max_stars_repo_licenses": ["MIT"],
        "max_stars_count": 3,
    },
    {
        "content": "int y;\n",
        "max_stars_repo_name": "c/d",
        "max_stars_repo_path": "y.c",
        "lang": "C",
        "max_stars_repo_licenses": ["Apache-2.0"],
        "max_stars_count": None,
    },
]


def ingest(tmp_path: Path, source: Any, *overrides: str) -> tuple[list[dict], list[dict], dict]:
    """(documents, ledger rows, the step's counts) of one ingest, every row allowed to fail."""
    steps = {"raw": {"use": "ingest", "source": source, "on": {"max_quarantine": 1}}}
    manifest = run(recipe_file(tmp_path / "small.yaml", steps), tmp_path / "store", *overrides)[
        "raw"
    ]
    files = Artifact(Store(str(tmp_path / "store")), "ingest", manifest["key"]).files
    columns = ["repo", "path", "language", "licence", "stars", "text"]
    rows = [r for s in files.shards for r in files.read(s, columns).to_pylist()]
    ledger = [
        r
        for b in manifest["base"]
        for r in pq.read_table(tmp_path / "store" / b["ledger"]).to_pylist()
    ]
    return rows, ledger, manifest["rows"]


def rules(ledger: list[dict]) -> dict[str, str]:
    return {r["path"]: r["rule"] for r in ledger}


def test_a_folder_of_checkouts(tmp_path: Path) -> None:
    write(
        tmp_path / "src/one",
        {
            "a.py": "x = 1\n",
            "LICENSE": "Permission is hereby granted, free of charge",
            "pic.png": "..",
            ".git/config": "secret",
            "empty.py": " \n",
        },
    )
    rows, ledger, counts = ingest(tmp_path, str(tmp_path / "src"))
    assert [(r["repo"], r["path"], r["language"], r["licence"]) for r in rows] == [
        ("one", "a.py", "Python", "MIT")
    ]
    assert rules(ledger) == {"LICENSE": "not_source", "pic.png": "not_source", "empty.py": "empty"}
    assert counts == {
        "in": 4,
        "kept": 1,
        "dropped": {"empty": 1, "not_source": 2},
        "quarantined": 0,
    }


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz"])
def test_tables_in_the_stacks_columns(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data" / f"part.{kind}"
    path.parent.mkdir()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        text = "".join(json.dumps(r) + "\n" for r in ROWS).encode()
        path.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    rows, ledger, _ = ingest(tmp_path, str(path.parent))
    assert [(r["repo"], r["path"], r["licence"], r["stars"]) for r in rows] == [
        ("a/b", "x.py", "MIT", 3),
        ("c/d", "y.c", "Apache-2.0", None),
    ]
    assert ledger == []


def test_archives_are_read_without_being_extracted(tmp_path: Path) -> None:
    repositories(tmp_path / "src", 1)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "src/repo0", "repo0")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        for p in sorted((tmp_path / "src/repo0").rglob("*")):
            z.write(p, str(p.relative_to(tmp_path / "src")))
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    tar_rows = ingest(tmp_path / "one", str(tmp_path / "a.tar.gz"))[0]
    zip_rows = ingest(tmp_path / "two", str(tmp_path / "a.zip"))[0]
    assert len(tar_rows) == 13
    key = ("repo", "path", "text")
    assert sorted([r[k] for k in key] for r in tar_rows) == sorted(
        [r[k] for k in key] for r in zip_rows
    )


def test_this_pythons_own_code_is_sampled_deterministically(tmp_path: Path) -> None:
    source = [
        {"kind": "stdlib", "per_repo": "200k"},
        {"kind": "installed", "sample": "300k", "per_repo": "100k"},
    ]
    rows, _, counts = ingest(tmp_path, source)
    (tmp_path / "again").mkdir()
    assert ingest(tmp_path / "again", source)[0] == rows
    assert {"cpython"} < {r["repo"] for r in rows}
    assert counts["kept"] == len(rows) > 10


def test_a_poison_folder_is_read_and_every_row_accounted_for(tmp_path: Path) -> None:
    root = write(
        tmp_path / "src/bad",
        {
            "latin.py": b"name = '\xe9'\n",
            "nul.py": b"x = 1\0\n",
            "good.py": "x = 1\n",
            "bom.py": b"\xef\xbb\xbfx = 2\n",
            "crlf.py": "x = 3\r\n",
            "empty.py": "",
            "ü.py": "x = 4\n",
            "deep.py": "(" * 5000 + "\n",
        },
    )
    (root / "loop").symlink_to(root)
    (root / "link.py").symlink_to(root / "good.py")
    os.mkfifo(root / "pipe.py")
    with open(root / "huge.py", "wb") as f:
        f.truncate(1_000_000_000)
    os.rename(root / "ü.py", os.fsencode(str(root)) + b"/\xff.py")
    rows, ledger, counts = ingest(tmp_path, str(tmp_path / "src"))
    assert {r["path"]: r["text"] for r in rows} == {
        "good.py": "x = 1\n",
        "bom.py": "x = 2\n",
        "crlf.py": "x = 3\r\n",
        "\\xff.py": "x = 4\n",
        "deep.py": "(" * 5000 + "\n",
    }
    assert rules(ledger) == {
        "latin.py": "quarantine",
        "nul.py": "quarantine",
        "empty.py": "empty",
        "loop": "not_regular",
        "link.py": "not_regular",
        "pipe.py": "not_regular",
        "huge.py": "too_large",
    }
    assert (
        counts["in"]
        == 12
        == counts["kept"] + sum(counts["dropped"].values()) + counts["quarantined"]
    )


def test_a_hostile_archive_leaves_nothing_outside_and_loses_nothing(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for name, data in {
            "r/good.py": b"x = 1\n",
            "../evil.py": b"x = 2\n",
            "/abs.py": b"x = 3\n",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("r/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    rows, ledger, _ = ingest(tmp_path, str(tmp_path / "a.tar.gz"))
    assert [r["path"] for r in rows] == ["good.py"]
    assert rules(ledger) == {
        "../evil.py": "quarantine",
        "/abs.py": "quarantine",
        "link.py": "not_regular",
    }
    assert not (tmp_path.parent / "evil.py").exists()


def test_a_zip_bomb_is_cut_off_at_the_limit(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("r/bomb.py", b"0" * 50_000_000)
        z.writestr("r/good.py", "x = 1\n")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    size = (50_000_000).to_bytes(4, "little")
    while (at := data.find(size)) >= 0:
        data[at : at + 4] = (9).to_bytes(4, "little")  # a header that lies
    (tmp_path / "a.zip").write_bytes(data)
    rows, ledger, _ = ingest(tmp_path, str(tmp_path / "a.zip"), "raw.max_bytes=1M")
    assert [r["path"] for r in rows] == ["good.py"]
    assert set(rules(ledger).values()) <= {"too_large", "quarantine"}
    assert len(ledger) == 1


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_truncated_archive_is_quarantined(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(
        b"PK\x03\x04 not really" if name.endswith("zip") else gzip.compress(b"x" * 2000)[:30]
    )
    with pytest.raises(StageError, match="no document in 1 repositories"):
        ingest(tmp_path, str(tmp_path / name))


def test_bad_lines_are_quarantined_one_by_one(tmp_path: Path) -> None:
    lines = [
        json.dumps(ROWS[0]).encode(),
        b"{broken",
        b'{"content": 7}',
        b"[1]",
        b'{"content": "\\ud800"}',
        b'{"content": "' + b"x" * 300_000 + b'"}',
        b"\xff\xfe",
        json.dumps(ROWS[1]).encode(),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    rows, _, counts = ingest(tmp_path, str(tmp_path / "a.jsonl"), "raw.max_bytes=10k")
    assert len(rows) == 2
    assert counts["in"] == 8
    assert (
        counts["quarantined"]
        + counts["dropped"].get("too_large", 0)
        + counts["dropped"].get("not_source", 0)
        == 6
    )


def test_an_unreadable_parquet_is_quarantined_beside_good_ones(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d/good.parquet")
    data = (tmp_path / "d/good.parquet").read_bytes()
    (tmp_path / "d/short.parquet").write_bytes(data[: len(data) // 2])
    (tmp_path / "d/empty.parquet").write_bytes(b"")
    rows, ledger, counts = ingest(tmp_path, str(tmp_path / "d"))
    assert len(rows) == 2
    assert {p: "unreadable Parquet" in str(r["evidence"]) for r in ledger if (p := r["path"])} == {
        "short.parquet": True,
        "empty.parquet": True,
    }
    assert counts["quarantined"] == 2


def test_wrong_columns_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(
        StageError, match="no text column; it has body, id; name one of them text or content"
    ):
        ingest(tmp_path, str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere does not exist"),
        ("src", "nothing to read there"),
        ([], "empty list"),
        ({"kind": "foldr", "path": "x"}, "foldr"),
        ({"kind": "folder"}, "needs a path"),
    ],
)
def test_a_source_that_is_not_there_says_so(
    tmp_path: Path, source: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=message):
        ingest(tmp_path, source)


def test_two_sources_with_one_repository_name_are_refused(tmp_path: Path) -> None:
    for side in ("a", "b"):
        write(tmp_path / side / "src/app", {f"{side}.py": "x = 1\n"})
    both = [str(tmp_path / "a/src"), str(tmp_path / "b/src")]
    with pytest.raises(RecipeError, match="two sources hold a repository src/app"):
        ingest(tmp_path, both)
    rows, _, _ = ingest(tmp_path, [both[0], both[0]])
    assert [r["path"] for r in rows] == ["a.py"]


def test_a_single_checkout_is_one_repository_and_loose_files_are_accounted_for(
    tmp_path: Path,
) -> None:
    write(tmp_path / "mine", {"a.py": "x = 1\n", "pkg/b.py": "y = 2\n", ".git/HEAD": "ref"})
    rows, ledger, _ = ingest(tmp_path, str(tmp_path / "mine"))
    assert [(r["repo"], r["path"]) for r in rows] == [("mine", "a.py"), ("mine", "pkg/b.py")]
    assert ledger == []
    write(tmp_path / "many", {"top.py": "x = 1\n", "pkg/b.py": "y = 2\n"})
    (tmp_path / "again").mkdir()
    rows, _, counts = ingest(tmp_path / "again", str(tmp_path / "many"))
    assert sorted((r["repo"], r["path"]) for r in rows) == [(".", "top.py"), ("pkg", "b.py")]
    assert counts["in"] == 2


def test_rows_with_impossible_numbers_and_names_are_read(tmp_path: Path) -> None:
    row = {"content": "x = 1\n", "path": "a\ud800.py", "stars": float("inf"), "repo": "r"}
    lines = [json.dumps(row), json.dumps(row | {"stars": 99999999999, "content": "y = 2\n"})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows, _, _ = ingest(tmp_path, str(tmp_path / "a.jsonl"))
    assert [(r["path"], r["stars"]) for r in rows] == [("a\\ud800.py", None)] * 2


def test_the_poison_sources_are_accounted_for_rule_by_rule(tmp_path: Path) -> None:
    source = poison.sources(tmp_path / "in", poison.SMALL)
    _, ledger, counts = ingest(tmp_path, source, f"raw.max_bytes={poison.LIMIT}")
    found = {"kept": counts["kept"], "quarantine": counts["quarantined"]} | counts["dropped"]
    assert found == poison.accounted(poison.SMALL)
    bad = {r["path"]: r["rule"] for r in ledger if r["repo"] == "bad"}
    assert bad == {path: rule for path, rule in poison.EXPECTED.items() if rule}
    assert all(r["evidence"] for r in ledger if r["rule"] in ("quarantine", "too_large"))
    assert not list(tmp_path.rglob("evil.py"))


LICENSED = {
    "LICENSE": "SPDX-License-Identifier: MIT",
    "a.py": "x = 1\n",
    "own.py": "# SPDX-License-Identifier: GPL-3.0-only\nx = 2\n",
    "vendor/COPYING": "SPDX-License-Identifier: Apache-2.0",
    "vendor/v.py": "x = 3\n",
}


def test_a_files_own_licence_counts_before_the_nearest_above_it(tmp_path: Path) -> None:
    write(tmp_path / "src/one", LICENSED)
    write(tmp_path / "src/none", {"b.py": "y = 1\n"})
    rows, _, _ = ingest(tmp_path, str(tmp_path / "src"))
    assert {r["path"]: r["licence"] for r in rows} == {
        "a.py": "MIT",
        "own.py": "GPL-3.0-only",
        "vendor/v.py": "Apache-2.0",
        "b.py": None,
    }


@pytest.mark.parametrize(
    ("policy", "kept", "dropped"),
    [
        ("permissive", {"a.py", "vendor/v.py"}, {"GPL-3.0-only", "none stated"}),
        ("permissive+unlicensed", {"a.py", "vendor/v.py", "b.py"}, {"GPL-3.0-only"}),
        ("[GPL-3.0-only]", {"own.py"}, {"MIT", "Apache-2.0", "none stated"}),
    ],
)
def test_licence_policies(tmp_path: Path, policy: str, kept: set, dropped: set) -> None:
    write(tmp_path / "src/one", LICENSED)
    write(tmp_path / "src/none", {"b.py": "y = 1\n"})
    rows, ledger, _ = ingest(tmp_path, str(tmp_path / "src"), f"raw.licences={policy}")
    assert {r["path"] for r in rows} == kept
    assert {r["evidence"] for r in ledger if r["rule"] == "licence"} == dropped


def test_opted_out_files_are_counted_with_the_line_that_hit(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / "src" / name, {"a.py": f"{name} = 1\n", "secret/b.py": f"{name} = 2\n"})
    (tmp_path / "out.txt").write_text("repo: Two # asked in May\npath: one/secret/**\n")
    overrides = (str(tmp_path / "src"), f"raw.opt_out={tmp_path / 'out.txt'}")
    rows, ledger, _ = ingest(tmp_path, *overrides)
    assert [(r["repo"], r["path"]) for r in rows] == [("one", "a.py")]
    assert {(r["rule"], r["evidence"]) for r in ledger} == {
        ("opt_out", "repo: Two"),
        ("opt_out", "path: one/secret/**"),
    }
    manifest = next((tmp_path / "store/ingest").glob("*/manifest.json"))
    assert json.loads(manifest.read_text())["facts"]["opted_out"] == 3
    (tmp_path / "out.txt").write_text("repo: one\n")
    assert {r["repo"] for r in ingest(tmp_path, *overrides)[0]} == {"two"}


BOOK = {
    "nbformat": 4,
    "metadata": {"kernelspec": {"language": "python", "name": "python3"}},
    "cells": [
        {"cell_type": "markdown", "source": ["Add."]},
        {"cell_type": "code", "source": "x = 1", "outputs": [{"text": "no"}]},
    ],
}


@pytest.mark.parametrize("how", ["script", "raw", "drop"])
def test_notebooks(tmp_path: Path, how: str) -> None:
    write(tmp_path / "src/r", {"n.ipynb": json.dumps(BOOK), "a.py": "y = 1\n"})
    rows, ledger, _ = ingest(tmp_path, str(tmp_path / "src"), f"raw.notebooks={how}")
    found = {r["path"]: (r["language"], r["text"]) for r in rows}
    if how == "drop":
        assert rules(ledger) == {"n.ipynb": "notebook"}
    else:
        language, text = found["n.ipynb"]
        assert language == ("Python" if how == "script" else "Jupyter Notebook")
        assert ("x = 1" in text, "outputs" in text) == (True, how == "raw")


def test_redacted_at_ingest_the_store_never_holds_a_secret(tmp_path: Path) -> None:
    address = "jane.roe@widgets-inc.com"
    write(tmp_path / "src/r", {"a.py": f"# by {address}\nx = 1\n", "b.py": "y = 1\n"})
    rows, _, _ = ingest(tmp_path, str(tmp_path / "src"), "raw.redact=true")
    assert {r["path"]: r["text"] for r in rows} == {
        "a.py": "# by <EMAIL>\nx = 1\n",
        "b.py": "y = 1\n",
    }
    record = json.loads(next((tmp_path / "store/ingest").glob("*/manifest.json")).read_text())
    table = pq.read_table(tmp_path / "store" / record["base"][0]["file"])
    for row in table.to_pylist():
        assert row["bytes"] == len(row["text"].encode())
        assert row["content"] == digest(row["text"])
        assert row["uid"] == uid(row["source"], row["repo"], row["path"], row["content"])


def test_large_tables_become_several_shards_and_repositories_stay_together(tmp_path: Path) -> None:
    rows = [
        {"content": f"x = {n}\n" * 100, "repo": f"r{n % 3}", "path": f"{n}.py"} for n in range(60)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=7)
    found, _, counts = ingest(tmp_path, str(tmp_path / "a.parquet"), "raw.shard_bytes=10k")
    manifest = json.loads(next((tmp_path / "store/ingest").glob("*/manifest.json")).read_text())
    assert counts["kept"] == 60
    assert len(manifest["base"]) > 3
    for record in manifest["base"]:
        names = pq.read_table(tmp_path / "store" / record["file"])["repo"].to_pylist()
        changes = sum(a != b for a, b in pairwise(names))
        assert changes == len(set(names)) - 1
    assert {r["path"] for r in found} == {r["path"] for r in rows}


def test_a_row_that_is_there_twice_in_a_table_is_one_document(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([*ROWS, ROWS[0]]), tmp_path / "a.parquet")
    rows, ledger, _ = ingest(tmp_path, str(tmp_path / "a.parquet"))
    assert (len(rows), [r["rule"] for r in ledger]) == (2, ["same_file"])


def test_many_small_repositories_share_shards(tmp_path: Path) -> None:
    for n in range(300):
        write(tmp_path / f"src/r{n}", {"a.py": f"x = {n}\n" * 20})
    rows, _, _ = ingest(tmp_path, str(tmp_path / "src"), "raw.shard_bytes=40k")
    manifest = json.loads(next((tmp_path / "store/ingest").glob("*/manifest.json")).read_text())
    assert len(rows) == 300
    assert 5 < len(manifest["base"]) < 40
    assert manifest["facts"]["repositories"] == 300


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("raw.max_bytes=0", "max_bytes is 0; it must be at least 1"),
        ("raw.shard_bytes=-1", "shard_bytes is -1"),
        ("raw.licences=permisive", "did you mean 'permissive'"),
        ("raw.languages=[python]", "'python' is written 'Python'"),
        ("raw.opt_out=nowhere.txt", "nowhere.txt"),
    ],
)
def test_settings_out_of_bounds_are_refused(tmp_path: Path, override: str, message: str) -> None:
    write(tmp_path / "src/r", {"a.py": "x = 1\n"})
    with pytest.raises(RecipeError, match=message):
        ingest(tmp_path, str(tmp_path / "src"), override)
