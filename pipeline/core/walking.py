"""Files and packages below a folder, listed without opening or following anything.

Knows nothing of sources: `sources` says which folder is what.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.repos import Entry, shown

SKIPPED = frozenset([".git", ".hg", ".svn", "__pycache__"])
"""Folders of tools, not of sources: not listed."""


def walk(root: str, skipped: frozenset[str] = SKIPPED) -> list[Entry]:
    """Every file below `root`, links not followed; a folder that cannot be listed stands for itself."""
    found: list[Entry] = []
    folders = [""]
    while folders:
        inside = folders.pop()
        try:
            with os.scandir(os.path.join(root, inside)) as entries:
                for entry in entries:
                    path = f"{inside}/{entry.name}" if inside else entry.name
                    if not entry.is_dir(follow_symlinks=False):
                        found.append(entry_of(entry, path))
                    elif entry.name not in skipped:
                        folders.append(path)
        except OSError:
            found.append(Entry(inside or ".", 0, 0))
    return found


def entry_of(entry: os.DirEntry[str], path: str) -> Entry:
    """A listed file under its path in the repository."""
    info = entry.stat(follow_symlinks=False)
    return Entry(path, info.st_size, info.st_mtime_ns)


def packages(root: str, inside: str = "") -> Iterator[str]:
    """Every folder with a package.json: in node_modules, in a scope there, in a package's own."""
    with os.scandir(os.path.join(root, inside)) as entries:
        names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    for name in names:
        path = f"{inside}/{name}" if inside else name
        if not os.path.isfile(os.path.join(root, path, "package.json")):
            yield from packages(root, path)
            continue
        yield path
        if os.path.isdir(os.path.join(root, path, "node_modules")):
            yield from packages(root, f"{path}/node_modules")


def version(folder: str) -> str:
    """What an npm package says its version is; empty where it says nothing."""
    try:
        told = json.loads(Path(folder, "package.json").read_bytes())
        return shown(str(told["version"]))
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return ""


def marks(folder: Path) -> dict[str, str]:
    """Name of each file directly in a folder -> what changes when the file does: name, size, time."""
    there = {p.name: p.stat() for p in sorted(folder.iterdir()) if p.is_file()}
    return {name: f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in there.items()}
