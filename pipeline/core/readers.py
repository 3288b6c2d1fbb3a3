"""Reads a repository file by file, or a table row by row; what cannot be read says why.

Nothing is extracted, no link is followed, and nothing is read beyond its cap: a file that is too
large, a damaged archive member or a broken line becomes one row with its reason.
"""

import gzip
import json
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipeline.core.errors import StageError
from pipeline.core.sources import Entry, Repo, shown

BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What damaged or truncated compressed data raises."""


@dataclass(frozen=True)
class Raw:
    """One file or row as it was read: its bytes (or text), or the reason why it was not."""

    repo: str
    path: str
    data: bytes | str | None
    rule: str | None = None
    evidence: str | None = None
    row: dict[str, Any] | None = None


def read(repo: Repo, limit: int) -> Iterator[Raw]:
    """Everything in a repository, one at a time. `limit` bytes is the most that is read of one."""
    readers = {"archive": _read_archive, "table": _read_table}
    yield from readers.get(repo.kind, _read_files)(repo, limit)


def _read_files(repo: Repo, limit: int) -> Iterator[Raw]:
    for entry in repo.entries:
        yield _read_file(repo, entry, limit)


def _read_file(repo: Repo, entry: Entry, limit: int) -> Raw:
    try:
        info = os.lstat(entry.where)
        if not stat.S_ISREG(info.st_mode):
            return Raw(repo.name, entry.path, None, "not_regular", "a link, pipe or device")
        if info.st_size > limit:
            return Raw(repo.name, entry.path, None, "too_large", f"{info.st_size} bytes")
        with open(entry.where, "rb") as f:
            return Raw(repo.name, entry.path, f.read(limit))
    except OSError as e:
        return Raw(repo.name, entry.path, None, "quarantine", f"{e.strerror}")


def _read_archive(repo: Repo, limit: int) -> Iterator[Raw]:
    where = repo.entries[0].where
    try:
        yield from (_read_zip if where.endswith(".zip") else _read_tar)(where, limit)
    except (tarfile.TarError, zipfile.BadZipFile, ValueError, *BROKEN) as e:
        yield Raw(repo.name, repo.entries[0].path, None, "quarantine", f"damaged archive: {e}")


def _read_tar(where: str, limit: int) -> Iterator[Raw]:
    with tarfile.open(where, mode="r|*") as tar:
        for member in tar:
            if member.isdir():
                continue
            raw = _member(member.name, member.size, limit, regular=member.isreg())
            if raw.rule is None and (f := tar.extractfile(member)) is not None:
                raw = Raw(raw.repo, raw.path, f.read(limit))
            yield raw


def _read_zip(where: str, limit: int) -> Iterator[Raw]:
    with zipfile.ZipFile(where) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            kind = member.external_attr >> 28
            raw = _member(member.filename, member.file_size, limit, regular=kind in (0, 8))
            yield _inflate(archive, member, raw, limit) if raw.rule is None else raw


def _inflate(archive: zipfile.ZipFile, member: zipfile.ZipInfo, raw: Raw, limit: int) -> Raw:
    """A zip member's bytes, never more than `limit` whatever its header says."""
    try:
        with archive.open(member) as f:
            data = f.read(limit + 1)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, *BROKEN) as e:
        return Raw(raw.repo, raw.path, None, "quarantine", f"damaged member: {e}")
    if len(data) > limit:
        return Raw(raw.repo, raw.path, None, "too_large", "more bytes than its header says")
    return Raw(raw.repo, raw.path, data)


def _member(name: str, size: int, limit: int, regular: bool) -> Raw:
    """An archive member before it is read: its top folder is its repository."""
    parts = PurePosixPath(shown(name)).parts
    path = "/".join(parts[1:]) if len(parts) > 1 else shown(name)
    repo = parts[0] if len(parts) > 1 else "."
    if name.startswith(("/", "\\")) or ".." in parts or (parts and ":" in parts[0]):
        return Raw(repo, shown(name), None, "quarantine", "a path that leaves the archive")
    if not regular:
        return Raw(repo, path, None, "not_regular", "a link, pipe or device")
    if size > limit:
        return Raw(repo, path, None, "too_large", f"{size} bytes")
    return Raw(repo, path, None)


