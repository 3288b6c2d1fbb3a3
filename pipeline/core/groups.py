"""Which repositories make a shard: small neighbours together, large ones in pieces.

Where a shard ends depends on the names there, so that one more repository remakes one shard. Knows
nothing of what is in a file but its size and name.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from pipeline.core.languages import language_of
from pipeline.core.repos import Entry, Repo, above, shown
from pipeline.core.schema import digest

T = TypeVar("T")
ROW_BYTES = 300
"""What a row counts for beside its text, so that tiny files fill a shard too (ours)."""
SEVERAL = 1000
"""About how many rows an archive or a table is taken to hold before it is opened (ours)."""


def shards(repos: list[Repo], most: int, limit: int, mark: str) -> Iterator[dict[str, Any]]:
    """What is read together: `name`, `fingerprint`, `rows` as listed, and the `repos` in it.

    repos: in the order in which they shall stand. most: bytes above which a file is not read.
    limit: bytes of text above which a repository is cut, a quarter of which small ones share; a table
    is one. mark: what else the rows depend on.
    """
    small: list[Repo] = []
    sizes = {id(r): _held(r, most) for r in repos}
    for repo in repos:
        if repo.kind == "table":
            yield _item([repo], "", mark)
        elif repo.kind != "archive" and sizes[id(repo)] > limit:
            yield from _pieces(repo, most, limit, mark)
        else:
            small.append(repo)
    groups = _cut(small, lambda r: sizes[id(r)], lambda r: f"{r.source}/{r.name}", limit)
    yield from (_item(group, "", mark) for group in groups)


def _held(repo: Repo, most: int) -> int:
    """About the bytes of a repository; source text packs to a quarter or less."""
    if repo.kind == "archive":
        return 4 * repo.entries[0].size
    return _size(repo.entries, most)


def _size(entries: Iterable[Entry], most: int) -> int:
    """What files count for in a shard: their text if it is to be read, and a row each."""
    each = [e.size if e.size <= most and language_of(e.path) else 0 for e in entries]
    return sum(each) + ROW_BYTES * len(each)


def _cut(
    things: Iterable[T], size_of: Callable[[T], int], name_of: Callable[[T], str], limit: int
) -> Iterator[list[T]]:
    """Runs of things of a quarter of `limit` on average and, where it can be, never above it.

    Where a run ends depends on the names there (content-defined, as rsync's and LBFS's chunks): one
    more thing changes the runs around it and no other.
    """
    run: list[T] = []
    held = 0
    for thing in things:
        size = size_of(thing)
        if run and held + size > limit:
            yield run
            run, held = [], 0
        run.append(thing)
        held += size
        if int(digest(shown(name_of(thing)))[:12], 16) / 2**48 < 4 * size / limit:
            yield run
            run, held = [], 0
    if run:
        yield run


def _pieces(repo: Repo, most: int, limit: int, mark: str) -> Iterator[dict[str, Any]]:
    """A repository above the limit, in pieces of neighbouring files, with what notices they need."""
    runs = _cut(repo.entries, lambda e: _size([e], most), lambda e: e.path, limit)
    for entries in runs:
        folders = above(e.path for e in entries)
        speaking = tuple(e for e in repo.notices if e.path.rpartition("/")[0] in folders)
        piece = replace(repo, entries=tuple(entries), notices=speaking)
        yield _item([piece], f"-{digest(shown(entries[0].path))[:12]}", mark)


def _item(repos: list[Repo], suffix: str, mark: str) -> dict[str, Any]:
    first, last = repos[0], repos[-1]
    slug = _slug(f"{first.source}-{first.name}", 60)
    slug += f"..{_slug(last.name, 30)}" if last is not first else ""
    return {
        "name": f"{slug}-{digest(first.source, first.name)[:12]}{suffix}",
        "fingerprint": digest(mark, *(r.fingerprint for r in repos)),
        "rows": sum(SEVERAL if r.kind in ("archive", "table") else len(r.entries) for r in repos),
        "repos": repos,
    }


def _slug(text: str, length: int) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:length].strip("-.")
