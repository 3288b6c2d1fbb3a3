"""Jupyter notebooks (nbformat 2, 3 and 4) as scripts, as StarCoder2 (app. B) and Jupytext have them.

Code cells as they are, with magics and shell lines commented out; text cells as comments; a blank
line between cells; outputs are left out. Knows nothing of what kernels understand but Python's.
"""

import ast
import json
import re
import warnings
from typing import Any

_LANGUAGES = {
    "Python": "# :python python2 python3 ipython pyspark sage sagemath",
    "R": "# :r ir rlang",
    "Julia": "# :julia",
    "Ruby": "# :ruby iruby",
    "Perl": "# :perl iperl",
    "Shell": "# :bash sh zsh shell calysto_bash",
    "PowerShell": "# :powershell pwsh .net-powershell",
    "Elixir": "# :elixir",
    "GAP": "# :gap gap-4",
    "Tcl": "# :tcl",
    "Scala": "// :scala spylon-kernel almond spark",
    "JavaScript": "// :javascript ijavascript js nodejs jslab deno",
    "TypeScript": "// :typescript tslab",
    "C++": "// :c++ cpp c++11 c++14 c++17 xcpp11 xcpp14 xcpp17 xeus-cling",
    "C": "// :c",
    "C#": "// :c# csharp .net-csharp",
    "F#": "// :f# fsharp ifsharp .net-fsharp",
    "Java": "// :java ijava",
    "Kotlin": "// :kotlin",
    "Groovy": "// :groovy",
    "Go": "// :go gophernotes gonb",
    "Rust": "// :rust evcxr",
    "Swift": "// :swift",
    "PHP": "// :php jupyter-php",
    "Q#": "// :q# qsharp iqsharp",
    "Haskell": "-- :haskell ihaskell",
    "SQL": "-- :sql postgresql mysql sqlite xsqlite",
    "Lua": "-- :lua ilua",
    "MATLAB": "% :matlab octave imatlab",
    "Prolog": "% :prolog",
    "Clojure": ";; :clojure clojupyter",
    "Common Lisp": ";; :common-lisp lisp",
    "Scheme": ";; :scheme calysto_scheme",
    "Racket": ";; :racket",
    "Coq": "(* *):coq",
    "OCaml": "(* *):ocaml ocaml-jupyter",
    "Standard ML": "(* *):sml",
    "Wolfram Language": "(* *):wolfram mathematica wolframlanguage12",
    "SAS": "/* */:sas",
    "Stata": "// :stata",
    "Fortran": "! :fortran",
    "Maxima": "/* */:maxima",
}
"""GitHub's name -> how a comment opens and closes, and what kernels call the language."""
_NAMES = {name: k for k, row in _LANGUAGES.items() for name in row.partition(":")[2].split()}
_COMMENT = {k: tuple(row.partition(":")[0].split(" ", 1)) for k, row in _LANGUAGES.items()}
_PYTHON_MAGICS = frozenset(["time", "timeit", "capture", "prun", "pypy", "python", "python3"])
"""Cell magics whose cell is still Python; any other cell with a magic is commented out whole."""
_MAGIC = re.compile(
    r"[ \t]*(?:%{1,2}[A-Za-z_]|!{1,2}\s*[\w./~{$\"'-]|\?{1,2}[\w.%*]+[ \t]*$|[\w.%*]+\?{1,2}[ \t]*$"
    r"|[A-Za-z_][\w.]*(?:[ \t]*,[ \t]*\w+)*[ \t]*=[ \t]*(?:%[A-Za-z_]|!))"
)


def script(text: str) -> tuple[str, str]:
    """(script, language as GitHub spells it) of a notebook's JSON text.

    The language is the metadata's, Python where it names none. ValueError says what is no
    notebook: the JSON, a cell's number (from 1) and field, or a language without a known comment.
    """
    book = _json(text)
    cells = _cells(book)
    language = _language(book, cells)
    parts = [_part(cell, n, language) for n, cell in enumerate(cells, 1)]
    written = "\n\n".join(part for part in parts if part)
    return (written + "\n" if written else ""), language


def _json(text: str) -> dict[str, Any]:
    try:
        book = json.loads(text.removeprefix("\ufeff"))
    except RecursionError:
        raise ValueError("no notebook: JSON nested too deeply") from None
    except ValueError as e:
        raise ValueError(f"no notebook: {e}") from None
    if not isinstance(book, dict):
        raise ValueError(f"no notebook: JSON {type(book).__name__} where an object is needed")
    return book


