"""Reading archives and tables: bounded, nothing lost quietly, The Stack's shapes and bad bytes."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.core import readers, sources, streams
from pipeline.core.repos import Raw
from pipeline.core.sources import Source


def read(path: Path, limit: int = 10**6, **more: Any) -> list[Raw]:
    source = Source(kind=sources.guess(str(path)).kind, path=str(path), **more)
    repos = sources.repositories(source)
    return [raw for repo in repos for raw in readers.read(repo, limit, lambda *_: None)]


def tar_bytes(members: dict[str, bytes], how: int = tarfile.PAX_FORMAT) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=how) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return held.getvalue()


FILES = {
    "r/a.py": b"x = 1\n",
    "r/" + "deep/" * 40 + "ü.py": b"y\n",
    "r/empty.py": b"",
    "q/b.py": b"z",
}


@pytest.mark.parametrize("how", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize(
    ("ending", "pack"),
    [
        (".tar", bytes),
        (".tgz", gzip.compress),
        (".tar.xz", lzma.compress),
        (".tar.bz2", bz2.compress),
    ],
)
def test_tars_of_every_kind(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes], how: int
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(pack(tar_bytes(FILES, how)))
    found = {f"{r.repo}/{r.path}": r.data for r in read(path)}
    assert found == FILES


def test_a_tar_that_is_cut_or_damaged_says_so_after_what_could_be_read(tmp_path: Path) -> None:
    whole = tar_bytes(FILES, tarfile.GNU_FORMAT)
    damaged = bytearray(whole)
    damaged[1024 + 20] ^= 255  # the second header
    for data, before in ((whole[:1024], 1), (whole[:515], 0), (bytes(damaged), 1), (b"x" * 9, 0)):
        (tmp_path / "a.tar").write_bytes(data)
        raws = read(tmp_path / "a.tar")
        good = [r for r in raws if r.rule is None]
        assert (len(good), raws[-1].rule) == (before, "quarantine"), len(data)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_byte_never_escapes(tmp_path: Path, data: st.DataObject) -> None:
    for name, whole in (
        ("a.tar", tar_bytes(FILES)),
        ("a.tgz", gzip.compress(tar_bytes(FILES), mtime=0)),
        ("a.zip", zip_bytes(FILES)),
    ):
        broken = bytearray(whole)
        broken[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        (tmp_path / name).write_bytes(broken)
        assert all(r.rule or r.data is not None for r in read(tmp_path / name))


def zip_bytes(members: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return held.getvalue()


def test_an_archive_that_unpacks_to_too_much_is_left_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "FLOOR", 10_000)
    files = {"r/good.py": b"x = 1\n"} | {f"r/b{n}.py": bytes(2_000_000) for n in range(3)}
    (tmp_path / "a.tgz").write_bytes(gzip.compress(tar_bytes(files)))
    (tmp_path / "a.zip").write_bytes(zip_bytes(files))
    for name in ("a.tgz", "a.zip"):
        raws = read(tmp_path / name, limit=10**8)
        assert raws[0].data == b"x = 1\n"
        assert "unpacks to more than 200 times its size" in str(raws[-1].evidence)


def test_a_huge_extended_header_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("r/x")
    header.type, header.size = tarfile.XHDTYPE, 10**9
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + bytes(4096))
    assert "extended header of 1000000000 bytes" in str(read(tmp_path / "a.tar")[0].evidence)


def test_packages_name_their_repository_and_licence(tmp_path: Path) -> None:
    told = json.dumps({"name": "@s/left", "license": "MIT"}).encode()
    npm = {"package/i.js": b"let x\n", "package/package.json": told}
    (tmp_path / "left-1.0.tgz").write_bytes(gzip.compress(tar_bytes(npm)))
    wheel = {"mod/a.py": b"x\n", "mod-1.dist-info/METADATA": b"License-Expression: ISC\n\nText"}
    (tmp_path / "mod-1-py3-none-any.whl").write_bytes(zip_bytes(wheel))
    found = {(r.repo, r.path, r.licence) for r in read(tmp_path)}
    assert {("@s/left", "i.js", "MIT"), ("mod", "mod/a.py", "ISC")} < found


V2 = [
    {
        "repo_name": "a/b",
        "star_events_count": 7,
        "gha_license_id": "MIT",
        "files": [
            {
                "path": "x.py",
                "content": "x = 1\n",
                "language": "Python",
                "detected_licenses": ["MIT", "ISC"],
            },
            {"path": "y.c", "content": "int y;\n", "language": "C", "detected_licenses": []},
        ],
    },
    {"repo_name": "c/d", "star_events_count": 0, "gha_license_id": None, "files": []},
]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.zst"])
def test_a_repositorys_list_of_files_as_in_the_stack_v2(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(V2), path)
    else:
        text = "".join(json.dumps(r) + "\n" for r in V2).encode()
        path.write_bytes(pa.compress(text, "zstd", asbytes=True) if "zst" in kind else text)
    raws = read(path)
    assert [(r.repo, r.path, r.data, r.stars, r.licence) for r in raws[:2]] == [
        ("a/b", "x.py", b"x = 1\n", 7, "ISC AND MIT"),
        ("a/b", "y.c", b"int y;\n", 7, None),
    ]
    assert (raws[2].rule, len(raws)) == ("quarantine", 3)


def test_flat_rows_of_the_stack_v2_in_their_own_encoding(tmp_path: Path) -> None:
    texts = ["x = 'é'\n".encode("latin-1"), b"y\n", b"z\n", b"\xff"]
    encodings = ["ISO-8859-1", "UTF-8", "zip", "UTF-8"]
    columns = {"content": pa.array(texts, pa.binary()), "src_encoding": encodings}
    pq.write_table(pa.table(columns | {"path": list("abcd")}), tmp_path / "t.parquet")
    raws = read(tmp_path / "t.parquet")
    assert [r.data for r in raws] == ["x = 'é'\n".encode(), b"y\n", None, b"\xff"]
    assert "unknown encoding" in str(raws[2].evidence) or "none of text" in str(raws[2].evidence)


def test_columns_by_other_names(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"], "project": ["p"], "text": [1]}), tmp_path / "t.parquet")
    raws = read(tmp_path / "t.parquet", columns={"text": "body", "repo": "project"})
    assert [(r.repo, r.data) for r in raws] == [("p", b"x")]
    raws = read(tmp_path / "t.parquet", columns={"text": "bodi"})
    assert "no column 'bodi', which `columns` says is the text; it has body" in str(
        raws[0].evidence
    )
    (raw,) = read(tmp_path / "t.parquet", columns={"text": "body", "licence": "licens"})
    assert "no column 'licens', which `columns` names; it has body" in str(raw.evidence)


def test_names_may_be_bytes_and_what_is_no_text_is_not_told(tmp_path: Path) -> None:
    secret = "AKIAQ3EGRTXH2K7LMN5P"
    columns = {
        n: pa.array([w], pa.binary()) for n, w in {"path": b"a.py", "license": b"MIT"}.items()
    }
    texts = {
        "good": pa.array(["x"]),
        "list": pa.array([[secret]]),
        "file": pa.array([{"k": secret}]),
    }
    for name, text in texts.items():
        pq.write_table(pa.table(columns | {"text": text}), tmp_path / f"{name}.parquet")
        (raw,) = read(tmp_path / f"{name}.parquet")
        assert (raw.path, raw.data) == ("a.py", b"x" if name == "good" else None)
        assert secret not in str(raw.evidence)
        assert raw.licence == ("MIT" if name == "good" else None)
    pq.write_table(pa.table({"repo": ["r"], "files": [[secret]]}), tmp_path / "files.parquet")
    assert [r.evidence for r in read(tmp_path / "files.parquet")] == [
        "row 0: a file is of type str"
    ]


def test_bad_bytes_and_types_in_parquet_are_one_row_each(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(
        pa.string(), 3, pa.array([b"ok", b"\xff", b"no"], pa.binary()).buffers()
    )
    pq.write_table(pa.table({"text": text, "path": text}), tmp_path / "a.parquet")
    assert [(r.path, r.data) for r in read(tmp_path / "a.parquet")][::2] == [
        ("ok", b"ok"),
        ("no", b"no"),
    ]
    pq.write_table(pa.table({"text": [1, None]}), tmp_path / "b.parquet")
    assert [r.rule for r in read(tmp_path / "b.parquet")] == ["quarantine"] * 2
    twice = pa.Table.from_arrays([pa.array(["x"])] * 2, names=["text", "text"])
    pq.write_table(twice, tmp_path / "c.parquet")
    assert "two columns are called text" in str(read(tmp_path / "c.parquet")[0].evidence)


LINES = {
    b'{"text": "a", "text": "b"}': "key 'text' is there twice",
    b'{"text": "\\ud800"}': "surrogates not allowed",
    b'{"text": "\xff"}': "can't decode byte",
    b'{"text": 1}': "text is of type int",
    b"[1]": "no JSON object",
    b"null": "no JSON object",
    b"{": "",
    b"[" * 50_000: "recursion",
    b'{"id": 1}': "no text column",
    b'{"text": "' + b"x" * 300_000 + b'"}': "longer line",
}


def test_every_bad_line_is_a_row_that_names_file_and_line(tmp_path: Path) -> None:
    good = b'{"text": "x", "path": "good.py"}'
    (tmp_path / "t.jsonl").write_bytes(b"\n".join([good, *LINES, b"", good]))
    raws = read(tmp_path / "t.jsonl", limit=1000)
    assert [r.path for r in (raws[0], raws[-1])] == ["good.py"] * 2
    assert len(raws) == len(LINES) + 2
    for number, (raw, wanted) in enumerate(zip(raws[1:-1], LINES.values(), strict=True), 1):
        assert raw.rule == ("too_large" if wanted == "longer line" else "quarantine")
        assert wanted in str(raw.evidence)
        assert f"#{number}" in raw.path


LINE = st.binary(max_size=60).filter(
    lambda b: b"\n" not in b and b[:2] not in (b"\x1f\x8b", b"\x28\xb5", b"\xfd7")
)


@given(st.lists(LINE, max_size=20))
@example([b"BZh", b"\0"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_lines_at_all_are_accounted_for(tmp_path: Path, lines: list[bytes]) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(lines))
    assert len(read(tmp_path / "t.jsonl")) == sum(1 for line in lines if line.strip())
