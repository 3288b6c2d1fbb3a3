"""Wrong versions of a right Python program: one small edit each, everything else byte for byte.

The edits are the slips programmers make (DeMillo et al. 1978; the list is ours): another operator,
a constant off by one, two arguments swapped, a condition negated, another variable. Knows nothing
of tests: a mutant may happen to mean the same.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"),
    ast.Pow: (r"\*\*", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: (r"\|", "&"),
}
"""Operator -> (how it is written, as a regular expression; what to write instead)."""


@dataclass(frozen=True)
class Edit:
    """Replace bytes [start, end) of the source by `text`."""

    kind: str
    start: int
    end: int
    text: bytes


def mutants(source: str, limit: int, seed: int, start: int = 0) -> list[str]:
    """Up to `limit` different mutants of the functions in `source`, all kinds of edits in turn.

    Only bodies change, at or after character `start`; annotations, defaults and strings stay.
    Deterministic in the arguments. Raises SyntaxError if `source` is not Python.
    """
    raw = source.encode()
    first = len(source[:start].encode())
    found = [e for e in edits(source) if e.start >= first]
    made: dict[str, None] = {}
    for edit in in_turn(found, seed):
        if len(made) == limit:
            break
        text = (raw[: edit.start] + edit.text + raw[edit.end :]).decode()
        if parses(text):
            made[text] = None
    return list(made)


def in_turn(found: list[Edit], seed: int) -> list[Edit]:
    """The edits shuffled, then dealt kind by kind, so that no frequent kind crowds out another."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(found))
    seen: Counter[str] = Counter()
    rounds = []
    for i in order:
        rounds.append(seen[found[i].kind])
        seen[found[i].kind] += 1
    return [found[order[j]] for j in np.argsort(rounds, kind="stable")]


def parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def edits(source: str) -> list[Edit]:
    """Every edit of every function body, in a fixed order."""
    tree = ast.parse(source)
    text = Text(source.encode())
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [e for f in functions for e in function_edits(f, text)]


class Text:
    """Source bytes, addressed by AST positions (1-based line, UTF-8 byte column)."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.lines = [0]
        for line in re.split(rb"(?<=\n)|(?<=\r)(?!\n)", raw):
            self.lines.append(self.lines[-1] + len(line))

    def span(self, node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self.lines[node.lineno - 1] + node.col_offset
        return start, self.lines[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.expr) -> bytes:
        start, end = self.span(node)
        return self.raw[start:end]


def function_edits(function: ast.FunctionDef | ast.AsyncFunctionDef, text: Text) -> Iterator[Edit]:
    nodes = [n for statement in function.body for n in body_nodes(statement)]
    for node in nodes:
        yield from operator_edits(node, text)
        yield from constant_edits(node, text)
        yield from argument_edits(node, text)
        yield from negation_edits(node, text)
    yield from variable_edits(function, nodes, text)


def body_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """`node` and what is below, but not inner functions and classes, f-strings, annotations."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.JoinedStr):
        return  # f-strings: Python 3.11 gives wrong positions inside them
    yield node
    for field, child in ast.iter_fields(node):
        if field == "annotation":
            continue
        for inner in child if isinstance(child, list) else [child]:
            if isinstance(inner, ast.AST):
                yield from body_nodes(inner)


def operator_edits(node: ast.AST, text: Text) -> Iterator[Edit]:
    for kind, operator, left, right in operations(node):
        written, instead = OPERATORS.get(type(operator), ("", ""))
        start, end = text.span(left)[1], text.span(right)[0]
        gap = text.raw[start:end]
        found = re.search(written.encode(), gap)
        if written and found and b"#" not in gap:
            yield Edit(kind, start + found.start(), start + found.end(), instead.encode())


Operation = tuple[str, ast.AST, ast.expr, ast.expr]


def operations(node: ast.AST) -> list[Operation]:
    """(kind, operator, left, right) of each operator written at `node`."""
    match node:
        case ast.Compare(left=left, ops=ops, comparators=rest):
            pairs = pairwise([left, *rest])
            return [("compare", op, a, b) for op, (a, b) in zip(ops, pairs, strict=True)]
        case ast.BoolOp(op=op, values=values):
            return [("boolean", op, a, b) for a, b in pairwise(values)]
        case ast.BinOp(op=op, left=left, right=right):
            return [("arithmetic", op, left, right)]
        case ast.AugAssign(op=op, target=target, value=value):
            return [("arithmetic", op, target, value)]
    return []


def constant_edits(node: ast.AST, text: Text) -> Iterator[Edit]:
    match node:
        case ast.Constant(value=bool(value)):
            yield Edit("boolean", *text.span(node), str(not value).encode())
        case ast.Constant(value=int(value)):
            for near in (value + 1, value - 1):
                yield Edit("constant", *text.span(node), str(near).encode())


def argument_edits(node: ast.AST, text: Text) -> Iterator[Edit]:
    if not isinstance(node, ast.Call):
        return
    for a, b in pairwise(node.args):
        (start, a_end), (b_start, end) = text.span(a), text.span(b)
        if text.of(a) != text.of(b):
            yield Edit("arguments", start, end, text.of(b) + text.raw[a_end:b_start] + text.of(a))


def negation_edits(node: ast.AST, text: Text) -> Iterator[Edit]:
    match node:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            start = text.span(node)[0]
            yield Edit("negation", start, text.span(operand)[0], b"")
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            if not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
                loose = isinstance(test, ast.BoolOp | ast.IfExp | ast.NamedExpr | ast.Lambda)
                negated = b"not (%s)" if loose else b"not %s"
                yield Edit("negation", *text.span(test), negated % text.of(test))


def variable_edits(
    function: ast.FunctionDef | ast.AsyncFunctionDef, nodes: list[ast.AST], text: Text
) -> Iterator[Edit]:
    """Each use of a local name (not of a function called) as another one bound before it."""
    bound = {a.arg: -1 for a in ast.walk(function.args) if isinstance(a, ast.arg)}
    called = {id(n.func) for n in nodes if isinstance(n, ast.Call)}
    variables = [n for n in nodes if isinstance(n, ast.Name)]
    for name in variables:
        if isinstance(name.ctx, ast.Store):
            bound[name.id] = min(bound.get(name.id, len(text.raw)), text.span(name)[0])
    for name in variables:
        if isinstance(name.ctx, ast.Load) and name.id in bound and id(name) not in called:
            start, end = text.span(name)
            for other in sorted(o for o, at in bound.items() if o != name.id and at < start):
                yield Edit("variable", start, end, other.encode())