def _cells(book: dict[str, Any]) -> list[dict[str, Any]]:
    """All cells in order; before nbformat 4 they lie in worksheets."""
    held = [book] if "cells" in book else book.get("worksheets")
    if not isinstance(held, list):
        raise ValueError("no notebook: neither cells nor worksheets")
    cells = []
    for sheet in held:
        found = sheet.get("cells") if isinstance(sheet, dict) else None
        if not isinstance(found, list):
            raise ValueError(f"no notebook: cells is {type(found).__name__}, not a list")
        cells += found
    for n, cell in enumerate(cells, 1):
        if not isinstance(cell, dict):
            raise ValueError(f"notebook cell {n} is {type(cell).__name__}, not an object")
    return cells


def _language(book: dict[str, Any], cells: list[dict[str, Any]]) -> str:
    """The language that is stated, the surest place first; kernels' own names are free text."""
    metadata = _object(book, "metadata")
    kernel = _object(metadata, "kernelspec")
    stated = [
        _object(metadata, "language_info").get("name"),
        kernel.get("language"),
        _known(kernel.get("name")),
        *(cell.get("language") for cell in cells if cell.get("cell_type") == "code"),
    ]
    name = next((s for s in stated if isinstance(s, str) and s.strip()), "python")
    known = _known(name)
    if known is None:
        raise ValueError(f"notebook language {name!r} is not known")
    return known


def _object(holder: dict[str, Any], key: str) -> dict[str, Any]:
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def _known(name: Any) -> str | None:
    """GitHub's name of a language or kernel (`ir`, `julia-1.10`, `R`), with or without a version."""
    plain = name.strip().lower() if isinstance(name, str) else ""
    return _NAMES.get(plain) or _NAMES.get(re.sub(r"[-_ ]?v?\d[\w.]*$", "", plain))


def _part(cell: dict[str, Any], n: int, language: str) -> str:
    kind = cell.get("cell_type")
    if kind not in ("code", "markdown", "raw", "heading", "html"):
        raise ValueError(f"notebook cell {n} has type {kind!r}; code, markdown or raw is needed")
    text = _source(cell, n)
    if kind == "code":
        return _code(text, language)
    level = cell.get("level")
    mark = "#" * (level if isinstance(level, int) and 0 < level < 7 else 1) + " "
    return _commented(mark + text if kind == "heading" and text else text, language)


def _source(cell: dict[str, Any], n: int) -> str:
    """A cell's text: `source`, or `input` before nbformat 4; one string or a list of them."""
    source = cell.get("source", cell.get("input", ""))
    lines = source if isinstance(source, list) else [source]
    if not all(isinstance(line, str) for line in lines):
        raise ValueError(f"notebook cell {n}: source is neither text nor a list of lines")
    text = "".join(lines).replace("\r\n", "\n").rstrip().strip("\n")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"notebook cell {n}: half of a surrogate pair") from None
    return text


def _code(text: str, language: str) -> str:
    """A code cell; in Python's, a line is commented out only where the cell does not parse with it."""
    magic = re.match(r"\s*%%([\w.-]*)", text)
    if magic and not (language == "Python" and magic[1] in _PYTHON_MAGICS):
        return _commented(text, language)
    lines = text.split("\n")
    magical = [n for n, line in enumerate(lines) if _MAGIC.match(line)]
    if language != "Python" or not magical or _parses(text):
        return text
    flush = _without(lines, [n for n in magical if not lines[n][0].isspace()])
    return flush if _parses(flush) else _without(lines, magical)


def _without(lines: list[str], magical: list[int]) -> str:
    """The cell with these lines commented out, and the lines they go on in after a backslash."""
    out, more = [], False
    for n, line in enumerate(lines):
        more = more or n in magical
        out.append(re.sub(r"^([ \t]*)", r"\1# ", line) if more else line)
        more = more and line.endswith("\\")
    return "\n".join(out)


def _parses(text: str) -> bool:
    """Whether a cell is Python as it stands, so that what looks like a magic is an operator or text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _commented(text: str, language: str) -> str:
    opens, closes = _COMMENT[language]
    close = f" {closes}" if closes else ""
    return (
        "\n".join(f"{opens} {line}".rstrip() + close for line in text.split("\n")) if text else ""
    )
