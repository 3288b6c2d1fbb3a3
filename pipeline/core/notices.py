"""What a repository says of its licence, folder by folder: licence files and package metadata.

The notice nearest up a file's path holds for it (StarCoder2 §2.2 hands them down the same way).
Knows nothing of what a policy allows.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterable
from email.parser import HeaderParser
from functools import lru_cache

from pipeline.core import licences
from pipeline.core.languages import language_of
from pipeline.core.licences import UNKNOWN

LIMIT = 200_000
"""Bytes that are read of a notice (ours; the GPL has 35 kB)."""
_PROSE = frozenset([None, "Text", "Markdown", "reStructuredText", "HTML", "AsciiDoc"])
_DIST_INFO = re.compile(r"[^/]+\.(dist|egg)-info(/.*)?")


def speaks(path: str) -> bool:
    """Whether a file's name is that of a licence file or of package metadata."""
    name = path.rpartition("/")[2]
    return name in _METADATA or _is_text(name)


@lru_cache(maxsize=1 << 16)  # few names make most files
def _is_text(name: str) -> bool:
    return bool(licences.FILE.match(name)) and language_of(name) in _PROSE


def stated(files: Iterable[tuple[str, bytes]], distribution: bool = False) -> dict[str, str]:
    """Folder -> the SPDX expression that its notices state, for the folders that state one.

    files: (path, content). A built package's METADATA comes first, then licence files, then other
    metadata; several licence files that differ must all be met, unless metadata says how.
    distribution: notices in `*.dist-info` speak for the whole.
    """
    found: dict[str, dict[str, set[str]]] = {}
    for path, data in files:
        folder, _, name = path.rpartition("/")
        if distribution and _DIST_INFO.fullmatch(folder):
            folder = ""
        kind = "built" if name in _BUILT else "metadata" if name in _METADATA else "text"
        said = _said(name, data[:LIMIT].decode("utf-8", "replace"))
        if said:
            found.setdefault(folder, {}).setdefault(kind, set()).add(said)
    return {folder: _one(kinds) for folder, kinds in found.items()}


def _said(name: str, text: str) -> str | None:
    if name not in _METADATA:
        return licences.from_text(text) or UNKNOWN
    try:
        return _METADATA[name](text)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None  # metadata that cannot be read states nothing


def _one(kinds: dict[str, set[str]]) -> str:
    for kind in ("built", "text", "metadata"):
        known = kinds.get(kind, set()) - {UNKNOWN}
        if len(known) == 1 or (known and not kinds.get("metadata", set()) - {UNKNOWN}):
            return _all(known)
    return _all(kinds.get("metadata", set()) - {UNKNOWN} or {UNKNOWN})


def _all(known: set[str]) -> str:
    parts = sorted(f"({k})" if " OR " in k and len(known) > 1 else k for k in known)
    return licences.normalise(" AND ".join(parts)) or UNKNOWN


def nearest(by_folder: dict[str, str], otherwise: str | None) -> Callable[[str], str | None]:
    """A function from a file's path to what the nearest folder above it states."""
    known: dict[str, str | None] = {"": by_folder.get("", otherwise)}

    def of(path: str) -> str | None:
        folder, passed = path.rpartition("/")[0], []
        while folder not in known and folder not in by_folder:
            passed.append(folder)
            folder = folder.rpartition("/")[0]
        licence = known[folder] if folder in known else by_folder[folder]
        known.update(dict.fromkeys(passed, licence))
        return licence

    return of


def _npm(text: str) -> str | None:
    told = json.loads(text)
    given = told.get("license") or told.get("licenses")
    many = given if isinstance(given, list) else [given]
    names = [g.get("type") if isinstance(g, dict) else g for g in many if g]
    known = [licences.from_metadata(str(n), [], None) for n in names]
    return licences.normalise(" OR ".join(f"({k})" for k in known)) if known else None


def _python(text: str) -> str | None:
    told = tomllib.loads(text)
    project = told.get("project") or told.get("tool", {}).get("poetry", {})
    given = project.get("license")
    name = given.get("text") if isinstance(given, dict) else given
    return licences.from_metadata(None, project.get("classifiers", []), name)


def _cargo(text: str) -> str | None:
    given = tomllib.loads(text).get("package", {}).get("license")
    return licences.from_metadata(given, [], None) if isinstance(given, str) else None


def _built(text: str) -> str | None:
    told = HeaderParser().parsestr(text)
    expression, name = told.get("License-Expression"), told.get("License")
    return licences.from_metadata(expression, told.get_all("Classifier") or [], name)


_BUILT = ("METADATA", "PKG-INFO")
_METADATA: dict[str, Callable[[str], str | None]] = {
    "METADATA": _built,
    "PKG-INFO": _built,
    "package.json": _npm,
    "pyproject.toml": _python,
    "Cargo.toml": _cargo,
}
