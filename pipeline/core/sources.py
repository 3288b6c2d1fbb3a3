"""Where documents come from: folders, git repositories, archives, tables, packages, this Python.

Each source lists *repositories*: a name, the files in it, and the notices about its licence; the
`readers` open them. Knows nothing of what is in a file.
"""

import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path

from pipeline.core import git, notices
from pipeline.core.config import Bytes, config
from pipeline.core.errors import RecipeError, did_you_mean
from pipeline.core.languages import language_of
from pipeline.core.repos import Entry, Kind, Repo, shown
from pipeline.core.schema import digest
from pipeline.core.tables import COLUMNS
from pipeline.core.walking import SKIPPED, entry_of, packages, version, walk

TABLES = (".parquet", ".jsonl", ".jsonl.gz", ".json.gz", ".jsonl.zst")
"""Endings of table files."""
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip", ".whl", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
"""Endings of archives."""


@config
class Source:
    """One place to take repositories from."""

    kind: Kind
    """folder: each folder in it is a repository, as it lies there (a checkout: the one). git: each
    checkout or bare repository at or below it, as committed at `revision`. archive: a .tar(.gz|.xz|
    .bz2), .zip, .whl or npm .tgz, or a folder of them; each folder at an archive's top is one. table:
    Parquet or JSONL files in The Stack's columns. npm: each package in a node_modules folder. stdlib,
    installed: this Python's standard library, and each distribution installed beside it."""
    path: str | None = None
    """The folder, archive, table file or folder of tables; none for stdlib; for installed another
    site-packages folder than this Python's."""
    revision: str | None = None
    """git: the branch, tag or commit to read; None is HEAD, what a checkout has checked out."""
    columns: dict[str, str] | None = None
    """table: where its columns go by other names: text, repo, path, language, licence, stars,
    encoding or files -> the table's own name."""
    sample: Bytes | None = None
    """Take repositories in the order of their names' hashes until this many bytes; None is all."""
    per_repo: Bytes | None = None
    """Of one repository, take files in the order of their paths' hashes until this many bytes."""

    def __post_init__(self) -> None:
        for name, value in (("sample", self.sample), ("per_repo", self.per_repo)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1 byte, or left out")
        if self.path == "":
            raise ValueError("path is empty; name a place, or leave it out")
        if self.revision is not None and (not self.revision or "\0" in self.revision):
            raise ValueError(f"revision is {self.revision!r}; name a branch, a tag or a commit")
        _only("revision", self.revision, self.kind, ("git",))
        _only("columns", self.columns, self.kind, ("table",))
        _only("per_repo", self.per_repo, self.kind, ("folder", "git", "npm", "stdlib", "installed"))
        if self.kind == "stdlib":
            _only("path", self.path, self.kind, ())
        for name in self.columns or {}:
            if name not in COLUMNS:
                raise ValueError(
                    f"columns: no column {name!r} of ours{did_you_mean(name, COLUMNS)}"
                )


def _only(name: str, value: object, kind: str, kinds: tuple[str, ...]) -> None:
    if value is not None and kind not in kinds:
        where = f"only kind {', '.join(kinds)} has one" if kinds else "leave it out"
        raise ValueError(f"{name} is {value!r}, but the kind is {kind}; {where}")


def guess(text: str) -> Source:
    """The source that a bare path means: by its ending, else by what lies in the folder."""
    if not text:
        raise RecipeError("source is empty; write a path, `stdlib` or `installed`")
    path = os.path.expanduser(text)
    if text in ("stdlib", "installed"):
        return Source(kind=text)  # type: ignore[arg-type]
    if path.endswith(ARCHIVES):
        return Source(kind="archive", path=path)
    if path.endswith(TABLES) or "*" in path:
        return Source(kind="table", path=path)
    with _readable(path):
        return Source(kind=_folder_kind(path) if os.path.isdir(path) else "folder", path=path)


@contextmanager
def _readable(source: str) -> Iterator[None]:
    """What the system refuses becomes a RecipeError that names the source and the place in it."""
    try:
        yield
    except OSError as e:
        place = "" if e.filename in (None, source) else f" ({e.filename})"
        raise RecipeError(
            f"source {source}: {e.strerror}{place}; make it readable, or name another place"
        ) from None


def _folder_kind(path: str) -> Kind:
    if git.is_bare(path):
        return "git"
    if os.path.basename(os.path.normpath(path)) == "node_modules":
        return "npm"
    with os.scandir(path) as entries:
        inside = list(entries)
    folders = [e.path for e in inside if e.is_dir(follow_symlinks=False)]
    files = [e.name for e in inside if e.is_file()]
    if any(name.endswith(TABLES) for name in files):
        return "table"
    if not folders and any(name.endswith(ARCHIVES) for name in files):
        return "archive"
    bare = bool(folders) and not files and git.is_bare(folders[0])
    return "git" if bare and all(map(git.folder, folders)) else "folder"


def repositories(source: Source) -> list[Repo]:
    """Everything a source holds, sampled, in name order. Raises RecipeError when it is not there."""
    with _readable(source.path or source.kind):
        found = sorted(_LISTERS[source.kind](source), key=lambda r: r.name)
    if not found:
        raise RecipeError(
            f"source {source.path or source.kind}: nothing to read there; "
            f"a {source.kind} source needs {_NEEDS[source.kind]}"
        )
    return sorted(_sampled(found, source.sample), key=lambda r: r.name)


_NEEDS: dict[str, str] = {
    "folder": "folders with files in them",
    "git": "a checkout or bare repository, or a folder with some",
    "archive": "a .tar.gz or .zip with files, or a folder of them",
    "table": "*.parquet or *.jsonl files",
    "npm": "a node_modules folder with packages",
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
        taken += weight(repo.entries) if repo.kind not in ("archive", "table") else _on_disk(repo)


def _on_disk(repo: Repo) -> int:
    return sum(e.size for e in repo.entries)


def weight(entries: Iterable[Entry]) -> int:
    """Bytes of source text, by the files' names: a library's binaries do not count."""
    return sum(e.size for e in entries if language_of(e.path))


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


def _directory(source: Source) -> Path:
    path = _existing(source)
    if not path.is_dir():
        raise RecipeError(
            f"source: {path} is a file; a folder is needed for kind {source.kind} "
            "(kind archive reads .tar.gz and .zip, kind table .parquet and .jsonl)"
        )
    return path


def _repo(source: Source, label: str, name: str, root: str, entries: Iterable[Entry]) -> Repo:
    """A listed repository, cut to `per_repo` bytes by the hash order of its paths."""
    listed = sorted(entries)
    speaking = tuple(e for e in listed if e.form == "file" and notices.speaks(e.path))
    if source.per_repo is not None:
        listed = sorted(_until(listed, source.per_repo))
    return Repo(shown(label), shown(name), source.kind, root, tuple(listed), speaking)


def _until(entries: list[Entry], budget: int) -> Iterator[Entry]:
    taken = 0
    for entry in sorted(entries, key=lambda e: digest(shown(e.path))):
        if taken < budget:
            yield entry
            taken += weight([entry])


def _folder(source: Source) -> Iterator[Repo]:
    root = _directory(source)
    if (root / ".git").exists():  # itself a checkout, not a folder of them
        yield _repo(source, root.parent.name, root.name, str(root), walk(str(root)))
        return
    with os.scandir(root) as inside:
        entries = sorted(inside, key=lambda e: e.name)
    loose = [entry_of(e, e.name) for e in entries if not e.is_dir(follow_symlinks=False)]
    if loose:
        yield _repo(source, root.name, ".", str(root), loose)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and entry.name not in SKIPPED:
            found = walk(entry.path)
            if found:
                yield _repo(source, root.name, entry.name, entry.path, found)


def _git(source: Source) -> Iterator[Repo]:
    root = _directory(source)
    places = list(git.below(str(root)))
    with ThreadPoolExecutor() as pool:  # each waits for a process of its own
        found = list(pool.map(partial(_committed, source, root), places))
    if found and all(repo.broken and not repo.mark for repo in found):
        raise RecipeError(f"source {root}: {found[0].name}: {found[0].broken}; check `revision`")
    yield from found


def _committed(source: Source, root: Path, place: tuple[str, str]) -> Repo:
    inside, folder = place
    name = inside.removesuffix(".git") or root.name.removesuffix(".git")
    label = root.name if inside else root.parent.name
    commit = ""
    try:
        commit = git.commit(folder, source.revision)
        made = _repo(source, label, name, folder, git.tree(folder, commit))
        return replace(made, mark=commit)
    except git.Unreadable as e:
        listed = _repo(source, label, name, folder, [Entry(".", 0, 0)])
        return replace(listed, broken=f"git: {e}", mark=commit)


def _archive(source: Source) -> Iterator[Repo]:
    path = _existing(source)
    paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in paths:
        if file == path or (file.name.endswith(ARCHIVES) and file.is_file()):
            yield _one_file(source, file.name, file.name.split(".")[0], file.name, file)


def _one_file(source: Source, label: str, name: str, path: str, file: Path) -> Repo:
    info = file.stat()
    entry = Entry(path, info.st_size, info.st_mtime_ns)
    columns = tuple(sorted((source.columns or {}).items()))
    return Repo(shown(label), shown(name), source.kind, str(file), (entry,), columns=columns)


def _table(source: Source) -> Iterator[Repo]:
    base, paths = _matching(os.path.expanduser(str(source.path))) if source.path else (None, [])
    if base is None or not paths:
        path = _existing(source)
        base = path if path.is_dir() else path.parent
        paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in (p for p in paths if p.name.endswith(TABLES) and p.is_file()):
        inside = file.relative_to(base).as_posix()
        yield _one_file(source, base.name, inside, inside, file)


def _matching(pattern: str) -> tuple[Path | None, list[Path]]:
    """(The folder before the first wildcard, what matches there)."""
    if "*" not in pattern:
        return None, []
    base = Path(os.path.dirname(pattern[: pattern.index("*")]) or ".")
    return base, sorted(base.glob(os.path.relpath(pattern, base)))


def _npm(source: Source) -> Iterator[Repo]:
    root = _directory(source)
    inner = root / "node_modules"
    root = inner if inner.is_dir() else root
    for inside in packages(str(root)):
        folder = os.path.join(root, inside)
        found = walk(folder, SKIPPED | {"node_modules"})
        made = _repo(source, root.parent.name, inside, folder, found)
        yield replace(made, mark=version(folder))


def _stdlib(source: Source) -> Iterator[Repo]:
    root = sysconfig.get_path("stdlib")
    skip = ("site-packages/", "lib-dynload/", "config-")
    entries = [e for e in walk(root) if not e.path.startswith(skip)]
    made = _repo(source, "stdlib", "cpython", root, entries)
    yield replace(made, licence="PSF-2.0", notices=(), mark=sys.version)


def _installed(source: Source) -> Iterator[Repo]:
    root = str(_directory(source)) if source.path else sysconfig.get_path("purelib")
    for dist in metadata.distributions(path=[root]):
        if dist.name == "icefloe":
            continue
        key = digest(dist.name, dist.version, dist.read_text("RECORD") or "")
        entries = [
            Entry(str(f), f.size, 0)
            for f in dist.files or []
            if f.size is not None and ".." not in f.parts
        ]
        if entries:
            made = _repo(source, "installed", dist.name, root, entries)
            yield replace(made, mark=key)


_LISTERS: dict[str, Callable[[Source], Iterator[Repo]]] = {
    "folder": _folder,
    "git": _git,
    "archive": _archive,
    "table": _table,
    "npm": _npm,
    "stdlib": _stdlib,
    "installed": _installed,
}
