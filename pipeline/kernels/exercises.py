"""Exercises from documented functions, shaped like phi-1's CodeExercises (arXiv 2306.11644 §2.2).

One Python file in, small files out: signature, docstring, then the solution. The writer copies
what people wrote, cutting it into the shape of a benchmark; no model writes anything. The hygiene
is StarCoder2-Instruct's, as far as the syntax shows it. Knows nothing of licences or benchmarks.
"""

import ast
import builtins
import re
import sys
import warnings
from collections.abc import Iterator
from symtable import SymbolTable, symtable

_UNFINISHED = re.compile(r"\b(?:todo|fixme|xxx|notimplemented\w*|your code here)\b", re.I)
_BUILTINS = frozenset(dir(builtins))


def exercises(text: str, shortest: int = 120, longest: int = 4000, most: int = 8) -> list[str]:
    """The first `most` exercises in one Python file, of `shortest` to `longest` characters; none if it
    does not parse.

    A function becomes one if it has a docstring of 20 characters, two statements beside it, a
    parameter, a returned value, no mark of being unfinished, and needs nothing but builtins and
    what the file imports from the standard library.
    """
    tree = parse(text)
    if tree is None:
        return []
    lines = re.split(r"\r\n?|\n", text)
    imports = standard_imports(tree)
    written = (exercise(f, lines, imports) for f in tree.body if isinstance(f, ast.FunctionDef))
    fitting = [e for e in written if e and shortest <= len(e) <= longest]
    return [e for e in fitting if parse(e)][:most]


def parse(text: str) -> ast.Module | None:
    """The syntax tree, or None for what Python cannot read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unknown escapes in other people's strings
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def standard_imports(tree: ast.Module) -> dict[str, str]:
    """Name -> the statement that imports it, for top-level imports of the standard library."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for a in node.names:
                add(found, a.asname or a.name.split(".")[0], a.name, ast.Import([a]))
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for a in node.names:
                add(found, a.asname or a.name, node.module, ast.ImportFrom(node.module, [a], 0))
    return found


def add(found: dict[str, str], name: str, module: str, statement: ast.stmt) -> None:
    """Let the newest import of `name` count, or forget it if that is not the standard library's."""
    found.pop(name, None)
    if module.split(".")[0] in sys.stdlib_module_names:
        found[name] = ast.unparse(statement)


def exercise(function: ast.FunctionDef, lines: list[str], imports: dict[str, str]) -> str | None:
    """The file of one exercise, or None if `function` does not make one."""
    first = min([function.lineno, *(d.lineno for d in function.decorator_list)])
    source = "\n".join(lines[first - 1 : function.end_lineno])
    if not (documented(function) and complete(function) and not _UNFINISHED.search(source)):
        return None
    names = needed(source, function.name)
    if names is None or not names <= imports.keys():
        return None
    future = [imports["annotations"]] if "__future__" in imports.get("annotations", "") else []
    head = [*future, *sorted({imports[n] for n in names} - set(future))]
    title = f"# Exercise: write the function {function.name} as its docstring describes it.\n"
    return "\n".join([title, *head, *(["", ""] if head else []), source, ""])


def documented(function: ast.FunctionDef) -> bool:
    return len((ast.get_docstring(function) or "").strip()) >= 20 and len(function.body) > 2


def complete(function: ast.FunctionDef) -> bool:
    """Takes something and returns something."""
    a = function.args
    takes = a.posonlyargs or a.args or a.kwonlyargs or a.vararg or a.kwarg
    returns = (isinstance(n, ast.Return) and n.value is not None for n in ast.walk(function))
    return bool(takes) and any(returns)


def needed(source: str, name: str) -> set[str] | None:
    """Names that `source`, which defines `name`, takes from elsewhere; None if it sets globals."""
    try:
        module = symtable(source, "exercise.py", "exec")
    except (SyntaxError, RecursionError):  # lines shared with something else
        return None
    found = set()
    for table in tables(module):
        for symbol in table.get_symbols():
            if symbol.is_declared_global():
                return None
            if symbol.is_referenced() and (table is module or symbol.is_global()):
                found.add(symbol.get_name())
    return found - _BUILTINS - {name}


def tables(table: SymbolTable) -> Iterator[SymbolTable]:
    yield table
    for child in table.get_children():
        yield from tables(child)