COLUMNS = {
    "text": ("text", "content", "code"),
    "repo": ("repo", "repo_name", "max_stars_repo_name", "repository", "repository_name"),
    "path": ("path", "file_path", "max_stars_repo_path", "filename"),
    "language": ("language", "lang", "programming_language"),
    "licence": ("licence", "license", "licenses", "max_stars_repo_licenses"),
    "stars": ("stars", "star_count", "max_stars_count"),
}
"""Our column -> the names it goes by in The Stack v1, its dedup, StarCoderData and common exports."""


def _read_table(repo: Repo, limit: int) -> Iterator[Raw]:
    entry = repo.entries[0]
    rows = _parquet_rows if entry.path.endswith(".parquet") else _json_rows
    for number, row in rows(entry, limit):
        if isinstance(row, Raw):
            yield row
            continue
        text = row.get("text")
        name = _clean(row.get("repo") or ".")
        path = _clean(row.get("path") or f"{entry.path}#{number}")
        if not isinstance(text, str | bytes):
            yield Raw(
                name, path, None, "quarantine", f"{entry.path} row {number}: text is {text!r}"[:300]
            )
        elif len(text) > limit:
            yield Raw(name, path, None, "too_large", f"{len(text)} bytes")
        else:
            yield Raw(name, path, text, row=row)


def _clean(value: Any) -> str:
    """A name as valid UTF-8: lone surrogates are shown as escapes."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _parquet_rows(entry: Entry, limit: int) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(entry.where, page_checksum_verification=True) as file:
            names = _named(file.schema_arrow.names, entry)
            for batch in file.iter_batches(batch_size=256, columns=list(names.values())):
                for row in batch.to_pylist():
                    yield number, {ours: row[theirs] for ours, theirs in names.items()}
                    number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        said = str(e).splitlines()[0]
        yield (
            number,
            Raw(
                ".", entry.path, None, "quarantine", f"unreadable Parquet from row {number}: {said}"
            ),
        )


def _named(columns: list[str], entry: Entry) -> dict[str, str]:
    """Our column names -> theirs; StageError when there is no text among them."""
    found = {
        ours: next((t for t in theirs if t in columns), None) for ours, theirs in COLUMNS.items()
    }
    if found["text"] is None:
        raise StageError(
            f"{entry.where}: no text column; it has {', '.join(columns)}; "
            f"name one of them {' or '.join(COLUMNS['text'])}"
        )
    return {ours: theirs for ours, theirs in found.items() if theirs}


def _json_rows(entry: Entry, limit: int) -> Iterator[tuple[int, Any]]:
    opener = gzip.open if entry.where.endswith(".gz") else open
    with opener(entry.where, "rb") as f:
        try:
            for number, line in enumerate(_lines(f, 2 * limit + 65536)):
                if line is None or line.strip():
                    yield number, _json_row(line, entry, number)
        except BROKEN as e:
            yield -1, Raw(".", entry.path, None, "quarantine", f"unreadable: {e}")


def _lines(f: Any, limit: int) -> Iterator[bytes | None]:
    """Lines of at most `limit` bytes; a longer one is skipped in pieces and given as None."""
    while line := f.readline(limit):
        if len(line) < limit or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = f.readline(limit)
        yield None


def _json_row(line: bytes | None, entry: Entry, number: int) -> Any:
    where = f"{entry.path}#{number}"
    if line is None:
        return Raw(".", where, None, "too_large", "a longer line than max_bytes allows")
    try:
        row = json.loads(line.decode("utf-8-sig"))
        if not isinstance(row, dict):
            raise ValueError("no JSON object")
    except (ValueError, RecursionError) as e:
        return Raw(".", where, None, "quarantine", f"line {number + 1}: {e}"[:300])
    names = (
        _named(list(row), entry)
        if number == 0
        else {
            ours: t
            for ours, theirs in COLUMNS.items()
            if (t := next((t for t in theirs if t in row), None))
        }
    )
    return {ours: row[theirs] for ours, theirs in names.items()}
