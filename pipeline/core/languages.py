"""File names, and where they leave it open the first bytes, -> languages, by GitHub's names for them.

What GitHub counts under another language has that one's name (TSX: TypeScript, fish: Shell). Text is
only what StarCoder2 (2402.19173, app. A) takes of it. Knows nothing of what is worth keeping.
"""

import re
from functools import cache

from pipeline.core.language_rules import RULES
from pipeline.core.language_table import EXTENSIONS, INTERPRETERS, MODES, NAMES, PREFIXES, TEXTS

_BY_NAME = {name: k for k, row in NAMES.items() for name in row.split()}
_BY_EXTENSION = {e: k for k, row in EXTENSIONS.items() for e in row.split()}
_BY_INTERPRETER = {name: k for k, row in INTERPRETERS.items() for name in row.split()}
_BY_MODE = {k.lower(): k for k in (*EXTENSIONS, *NAMES)} | {
    m: k for k, row in MODES.items() for m in row.split()
}
_MODE = re.compile(rb"-\*-(?:[^\n]*?\bmode:)?[ \t]*([\w+#-]+)[ \t]*(?:;[^\n]*)?-\*-", re.I)
_VIM = re.compile(rb"\b(?:vim?|ex):[^\n]*\b(?:ft|filetype|syntax)=(\w+)")
_SHEBANG = re.compile(rb"#![ \t]*(\S+)([^\n]*)")


def language_of(path: str, head: bytes | None = None) -> str | None:
    """The language of a file, or None when it is no source file we know.

    head: the content's first 4 to 8 KB. With it, extensions that several languages share (.h .m .pl
    .ts .v ...) are told apart by what stands there, and files whose name says nothing by their
    `#!` line or editor mode. Without it the name alone decides: the likeliest language, or None.
    """
    written = path[path.rfind("/") + 1 :]
    name = written.lower()
    found = _BY_NAME.get(name) or _BY_NAME.get(written)
    if found is not None:
        return found
    stem, _, extension = name.rpartition(".")
    if not stem:
        return _by_head(head) if head else None
    found = _BY_EXTENSION.get(extension)
    if head and extension in RULES:
        return _by_rule(extension, head) or found
    if found is not None:
        return found
    if extension == "txt":
        return "Text" if "requirement" in name or stem in TEXTS else None
    return _BY_NAME[stem] if stem in PREFIXES else _by_head(head) if head else None


def _by_rule(extension: str, head: bytes) -> str | None:
    """What the first matching rule says, unless the file names a mode of one of those languages."""
    rules = _compiled(extension)
    head = head.replace(b"\r\n", b"\n") if b"\r" in head else head
    mode = _mode(head) if b"-*-" in head[:500] else None
    if mode and any(mode == language for language, _ in rules):
        return mode
    return next((language for language, rule in rules if rule.search(head)), None)


@cache
def _compiled(extension: str) -> tuple[tuple[str, re.Pattern[bytes]], ...]:
    return tuple((k, re.compile(rule, re.M)) for k, rule in RULES[extension])


def _by_head(head: bytes) -> str | None:
    if head.startswith(b"#!"):
        return _interpreter(head)
    return _mode(b"\n".join(head.split(b"\n", 5)[:5]))


def _interpreter(head: bytes) -> str | None:
    """The language of a `#!` line: `env` and its settings are passed over, versions fall off."""
    match = _SHEBANG.match(head)
    if match is None:
        return None
    words = [match[1], *match[2].split()]
    if words[0].endswith(b"/env"):
        words = [w for w in words[1:] if not w.startswith(b"-") and b"=" not in w]
    name = words[0].rsplit(b"/", 1)[-1].decode("utf-8", "replace") if words else ""
    return _BY_INTERPRETER.get(name) or _BY_INTERPRETER.get(name.rstrip("0123456789.-"))


def _mode(lines: bytes) -> str | None:
    match = _MODE.search(lines) or _VIM.search(lines)
    return _BY_MODE.get(match[1].decode("utf-8", "replace").lower()) if match else None
