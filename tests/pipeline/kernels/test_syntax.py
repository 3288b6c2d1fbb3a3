"""Statements of Python files are counted as a full walk of the tree counts them."""

import ast
import gc

import pytest

from pipeline.kernels import syntax
from pipeline.kernels.braces import explained
from pipeline.kernels.syntax import NAMES, documented, measure

EVERYTHING = '''
import os, sys
from a import b

class C(Base):
    x: int = 3
    y: int

    def simple(self):
        return self.x

    async def longer(self, z):
        """Text."""
        with open(z) as f, lock:
            pass
        async with lock:
            for a in b:
                total += a
            else:
                pass
        try:
            return [f(q) for q in z]
        except ValueError:
            def inner(): return
        finally:
            k = l = other.name
        match k:
            case 1:
                import c
        while True:
            if k: return None
            elif z: m = f(1)
            else: pass
'''


def counted(text: str) -> dict[str, int]:
    return dict(zip(NAMES, measure([text])[0].tolist(), strict=True))


def test_every_statement_is_counted_once() -> None:
    nodes = list(ast.walk(ast.parse(EVERYTHING)))
    kinds = (
        ("functions", ast.FunctionDef | ast.AsyncFunctionDef),
        ("classes", ast.ClassDef),
        ("imports", ast.Import | ast.ImportFrom),
        ("passes", ast.Pass),
    )
    wanted = {name: sum(isinstance(n, kind) for n in nodes) for name, kind in kinds}
    got = counted(EVERYTHING)
    assert {name: got[name] for name in wanted} == wanted
    assert got["simple_functions"] == 2
    assert got["variables"] == 7  # x, y, with, for, +=, k, m
    assert got["plain"] == 6  # x = 3, y, k = ..., and three returns
    assert got["parsed"] == 1


@pytest.mark.parametrize("text", ["def broken(:\n", "print 'two'\n", "(" * 5000, "x = '\0'"])
def test_what_is_no_python_is_all_zero(text: str) -> None:
    assert set(counted(text).values()) == {0}


def test_long_texts_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syntax, "LARGEST", 10)
    assert counted("x = 1")["parsed"] == 1
    assert counted("x = 1\ny = 2\n")["parsed"] == 0


def test_the_collector_is_left_as_it_was() -> None:
    assert gc.isenabled()
    measure(["x = 1", "def ("])
    assert gc.isenabled()
    assert measure([]).shape == (0, len(NAMES))


GOOD = '''
def a(x: int) -> int:
    """One."""
    return x

def b(x: int) -> int:
    """Two."""
    return x

class C:
    """Three."""
'''


def test_documented_python() -> None:
    assert documented(GOOD, "Python") == 1.0
    assert documented(GOOD.replace("-> int", ""), "Python") == 0.5
    assert documented(GOOD.replace("-> int", "") + "\nassert a(1) == 1\n", "Python") == 1.0
    assert documented("def a(): pass\n" * 5, "Python") == 0.0
    assert documented("def broken(:\n", "Python") == 0.0


SAID = "/** Returns the sum of the two numbers given to it. */\n"


def test_documented_braces() -> None:
    assert documented(f"{SAID}int f(int a) {{\n}}\n" * 3, "C") == 1.0
    assert documented("int f(int a) {\n}\n" * 3, "C") == 0.0
    assert documented(f"{SAID}int f(int a) {{\n}}\n" * 2, "C") == 0.0  # fewer than three


@pytest.mark.parametrize(
    ("language", "thing"),
    [
        ("JavaScript", "function f(a, b = {}) {\n  return `}${a}`;\n}\n"),
        ("JavaScript", "const f = async (a) => {\n  if (a) {\n  } else if (b) {\n  }\n}\n"),
        (
            "JavaScript",
            "A.prototype.f = function (a) {\n  g(a, function () {\n    while (a) {}\n  });\n}\n",
        ),
        (
            "TypeScript",
            "  f(a: { b: string }): Promise<void> {\n    for (;;) { switch (a) {} }\n  }\n",
        ),
        ("TypeScript", "export interface A<T> extends B {\n  a: T;\n}\n"),
        ("C", "static int f(const char *a, int (*g)(int));\n"),
        (
            "C",
            "#define F {\nint f(int a)\n{\n    if (a && g(a)) { return f(a - 1); }\n    g(a);\n}\n",
        ),
        ("C++", "template <class T> T A<T>::f(int a) const noexcept {\n  return a;\n}\n"),
        ("C++", "A::A(int a) : a_(a), b_(a) {\n}\n"),
        ("C++", "virtual std::string f(int a) const = 0;\n"),
        ("Rust", "pub fn f(a: &str) -> Result<(), E> {\n    match g(a) { _ => h() }\n}\n"),
        ("Java", "public class A extends B {\n  int a = f(1);\n}\n"),
    ],
)
def test_a_function_or_class_is_counted_once_and_nothing_else_is(language: str, thing: str) -> None:
    assert explained(thing, language) == (0, 1)
    assert explained(SAID + thing, language) == (1, 1)
    assert explained(SAID.replace("/**", "/*!") + thing + thing, language) == (1, 2)
    assert explained("/** Short. */\n" + thing, language) == (0, 1)


def test_plain_comments_explain_where_that_is_the_custom() -> None:
    said = "// Returns the sum of both numbers,\n// which must be given.\n"
    thing = "int f(int a) {\n}\n"
    assert explained(said + thing, "C++") == (1, 1)
    assert explained(said + thing, "Java") == (0, 1)
    assert explained(said + "\n" + thing, "C++") == (0, 1)  # a licence, say


def test_a_long_line_takes_no_longer_than_its_length() -> None:
    assert explained("a(" * 50_000, "C++") == (0, 0)
    assert explained("int a " * 50_000 + ";", "C") == (0, 0)
