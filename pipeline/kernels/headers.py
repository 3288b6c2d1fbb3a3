"""The comment at the head of a file that speaks of copyright or licence (OpenCoder's transform).

It is a run of line comments or one block comment, in the language's own signs, behind nothing but
a shebang, an encoding line or the like. Knows nothing of which licence it is.
"""

import re
from collections.abc import Iterator

import pyarrow as pa

from pipeline.core.arrays import I64, U8

_MOST = 20_000
"""Bytes at a file's head that are looked at; the longest licence header in wide use, the MIT text with
many holders, has under 4,000 (ours)."""
_SIGNS = {
    r"//|/\*": "C,C++,Cuda,CUDA,C#,Java,JavaScript,TypeScript,TSX,JSX,Go,Rust,Scala,Kotlin,Dart,Swift,"
    "Objective-C,Objective-C++,Groovy,Zig,Solidity,Verilog,SystemVerilog,GLSL,HLSL,Metal,D,Haxe,F#,"
    "Protocol Buffer,Gradle",
    r"/\*": "CSS,Less,SCSS,Sass",
    r"#|//|/\*": "PHP,HCL,Nix",
    r"#": "Python,Ruby,Shell,Perl,R,Julia,Elixir,YAML,TOML,Makefile,CMake,Dockerfile,Tcl,PowerShell,Cython,"
    "Starlark,Nim,Crystal,Raku,Awk,CoffeeScript,GraphQL,Meson,Puppet,Fish",
    r"--|/\*": "SQL,PLSQL,PLpgSQL,TSQL",
    r"--": "Lua,Ada,VHDL,Elm,AppleScript",
    r"--|\{-": "Haskell,PureScript,Idris,Agda",
    r";": "Clojure,Scheme,Racket,Common Lisp,Emacs Lisp,LLVM,Assembly",
    r"%": "Erlang,TeX,MATLAB,Prolog,PostScript",
    r"!": "Fortran,Fortran Free Form",
    r"\(\*": "OCaml,Standard ML,Pascal,Coq,Isabelle,Mathematica",
    r"<!--": "HTML,XML,SVG,Vue,Svelte,XSLT",
}
"""How a comment starts -> the languages where it does; Markdown's `#` is a title, so it has none."""
_ENDS = {b"/*": b"*/", b"{-": b"-}", b"(*": b"*)", b"<!--": b"-->"}
_LANGUAGES = {name: signs for signs, names in _SIGNS.items() for name in names.split(",")}
_SKIPPED = re.compile(
    rb"\xef\xbb\xbf|#![^\n]*\n|<\?(?:php|xml)[^\n]*\n|<!DOCTYPE[^\n]*\n|"
    rb"[ \t]*(?:#|//|;|--|%)+[^\n]{0,30}coding[:=][^\n]*\n|[ \t\r]*\n",
    re.I,
)
_ABOUT = re.compile(
    rb"copyright|licen[sc]e|\(c\) ?(?:19|20)\d\d|all rights reserved|spdx-|redistribution and use",
    re.I,
)


def found(
    data: U8, offsets: I64, language: pa.ChunkedArray | pa.Array
) -> Iterator[tuple[int, tuple[int, int]]]:
    """(text, (start, end)) of each licence header, in bytes of its text."""
    for doc, name in enumerate(language.to_pylist()):
        low, high = int(offsets[doc]), int(offsets[doc + 1])
        span = header(data[low : min(high, low + _MOST)].tobytes(), name)
        if span:
            yield doc, span


def header(head: bytes, language: str | None) -> tuple[int, int] | None:
    """(start, end) of the licence comment in a file's first bytes, with its line end; None if none."""
    signs = _LANGUAGES.get(language or "")
    start = _code_start(head) if signs else 0
    sign = re.match(signs.encode(), head[start : start + 8].lstrip(b" \t")) if signs else None
    if not sign:
        return None
    end = _block_end(head, start, sign[0]) if sign[0] in _ENDS else _lines_end(head, start, sign[0])
    return (start, end) if end and _ABOUT.search(head, start, end) else None


def _code_start(head: bytes) -> int:
    """Behind the shebang, the encoding line, `<?php` and empty lines."""
    at = 0
    while (skipped := _SKIPPED.match(head, at)) and skipped.end() > at:
        at = skipped.end()
    return at


def _block_end(head: bytes, start: int, sign: bytes) -> int | None:
    """Behind a block comment that has its last line for itself; None where code follows on it."""
    closed = head.find(_ENDS[sign], start)
    rest = re.compile(rb"[ \t\r]*(?:\n|\Z)").match(head, closed + len(_ENDS[sign]))
    return rest.end() if closed >= 0 and rest else None


def _lines_end(head: bytes, start: int, sign: bytes) -> int:
    lines = re.compile(rb"(?:[ \t]*" + re.escape(sign) + rb"[^\n]*(?:\n|\Z))+")
    block = lines.match(head, start)
    return block.end() if block else start
