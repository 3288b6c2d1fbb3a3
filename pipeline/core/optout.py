"""Opt-out lists: which files must not be taken, by repository, author or path (ours; StarCoder2 §2.2).

From a text file, one rule a line: `repo: owner/name`, `author: name`, `path: glob`; `#` begins a
comment. A glob is matched against the whole of `repository/path`: `*` and `?` stop at a slash,
`**` does not, `**/` is also no folder at all. Knows nothing of where files come from.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline.core.errors import RecipeError, did_you_mean
from pipeline.core.schema import digest

KINDS = ("repo", "author", "path")
"""What a rule may speak of."""
_PIECES = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_PIECE = re.compile(r"\*\*/|\*\*|\*|\?|\[!?[^]/][^]/]*\]|[^*?\[]+|\[")


@dataclass(frozen=True)
class OptOut:
    """A list, ready for look-up. Case never matters: neither hosts nor people agree on it."""

    repos: dict[str, str]
    """Folded repository name -> the rule as written."""
    authors: dict[str, str]
    """Folded author -> the rule as written."""
    paths: dict[str, tuple[str, tuple[str, ...]]]
    """Folded first folder of a glob ("" where it has a wildcard) -> one regular expression with a
    group a glob, and those groups' rules."""
    fingerprint: str
    """Changes when a rule does; order, comments and repeated rules do not matter."""

    def rule(self, repo: str, author: str | None, path: str) -> str | None:
        """The rule that asks for this file to be left out, or None.

        Repositories are tried first, then authors, then paths in alphabetical order.
        """
        hit = self.repos.get(repo.casefold())
        if hit is None and author and self.authors:
            hit = self.authors.get(author.casefold())
        return self._by_path(f"{repo}/{path}") if hit is None and self.paths else hit

    def _by_path(self, whole: str) -> str | None:
        for folder in (whole.split("/", 1)[0].casefold(), ""):
            pattern, rules = self.paths.get(folder, ("", ()))
            match = _compiled(pattern).fullmatch(whole) if rules else None
            if match and match.lastindex:
                return rules[match.lastindex - 1]
        return None


def load(path: str | Path) -> OptOut:
    """The list in a file; a RecipeError names the file and the line that is no rule."""
    file = Path(path).expanduser()
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as e:
        near = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        hint = did_you_mean(file.name, near) if not file.exists() else ""
        raise RecipeError(f"opt-out list {file}: {e.strerror or e}{hint}") from None
    except UnicodeDecodeError as e:
        line = e.object.count(b"\n", 0, e.start) + 1
        raise RecipeError(f"{file}:{line}: not UTF-8; save the list as UTF-8 text") from None
    return _made({rule for n, line in enumerate(lines, 1) if (rule := _rule(line, f"{file}:{n}"))})


def _rule(line: str, where: str) -> tuple[str, str] | None:
    """(kind, value) of one line; None for a blank line or a comment."""
    text = re.sub(r"(^|\s)#.*", "", line).strip()
    if not text:
        return None
    kind, colon, value = (part.strip() for part in text.partition(":"))
    if not colon or kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        raise RecipeError(
            f"{where}: {text!r} is no rule; write repo:, author: or path: and a value{hint}"
        )
    wrong = _wrong(kind, value)
    if wrong:
        raise RecipeError(f"{where}: {text!r}: {wrong}")
    return kind, value


def _wrong(kind: str, value: str) -> str | None:
    """What keeps a rule from ever hitting, with what to write instead."""
    if not value:
        return "a value is missing"
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return f"a value stands without quotes; write {kind}: {value[1:-1]}"
    if kind != "author" and "://" in value:
        return "that is an address; write owner/name"
    if kind == "repo" and re.search(r"[*?\[\]]|/$", value):
        return (
            f"a repository is named in full; write path: {value.rstrip('/*')}/** for all below it"
        )
    if kind == "path" and value.startswith("/"):
        return "paths begin with the repository's name; write **/ in front for any repository"
    if kind == "path" and value.endswith("/"):
        return f"no file's path ends in a slash; write path: {value}** for all below it"
    return None


def _made(rules: set[tuple[str, str]]) -> OptOut:
    folders: dict[str, list[str]] = {}
    ordered = sorted(rules, reverse=True)
    for kind, glob in reversed(ordered):
        if kind == "path":
            first = glob.split("/", 1)[0].casefold()
            folders.setdefault("" if re.search(r"[*?\[]", first) else first, []).append(glob)
    named = {k: {v.casefold(): f"{k}: {v}" for kind, v in ordered if kind == k} for k in KINDS[:2]}
    paths = {
        folder: ("|".join(f"({_regex(g)})" for g in globs), tuple(f"path: {g}" for g in globs))
        for folder, globs in folders.items()
    }
    mark = digest(*(f"{kind}: {value}" for kind, value in reversed(ordered)))
    return OptOut(named["repo"], named["author"], paths, mark)


def _regex(glob: str) -> str:
    return "".join(_PIECES.get(p) or _literal(p) for p in _PIECE.findall(glob))


def _literal(piece: str) -> str:
    """Plain characters, or a class as fnmatch has it: `[!ab]` is any but a and b."""
    if piece[0] != "[" or len(piece) == 1:
        return re.escape(piece)
    inside = piece[1:-1].replace("\\", r"\\").replace("[", r"\[")
    return f"[^/{inside[1:]}]" if inside[0] == "!" else f"[{inside.replace('^', chr(92) + '^')}]"


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.I | re.S)
