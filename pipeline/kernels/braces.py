"""How many functions and classes of a file in a language with braces are explained, without a parser.

A text is cut at its braces and semicolons; a piece before a brace that ends in a list of parameters is
a function, one that names a class a class, and documentation in the piece explains it (ours). What is
taken for one by mistake, in strings of several lines or macros, is some of any file; knows no language
but C's and C++'s prototypes.
"""

import re
from functools import partial

_ASIDE = re.compile(
    r"/\*.*?\*/|//[^\n]*(?:\n[ \t]*//[^\n]*)*|^[ \t]*#(?:[^\n\\]|\\.)*"
    r'|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|`(?:[^`\\]|\\.)*`',
    re.S | re.M,
)
"""Comments (those of lines next to one another are one), directives and strings."""
_DOCUMENTATION = ("/**", "/*!", "///", "//!")
_PLAIN = ("C", "C++", "Go")
"""In these a plain comment on the lines right before is documentation too (Google's style, Go's)."""
_LEAST = 40
"""Shorter comments explain nothing (ours)."""
_NEXT = re.compile(r"[ \t]*\n[ \t]*[^\s#]")
_VALUE = re.compile(r"([=:(,|&<]\s*)\{[^{}()]{0,300}\}")
"""Braces that open no body: an empty default, a type, a pattern."""
_ENDS = re.compile(r"([{};])")
_TOLD = "\1"
_CONTROL = frozenset(
    [
        "if",
        "for",
        "while",
        "switch",
        "catch",
        "match",
        "foreach",
        "with",
        "return",
        "synchronized",
        "using",
    ]
)
_AFTER = re.compile(
    r"\s*(?:\b(?:const|noexcept|override|final|mutable|async)\b\s*)*(?:(?::|->)[^=]*)?(?:=>)?\s*"
)
"""What may stand between the parameters and the brace: qualifiers, a type, an arrow."""
_CLASS = re.compile(r"\b(?:class|interface|struct|trait|enum)\s+\w+[^=()]*$")
_PROTOTYPE = re.compile(
    r"(?!return|else|throw|new|delete|typedef|using|goto|case)\w[^=(]*[\s*&]~?\w+\s*$"
)
_PROTOTYPED = ("C", "C++")
_LONGEST = 4000
"""Characters before a brace or semicolon that are looked at: text without any must not take long (ours)."""


def explained(text: str, language: str) -> tuple[int, int]:
    """(functions and classes with documentation, all of them); prototypes are
    functions in C and C++."""
    bare = _ASIDE.sub(partial(_aside, plain=language in _PLAIN), text)
    pieces = _ENDS.split(_VALUE.sub(r"\1", bare))
    told = total = 0
    for piece, end in zip(pieces[::2], pieces[1::2], strict=False):
        prototype = end == ";" and language in _PROTOTYPED
        near = piece[-_LONGEST:]
        thing = _opens(near) if end == "{" else prototype and _declares(near)
        total += thing
        told += thing and _TOLD in piece
    return told, total


def _aside(found: re.Match[str], plain: bool) -> str:
    """What stands for a comment, a directive or a string."""
    said = found[0]
    if said[0] in "\"'`":
        return '""'
    near = plain and said[0] == "/" and _NEXT.match(found.string, found.end())
    return _TOLD if (near or said.startswith(_DOCUMENTATION)) and len(said) > _LEAST else " "


def _opens(piece: str) -> bool:
    """Whether a brace behind this opens a function or a class: no call, no `if`."""
    typed = piece.rpartition("->")[0].rstrip()
    piece = typed if typed.endswith(")") and _even(typed) else piece
    end = piece.rfind(")")
    if end < 0 or not _even(piece):
        return end < 0 and bool(_CLASS.search(piece))
    words = _before(piece, end).split()
    return not {*words[:1], *words[-1:]} & _CONTROL and bool(_AFTER.fullmatch(piece[end + 1 :]))


def _even(piece: str) -> bool:
    return piece.count("(") == piece.count(")")


def _before(piece: str, end: int) -> str:
    """The line up to the bracket that closes at `end`."""
    depth = 0
    for at in range(end, -1, -1):
        depth += (piece[at] == ")") - (piece[at] == "(")
        if depth == 0:
            return piece[:at].rpartition("\n")[2]
    return ""


def _declares(piece: str) -> bool:
    """Whether this, before a semicolon, is a prototype."""
    head, bracket, _ = piece.partition("(")
    head = head.rpartition(_TOLD)[2].strip()
    return bool(bracket) and _even(piece) and bool(_PROTOTYPE.match(head))
