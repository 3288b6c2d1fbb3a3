"""Where documents come from: folders of checkouts, archives, tables, and this Python installation.

Each source lists *repositories*: a name, a licence, and files that can be opened one by one.
Nothing is extracted, no link is followed, and no file is read beyond its cap.
"""

import gzip
import json
import os
import stat
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pipeline.core import licences
from pipeline.core.config import Bytes, config
from pipeline.core.errors import RecipeError, StageError, did_you_mean
from pipeline.core.languages import language_of
from pipeline.core.schema import digest

Kind = Literal["folder", "archive", "table", "stdlib", "installed"]
_TABLES = (".parquet", ".jsonl", ".jsonl.gz", ".json.gz")
_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip", ".tar.xz", ".tar.bz2")


@config
class Source:
    """One place to take repositories from."""

    kind: Kind
    """folder: each folder in it is a repository. archive: a .tar(.gz|.xz|.bz2) or .zip, each folder at
    its top is one. table: Parquet or JSONL files in The Stack's columns. stdlib, installed: this
    Python's standard library, and each distribution installed beside it."""
    path: str | None = None
    """The folder, archive, table file or folder of tables; none for stdlib and installed."""
    sample: Bytes | None = None
    """Take repositories in the order of their names' hashes until this many bytes; None is all."""
    per_repo: Bytes | None = None
    """Of one repository, take files in the order of their paths' hashes until this many bytes."""


@dataclass(frozen=True)
class Entry:
    """A file of a repository before it is read: `path` inside the repository, `size` in bytes."""

    path: str
    size: int
    where: str


@dataclass(frozen=True)
class Repo:
    """A repository as listed; `fingerprint` changes when any of its files does."""

    source: str
    name: str
    licence: str | None
    kind: Kind
    entries: tuple[Entry, ...]
    fingerprint: str


def guess(text: str) -> Source:
    """The source that a bare path means, by its ending."""
    path = Path(text)
    if text in ("stdlib", "installed"):
        return Source(kind=text)  # type: ignore[arg-type]
    if text.endswith(_ARCHIVES):
        return Source(kind="archive", path=text)
    holds_tables = path.is_dir() and any(
        p.name.endswith(_TABLES) for p in path.iterdir() if p.is_file()
    )
    kind: Kind = "table" if text.endswith(_TABLES) or "*" in text or holds_tables else "folder"
    return Source(kind=kind, path=text)


def repositories(source: Source) -> list[Repo]:
    """Everything a source holds, sampled, in name order. Raises RecipeError when it is not there."""
    found = sorted(_LISTERS[source.kind](source), key=lambda r: r.name)
    if not found:
        raise RecipeError(
            f"source {source.path or source.kind}: nothing to read there; "
            f"a {source.kind} source needs {_NEEDS[source.kind]}"
        )
    return sorted(_sampled(found, source.sample), key=lambda r: r.name)


_NEEDS = {
    "folder": "folders with files in them",
    "archive": "a .tar.gz or .zip with files",
    "table": "*.parquet or *.jsonl files",
    "stdlib": "a Python standard library",
    "installed": "installed distributions",
}


def _sampled(repos: list[Repo], budget: int | None) -> Iterator[Repo]:
    if budget is None:
        yield from repos
        return
    taken = 0
    for repo in sorted(repos, key=lambda r: digest(r.name)):
        if taken >= budget:
            return
        yield repo
        taken += sum(map(_weight, repo.entries))


def _weight(entry: Entry) -> int:
    """What a file counts for in a sample: only source text does, a library's binaries do not."""
    return entry.size if language_of(entry.path) else 0


def _existing(source: Source) -> Path:
    if source.path is None:
        raise RecipeError(f"source: kind {source.kind} needs a path")
    path = Path(source.path).expanduser()
    if not path.exists():
        near = (
            did_you_mean(path.name, [p.name for p in path.parent.iterdir()])
            if path.parent.is_dir()
            else ""
        )
        raise RecipeError(f"source: {path} does not exist{near}")
    return path


def _repo(
    source: Source, label: str, name: str, licence: str | None, entries: list[Entry], key: str
) -> Repo:
    """A listed repository, cut to `per_repo` bytes by the hash order of its paths."""
    if source.per_repo is not None:
        taken, kept = 0, []
        for entry in sorted(entries, key=lambda e: digest(e.path)):
            if taken < source.per_repo:
                kept.append(entry)
                taken += _weight(entry)
        entries = kept
    entries = sorted(entries, key=lambda e: e.path)
    whole = digest(key, label, name, licence or "", *(f"{e.path}\0{e.size}" for e in entries))
    return Repo(label, name, licence, source.kind, tuple(entries), whole)


def _folder(source: Source) -> Iterator[Repo]:
    root = _existing(source)
    if not root.is_dir():
        raise RecipeError(
            f"source: {root} is a file; a folder of repositories is needed here "
            "(kind archive reads .tar.gz and .zip, kind table .parquet and .jsonl)"
        )
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.is_symlink():
            entries, stamp = _walk(path)
            if entries:
                yield _repo(source, root.name, path.name, _licence_in(path), entries, stamp)


