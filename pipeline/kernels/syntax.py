"""What Python's own parser says of a file: whether it parses, and what its statements are.

`measure` gives OpenCoder's per-language counts (2411.04905, app. A) by walking statements only, not
expressions; `documented` labels textbook-like files without any model (ours). No other language has
a parser here; knows nothing of thresholds.
"""

import ast
import gc
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from pipeline.core.arrays import I64
from pipeline.kernels.braces import explained

NAMES = (
    "parsed",
    "functions",
    "simple_functions",
    "classes",
    "imports",
    "passes",
    "variables",
    "plain",
)
"""The columns of `measure`. parsed: 1 where the file is Python 3, else 0. Counts of statements:
functions, classes; simple_functions, whose whole body is one return; imports, passes; variables:
assignments, loops and `with ... as`; plain: returns and assignments of a name, an attribute, a
constant or nothing.
"""
LARGEST = 3_000_000
"""Longer texts (characters) are not parsed and count as unparsable: OpenCoder drops files of more than
3e6 bytes anyway, and a syntax tree takes a hundred times the text's memory."""
_TESTED = re.compile(r">>> |^def test_|^\s+def test_|\bassert ", re.M)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_ASSIGNED = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For, ast.AsyncFor)
_PLAIN = (ast.Constant, ast.Name, ast.Attribute)
_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")


def measure(texts: Sequence[str]) -> I64:
    """(texts, NAMES) counts of Python files."""
    out = np.zeros((len(texts), len(NAMES)), np.int64)
    with _no_collector():
        for row, text in zip(out, texts, strict=True):
            tree = parsed(text) if len(text) <= LARGEST else None
            if tree is not None:
                row[:] = [1, *_counts(tree)]
    return out


@contextmanager
def _no_collector() -> Iterator[None]:
    """Trees hold no cycles; looking for some takes 30 % of the time to parse."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def parsed(text: str) -> ast.Module | None:
    """The syntax tree of a Python file, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _counts(tree: ast.Module) -> list[int]:
    counts = dict.fromkeys(NAMES[1:], 0)
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        _tell(node, counts)
        for field in _BODIES:
            if inner := getattr(node, field, None):
                pending += inner
    return list(counts.values())


def _tell(node: ast.AST, counts: dict[str, int]) -> None:
    """Add one statement to the counts."""
    if isinstance(node, _ASSIGNED):
        counts["variables"] += 1
        if isinstance(node, ast.Assign | ast.AnnAssign):
            counts["plain"] += _plain(node.value)
    elif isinstance(node, ast.Return):
        counts["plain"] += _plain(node.value)
    elif isinstance(node, _FUNCTIONS):
        counts["functions"] += 1
        counts["simple_functions"] += len(node.body) == 1 and isinstance(node.body[0], ast.Return)
    elif isinstance(node, ast.Import | ast.ImportFrom):
        counts["imports"] += 1
    elif isinstance(node, ast.ClassDef):
        counts["classes"] += 1
    elif isinstance(node, ast.Pass):
        counts["passes"] += 1
    elif isinstance(node, ast.With | ast.AsyncWith):
        counts["variables"] += any(item.optional_vars is not None for item in node.items)


def _plain(value: ast.expr | None) -> bool:
    return value is None or isinstance(value, _PLAIN)


def documented(text: str, language: str) -> float:
    """How far a file is textbook-like, 0..1 (ours): the share of its functions and classes that are
    explained, times how much is stated about them. Files with fewer than three score 0.

    Python: docstrings, and the better of type annotations and tests or doctests in the file.
    Other languages: documentation comments (`/** */`, `///`; see `braces`), and nothing more is asked.
    """
    return _documented_python(text) if language == "Python" else _documented_braces(text, language)


def _documented_python(text: str) -> float:
    tree = parsed(text)
    made = [n for n in ast.walk(tree) if isinstance(n, (*_FUNCTIONS, ast.ClassDef))] if tree else []
    if len(made) < 3:
        return 0.0
    told = sum(ast.get_docstring(n, clean=False) is not None for n in made) / len(made)
    functions = [n for n in made if not isinstance(n, ast.ClassDef)]
    typed = sum(n.returns is not None for n in functions) / max(len(functions), 1)
    return told * (0.5 + 0.5 * max(typed, float(bool(_TESTED.search(text)))))


def _documented_braces(text: str, language: str) -> float:
    told, total = explained(text, language)
    return told / total if total >= 3 else 0.0
