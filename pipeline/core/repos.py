"""What the listers (`sources`) and the readers hand each other: repositories, their files, rows.

Knows nothing of where they lie or how they are opened.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipeline.core.schema import QUARANTINE, digest

Kind = Literal["folder", "git", "archive", "table", "npm", "stdlib", "installed"]


class Entry(NamedTuple):
    """A file of a repository before it is read. A tuple, because there are millions of them."""

    path: str
    """Inside the repository, `/` between folders; bytes that are no UTF-8 are lone surrogates."""
    size: int
    """Bytes, as listed."""
    stamp: str | int
    """Changes when the content does: nanoseconds of the last change, or the git object."""
    form: str = "file"
    """What git says it is: `file`, `link`, `submodule` or `missing` (its object is not there)."""


@dataclass(frozen=True)
class Repo:
    """A repository as listed, or a piece of one; an archive or a table file before it is opened."""

    source: str
    name: str
    kind: Kind
    root: str
    """The folder, git folder, archive or table file that `entries` are in."""
    entries: tuple[Entry, ...]
    notices: tuple[Entry, ...] = ()
    """Licence files and package metadata that speak of the entries."""
    licence: str | None = None
    """What holds where no notice does."""
    mark: str = ""
    """What identifies the content beside the entries: a commit, a version."""
    broken: str | None = None
    """Why it cannot be read at all."""
    columns: tuple[tuple[str, str], ...] = ()
    """A table's columns as the user named them: (ours, theirs)."""

    @property
    def fingerprint(self) -> str:
        """Changes when any of its files, notices or names does."""
        listed = (*self.entries, *self.notices)
        lines = "\0".join([f"{e.path}\n{e.size}\n{e.stamp}\n{e.form}" for e in listed])
        words = (self.source, self.name, self.kind, self.licence or "", self.mark)
        told = (self.broken or "", str(len(self.entries)), str(self.columns))
        return digest(*words, *told, lines.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class Raw:
    """One file or row as it was read: its bytes, or the rule and evidence why it was not."""

    repo: str
    path: str
    data: bytes | None
    rule: str | None = None
    evidence: str | None = None
    language: str | None = None
    """What a table says it is; None elsewhere."""
    licence: str | None = None
    """Of its repository, at its path."""
    stars: int | None = None


Skip = Callable[[str, str, tuple[str, ...], str | None], tuple[str, str | None] | None]
"""(repository, path, authors, stated language) -> (rule, evidence) of a file that need not be read."""


def quarantine(repo: str, path: str, evidence: str) -> Raw:
    """A row for what could not be read; the evidence is cut at 300 characters (ours)."""
    return Raw(shown(repo), shown(path), None, QUARANTINE, shown(evidence)[:300])


def left_out(repo: str, path: str, why: tuple[str, str | None]) -> Raw:
    """A row for what was not read, and why: (rule, evidence)."""
    return Raw(repo, path, None, *why)


def shown(text: str) -> str:
    """A name as valid UTF-8: bytes and surrogates that are not are shown as escapes."""
    if text.isascii():
        return text
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return text.encode("utf-8", "backslashreplace").decode()
    return raw.decode("utf-8", "backslashreplace")


def leaves(path: str) -> bool:
    """Whether a path could point outside the folder it is put in."""
    if ".." not in path and ":" not in path and not path.startswith(("/", "\\")):
        return False
    parts = path.replace("\\", "/").split("/")
    return path.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]


def above(paths: Iterable[str]) -> set[str]:
    """Every folder on the way from the root ("") to one of the paths."""
    folders = {""}
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return folders


def where(repo: Repo, entry: Entry) -> str:
    """A file's path on this machine."""
    return os.path.join(repo.root, entry.path)
