"""A folder of bad input, built in any size, and what ingest must say of each file of it.

Generated, the same on every machine: encodings, giant lines, bombs, loops, damaged tables, families.
"""

import gzip
import io
import json
import random
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus import documented, write


@dataclass(frozen=True)
class Sizes:
    """How much of each; `FULL` is what the issue names, `SMALL` what a test has time for."""

    line: int
    """Bytes of the one-line files."""
    lines: int
    """Lines of the many-line file."""
    bomb: int
    """Bytes that the bombs unpack to."""
    tiny: int
    """Files of a few bytes."""
    family: int
    """Near copies of one file."""


SMALL = Sizes(line=5_000_000, lines=2_000, bomb=30_000_000, tiny=200, family=40)
FULL = Sizes(line=1_000_000_000, lines=100_000, bomb=10_000_000_000, tiny=100_000, family=100_000)
LIMIT = 1_000_000
"""`max_bytes` that the expectations below are for."""


def sources(root: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """Build everything below `root`; gives ingest's `source`."""
    _files(root / "files/bad", sizes)
    _tiny(root / "many", sizes.tiny)
    _family(root / "family", sizes.family)
    _tar(root / "a.tar.gz", sizes.bomb)
    _zip(root / "a.zip", sizes.bomb // 5)
    _tables(root / "tables", sizes.line)
    folders = [{"kind": "folder", "path": str(root / d)} for d in ("files", "many", "family")]
    archives = [{"kind": "archive", "path": str(root / a)} for a in ("a.tar.gz", "a.zip")]
    return [*folders, *archives, {"kind": "table", "path": str(root / "tables")}]


EXPECTED: dict[str, str | None] = {
    "latin.py": "quarantine",
    "utf16.py": "quarantine",
    "nul.py": "quarantine",
    "half.py": "quarantine",
    "line.py": "too_large",
    "lines.py": None,
    "empty.py": "empty",
    "blank.py": "empty",
    "loop": "not_regular",
    "a/up": "not_regular",
    "link.py": "not_regular",
    "picture.png": "not_source",
    "pointer.py": "lfs_pointer",
    "no.ipynb": "quarantine",
    "good.py": None,
}
"""Path in `files/bad` -> the rule that leaves it out; None is kept."""


def _files(root: Path, sizes: Sizes) -> None:
    write(
        root,
        {
            "latin.py": b"name = '\xe9'\n",
            "utf16.py": "x = 1\n".encode("utf-16"),
            "nul.py": b"x = 1\0\n",
            "half.py": "x = 'é'\n".encode()[:6],
            "lines.py": "x = 1\n" * sizes.lines,
            "empty.py": "",
            "blank.py": " \n\u00a0\n",
            "picture.png": b"\x89PNG\r\n",
            "pointer.py": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "no.ipynb": "{",
            "good.py": "x = 1\n",
        },
    )
    with open(root / "line.py", "wb") as f:
        f.writelines(_pieces(b"x = 1; ", sizes.line))
    (root / "loop").symlink_to(root)
    (root / "a").mkdir()
    (root / "a/up").symlink_to("..")
    (root / "link.py").symlink_to("good.py")


def _pieces(unit: bytes, size: int) -> Iterator[bytes]:
    piece = unit * (1_000_000 // len(unit))
    for at in range(0, size, len(piece)):
        yield piece[: size - at]


def _tiny(root: Path, count: int) -> None:
    """A tenth as many repositories as files."""
    for n in range(max(1, count // 10)):
        folder = root / f"r{n:05}"
        folder.mkdir(parents=True)
        for i in range(10):
            (folder / f"f{i}.py").write_bytes(b"x%d = %d\n" % (n, i))


def _family(root: Path, count: int) -> None:
    """One module with another number at its end, in repositories of a thousand."""
    text = documented(random.Random("family"), 6)
    for n in range(count):
        folder = root / f"copies{n // 1000:03}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"m{n % 1000:03}.py").write_text(f"{text}\nNUMBER = {n}\n")


class _Zeros(io.RawIOBase):
    """An endless file of zeros."""

    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def _tar(path: Path, bomb: int) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name in ("r/good.py", "../evil.py", "/absolute.py", "r/../../evil.py"):
            tar.addfile(_member(name, 6), io.BytesIO(b"x = 1\n"))
        link = tarfile.TarInfo("r/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        tar.addfile(_member("r/bomb.py", bomb), _Zeros())
        tar.addfile(_member("r/after.py", 6), io.BytesIO(b"y = 2\n"))


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def _zip(path: Path, bomb: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("z/good.py", "x = 1\n")
        archive.writestr("../evil.py", "x = 2\n")
        with archive.open("z/bomb.py", "w", force_zip64=True) as f:
            f.writelines(_pieces(b"0", bomb))


ROW = {"content": "x = 1\n", "max_stars_repo_name": "t/r", "max_stars_repo_path": "x.py"}


def _tables(root: Path, line: int) -> None:
    root.mkdir()
    rows = [ROW | {"max_stars_repo_path": f"x{n}.py"} for n in range(50)]
    pq.write_table(pa.Table.from_pylist(rows), root / "good.parquet")
    data = (root / "good.parquet").read_bytes()
    (root / "short.parquet").write_bytes(data[: len(data) // 2])
    (root / "empty.parquet").write_bytes(b"")
    (root / "noise.parquet").write_bytes(random.Random(0).randbytes(2000))
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), root / "wrong.parquet")
    with gzip.open(root / "lines.jsonl.gz", "wb", compresslevel=1) as f:
        f.writelines(_lines(line))


def _lines(line: int) -> Iterator[bytes]:
    yield json.dumps(ROW | {"max_stars_repo_path": "line.py"}).encode() + b"\n"
    yield b'{"content": "'
    yield from _pieces(b"x", line)
    yield b'"}\n'
    yield b'{"content": "a = 1", "content": "b = 2", "path": "x.py"}\n'
    yield b'{"content": "\\ud800", "path": "x.py"}\n'
    yield b'{"content": "\xff", "path": "x.py"}\n'
    yield b"[1]\n{broken\n" + b"[" * 100_000 + b"\n"


def accounted(sizes: Sizes) -> dict[str, int]:
    """Rule ("kept" for none) -> rows that ingest must count over all sources."""
    cut_off = sizes.bomb > 5_000_000_000  # above the cap: the archive ends there, with one row
    rows = Counter(rule or "kept" for rule in EXPECTED.values())
    rows.update(kept=10 * max(1, sizes.tiny // 10) + sizes.family)
    rows.update(kept=1 if cut_off else 2, quarantine=4 if cut_off else 3)  # the tar
    rows.update(not_regular=1, too_large=1)
    rows.update(kept=1, quarantine=1, too_large=1)  # the zip
    rows.update(kept=51, quarantine=4 + 6, too_large=1)  # the tables: files, then lines
    return dict(rows)