def _walk(root: Path) -> tuple[list[Entry], str]:
    """Every file below `root` without following links; and a stamp of sizes and times."""
    entries, stamps = [], []
    for folder, folders, files in os.walk(root, followlinks=False):
        links = [f for f in folders if os.path.islink(os.path.join(folder, f))]
        folders[:] = sorted(f for f in folders if f not in (".git", ".hg", ".svn", "__pycache__"))
        for name in sorted([*files, *links]):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            inside = os.path.relpath(path, root)
            entries.append(Entry(_shown(inside), info.st_size, path))
            stamps.append(f"{inside!r} {info.st_size} {info.st_mtime_ns}")
    return entries, digest(*stamps)


def _shown(path: str) -> str:
    """A path as valid UTF-8: bytes that are not are shown as escapes."""
    return (
        path.encode("utf-8", "surrogateescape")
        .decode("utf-8", "backslashreplace")
        .replace(os.sep, "/")
    )


def _licence_in(root: Path) -> str | None:
    for path in sorted(root.iterdir()):
        if licences.FILE.match(path.name) and path.is_file() and not path.is_symlink():
            with open(path, errors="replace") as f:
                return licences.from_text(f.read(20_000))
    return None


def _archive(source: Source) -> Iterator[Repo]:
    path = _existing(source)
    info = path.stat()
    entry = Entry(path.name, info.st_size, str(path))
    yield _repo(source, path.name, path.name.split(".")[0], None, [entry], str(info.st_mtime_ns))


def _table(source: Source) -> Iterator[Repo]:
    text = str(source.path)
    if "*" in text:
        base = (
            Path(text.split("*")[0]).parent
            if not text.split("*")[0].endswith("/")
            else Path(text.split("*")[0])
        )
        paths = sorted(base.glob(str(Path(text).relative_to(base))))
    else:
        path = _existing(source)
        paths = sorted(path.rglob("*")) if path.is_dir() else [path]
        base = path if path.is_dir() else path.parent
    for path in (p for p in paths if p.name.endswith(_TABLES) and p.is_file()):
        info = path.stat()
        inside = path.relative_to(base).as_posix()
        yield _repo(
            source,
            base.name,
            inside,
            None,
            [Entry(inside, info.st_size, str(path))],
            str(info.st_mtime_ns),
        )


def _stdlib(source: Source) -> Iterator[Repo]:
    root = Path(sysconfig.get_path("stdlib"))
    skip = ("site-packages/", "lib-dynload/", "config-")
    entries = [e for e in _walk(root)[0] if not e.path.startswith(skip)]
    yield _repo(source, "stdlib", "cpython", "PSF-2.0", entries, sys.version)


def _installed(source: Source) -> Iterator[Repo]:
    for dist in metadata.distributions(path=[sysconfig.get_path("purelib")]):
        files = dist.files or []
        if dist.name == "icefloe" or not files:
            continue
        licence = licences.from_metadata(
            dist.metadata.get("License-Expression"),
            dist.metadata.get_all("Classifier") or [],
            dist.metadata.get("License"),
        )
        key = digest(dist.name, dist.version, dist.read_text("RECORD") or "")
        entries = [
            Entry(str(f), f.size, str(dist.locate_file(f)))
            for f in files
            if f.size and ".." not in f.parts
        ]
        if entries:
            yield _repo(source, "installed", dist.name, licence, entries, key)


_LISTERS = {
    "folder": _folder,
    "archive": _archive,
    "table": _table,
    "stdlib": _stdlib,
    "installed": _installed,
}


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
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        OSError,
        gzip.BadGzipFile,
        ValueError,
    ) as e:
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
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError) as e:
        return Raw(raw.repo, raw.path, None, "quarantine", f"damaged member: {e}")
    if len(data) > limit:
        return Raw(raw.repo, raw.path, None, "too_large", "more bytes than its header says")
    return Raw(raw.repo, raw.path, data)


def _member(name: str, size: int, limit: int, regular: bool) -> Raw:
    """An archive member before it is read: its top folder is its repository."""
    parts = PurePosixPath(_shown(name)).parts
    path = "/".join(parts[1:]) if len(parts) > 1 else _shown(name)
    repo = parts[0] if len(parts) > 1 else "."
    if name.startswith(("/", "\\")) or ".." in parts or (parts and ":" in parts[0]):
        return Raw(repo, _shown(name), None, "quarantine", "a path that leaves the archive")
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
        name, path = str(row.get("repo") or "."), str(row.get("path") or f"{entry.path}#{number}")
        if not isinstance(text, str | bytes):
            yield Raw(
                name, path, None, "quarantine", f"{entry.path} row {number}: text is {text!r}"[:300]
            )
        elif len(text) > limit:
            yield Raw(name, path, None, "too_large", f"{len(text)} bytes")
        else:
            yield Raw(name, path, text, row=row)


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
        except (OSError, EOFError) as e:
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
