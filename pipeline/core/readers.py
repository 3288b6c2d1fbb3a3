"""Reads a listed repository file by file, or a table row by row; what cannot be read says why.

Nothing is extracted or checked out, no link is followed, and nothing is read beyond its cap.
"""

import os
import stat
from collections.abc import Iterator

from pipeline.core import archives, git, notices, tables
from pipeline.core.repos import Entry, Raw, Repo, Skip, left_out, quarantine, shown, where

_LINK = ("not_regular", "a link, pipe or device")


def read(repo: Repo, limit: int, skip: Skip) -> Iterator[Raw]:
    """Everything in a repository, one at a time.

    limit: the most bytes that are read of a file. skip: asked for each before it is read.
    """
    if repo.broken is not None:
        yield quarantine(repo.name, repo.entries[0].path, repo.broken)
        return
    kinds = {"archive": archives.read, "table": tables.read, "git": _objects}
    yield from kinds.get(repo.kind, _files)(repo, limit, skip)


def _files(repo: Repo, limit: int, skip: Skip) -> Iterator[Raw]:
    licence = notices.nearest(_stated(repo), repo.licence)
    for entry in repo.entries:
        path = shown(entry.path)
        if why := skip(repo.name, path, (), None):
            yield left_out(repo.name, path, why)
            continue
        try:
            data = _bytes(where(repo, entry), limit)
        except (OSError, ValueError) as e:  # ValueError: a name with a NUL, from a package's record
            yield quarantine(repo.name, path, getattr(e, "strerror", None) or str(e))
            continue
        if isinstance(data, tuple):
            yield left_out(repo.name, path, data)
        else:
            yield Raw(repo.name, path, data, None, None, None, licence(path))


def _bytes(path: str, limit: int) -> bytes | tuple[str, str]:
    """A regular file's bytes, or the rule and evidence that leave it out."""
    mode = os.lstat(path)
    if stat.S_ISDIR(mode.st_mode):
        raise OSError(0, "a folder that cannot be listed")
    if not stat.S_ISREG(mode.st_mode):
        return _LINK
    if mode.st_size > limit:
        return "too_large", f"{mode.st_size} bytes"
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        data = os.read(file, limit)
        while len(data) < limit and (more := os.read(file, limit - len(data))):
            data += more
    finally:
        os.close(file)
    return data


def _stated(repo: Repo) -> dict[str, str]:
    return notices.stated(_notices(repo), repo.kind == "installed")


def _notices(repo: Repo) -> Iterator[tuple[str, bytes]]:
    for entry in repo.notices:
        try:
            data = _bytes(where(repo, entry), notices.LIMIT)
        except (OSError, ValueError):
            continue  # it is told where the file itself is read
        if isinstance(data, bytes):
            yield shown(entry.path), data


def _objects(repo: Repo, limit: int, skip: Skip) -> Iterator[Raw]:
    """A commit's files. Two calls of git: who wrote it and under which licence, then the rest."""
    speaking = [e for e in repo.notices if e.size <= notices.LIMIT]
    first = git.contents(repo.root, [repo.mark, *(str(e.stamp) for e in speaking)])
    authors = git.authors(next(first, None))
    texts = zip(speaking, first, strict=True)
    found = notices.stated((shown(e.path), data) for e, data in texts if data is not None)
    licence = notices.nearest(found, repo.licence)
    why = [_unread(repo, entry, authors, limit, skip) for entry in repo.entries]
    wanted = [str(e.stamp) for e, rule in zip(repo.entries, why, strict=True) if rule is None]
    data = git.contents(repo.root, wanted)
    for entry, rule in zip(repo.entries, why, strict=True):
        path = shown(entry.path)
        if rule is not None:
            yield left_out(repo.name, path, rule)
        elif (got := next(data)) is None:
            yield quarantine(repo.name, path, f"git object {entry.stamp} is missing or damaged")
        else:
            yield Raw(repo.name, path, got, None, None, None, licence(path))


def _unread(
    repo: Repo, entry: Entry, authors: tuple[str, ...], limit: int, skip: Skip
) -> tuple[str, str | None] | None:
    if entry.form == "submodule":
        return "submodule", f"commit {entry.stamp}"
    if why := skip(repo.name, shown(entry.path), authors, None):
        return why
    if entry.form == "link":
        return _LINK
    return ("too_large", f"{entry.size} bytes") if entry.size > limit else None
