"""Where documents come from: folders of checkouts, archives, tables, this Python installation.

Each source lists *repositories*: a name, a licence, and what `readers` opens one by one.
"""

import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from pipeline.core import licences
from pipeline.core.config import Bytes, config
from pipeline.core.errors import RecipeError, did_you_mean
from pipeline.core.languages import language_of
from pipeline.core.schema import digest

SKIPPED = frozenset([".git", ".hg", ".svn", "__pycache__"])
"""Folders of tools, not of sources: not listed."""
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
    text = os.path.expanduser(text)
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
    if (root / ".git").exists():  # itself a checkout, not a folder of them
        entries, stamp = _walk(root)
        yield _repo(source, root.parent.name, root.name, _licence_in(root), entries, stamp)
        return
    loose = [p for p in root.iterdir() if not p.is_dir() or p.is_symlink()]
    if loose:
        entries = [Entry(shown(p.name), p.lstat().st_size, str(p)) for p in loose]
        stamps = sorted(f"{p.name!r} {p.lstat().st_mtime_ns}" for p in loose)
        yield _repo(source, shown(root.name), ".", _licence_in(root), entries, digest(*stamps))
    for path in sorted(root.iterdir()):
        if path.is_dir() and not path.is_symlink() and path.name not in SKIPPED:
            entries, stamp = _walk(path)
            if entries:
                yield _repo(
                    source, shown(root.name), shown(path.name), _licence_in(path), entries, stamp
                )


def _walk(root: Path) -> tuple[list[Entry], str]:
    """Every file below `root` without following links; and a stamp of sizes and times."""
    entries, stamps = [], []
    for folder, folders, files in os.walk(root, followlinks=False):
        links = [f for f in folders if os.path.islink(os.path.join(folder, f))]
        folders[:] = sorted(f for f in folders if f not in SKIPPED)
        for name in sorted([*files, *links]):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            inside = os.path.relpath(path, root)
            entries.append(Entry(shown(inside), info.st_size, path))
            stamps.append(f"{inside!r} {info.st_size} {info.st_mtime_ns}")
    return entries, digest(*stamps)


def shown(path: str) -> str:
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
    text = os.path.expanduser(str(source.path))
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
            _field(dist, "License-Expression"),
            dist.metadata.get_all("Classifier") or [],
            _field(dist, "License"),
        )
        key = digest(dist.name, dist.version, dist.read_text("RECORD") or "")
        entries = [
            Entry(str(f), f.size, str(dist.locate_file(f)))
            for f in files
            if f.size and ".." not in f.parts
        ]
        if entries:
            yield _repo(source, "installed", dist.name, licence, entries, key)


def _field(dist: metadata.Distribution, name: str) -> str | None:
    return next(iter(dist.metadata.get_all(name) or []), None)


_LISTERS = {
    "folder": _folder,
    "archive": _archive,
    "table": _table,
    "stdlib": _stdlib,
    "installed": _installed,
}
