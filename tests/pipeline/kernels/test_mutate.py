"""Mutants differ by one edit of the expected kinds, parse, and are the same every time."""

import ast
import difflib

import pytest

from pipeline.kernels.mutate import mutants

CASES = {
    "def f(a, b):\n    return a < b\n": {"a <= b", "b < b", "a < a"},
    "def f(a):\n    return a  *  2\n": {"a  +  2", "a  *  3", "a  *  1"},
    "def f(a):\n    return (a) ** (2)\n": {"(a) * (2)", "(a) ** (3)", "(a) ** (1)"},
    "def f():\n    return g(1, x)\n": {"g(x, 1)", "g(2, x)", "g(0, x)"},
    "def f():\n    return x not  in y\n": {"x in y"},
    "def f():\n    return x is None\n": {"x is not None"},
    "def f():\n    return not x\n": {"x"},
    "def f():\n    return True\n": {"False"},
    "def f():\n    return x and y or z\n": {"x or y or z", "x and y and z"},
    "def f():\n    return 'ü' if 'ß' else x\n": {"'ü' if not 'ß' else x"},
    "def f():\n    return 'é', x - y\n": {"'é', x + y"},
    "def f(s: int = 1) -> int:\n    return f'{s + 1}'\n": set(),
}
LOOP = '''def total(prices: list[int], limit: int = 3) -> int:
    """Sum of 1 + 2 < 3 prices."""
    found = 0  # 1 < 2
    for i, price in enumerate(prices):
        if price > limit and i % 2 == 0:
            found += price
    return found
'''


@pytest.mark.parametrize(("source", "expected"), CASES.items())
def test_all_edits_of_small_functions(source: str, expected: set[str]) -> None:
    head = source[: source.index("return ") + len("return ")]
    assert set(mutants(source, 100, seed=0)) == {f"{head}{e}\n" for e in expected}


def test_statements_are_edited_in_place() -> None:
    source = "def f(x):\n    x -= 1\n    if x or y:\n        pass\n    while not x:\n        pass\n"
    found = mutants(source, 100, seed=0)
    assert source.replace("-= 1", "+= 1") in found
    assert source.replace("if x or y", "if not (x or y)") in found
    assert source.replace("while not x", "while x") in found


def test_a_mutant_is_one_edit_of_the_body() -> None:
    found = mutants(LOOP, 100, seed=0)
    assert len(found) == len(set(found)) > 20
    for text in found:
        ast.parse(text)
        changed = [d for d in difflib.ndiff(LOOP.splitlines(), text.splitlines()) if d[0] in "+-"]
        assert len(changed) == 2
        assert text.startswith(LOOP[: LOOP.index("found")])
        assert "# 1 < 2" in text


def test_limit_seed_and_start() -> None:
    everything = mutants(LOOP, 100, seed=0)
    assert mutants(LOOP, 5, seed=0) == everything[:5]
    assert mutants(LOOP, 100, seed=1) != everything
    assert set(mutants(LOOP, 100, seed=1)) == set(everything)
    start = LOOP.index("return")
    assert all(text.startswith(LOOP[:start]) for text in mutants(LOOP, 100, seed=0, start=start))
    assert mutants(LOOP, 0, seed=0) == mutants("x = 1 + 1\n", 9, seed=0) == []


def test_kinds_take_turns() -> None:
    crowded = "def f(a, b, c, d):\n    return (a, b, c, d, a, b, c, d, 0 if a else 1)\n"
    assert any("not a" in text for text in mutants(crowded, 3, seed=0))


def test_lines_may_end_as_they_like() -> None:
    source = "def f(a):\r\n    b = '\x0c'\r\n    return a + b\r\n"
    assert source.replace("+", "-") in mutants(source, 99, seed=0)


def test_broken_source_is_an_error() -> None:
    with pytest.raises(SyntaxError):
        mutants("def f(:\n", 1, seed=0)
