"""Which functions become exercises, what an exercise looks like, and that it always parses."""

import ast
import sysconfig
from pathlib import Path

import pytest

from pipeline.kernels.exercises import exercises

FILE = '''from __future__ import annotations

import math, os.path as osp
from collections import (
    Counter,
    deque as line,
)
import numpy as np
from .near import thing

LIMIT = 3


@staticmethod
def spread(values: list[float], scale=math.e) -> Counter:
    """Count the rounded values, scaled by `scale`."""
    # comment and   formatting stay
    rounded = [math.floor(v * scale) for v in values]
    return Counter( rounded )
'''
EXERCISE = '''# Exercise: write the function spread as its docstring describes it.

from __future__ import annotations
from collections import Counter
import math


@staticmethod
def spread(values: list[float], scale=math.e) -> Counter:
    """Count the rounded values, scaled by `scale`."""
    # comment and   formatting stay
    rounded = [math.floor(v * scale) for v in values]
    return Counter( rounded )
'''
BODY = '    """Twenty characters at least."""\n    y = x + 1\n    return y\n'
GOOD = f"def good(x):\n{BODY}"


def test_an_exercise_is_imports_signature_docstring_solution() -> None:
    assert exercises(FILE) == [EXERCISE]
    assert exercises(FILE.replace("\n", "\r\n")) == [EXERCISE]


@pytest.mark.parametrize(
    "source",
    [
        GOOD.replace("Twenty characters at least.", "Too short."),
        GOOD.replace("    y = x + 1\n", "").replace("return y", "return x + 1"),
        GOOD.replace("return y", "return LIMIT"),
        GOOD.replace("return y", "return np.sin(y)"),
        GOOD.replace("return y", "return thing(y)"),
        GOOD.replace("return y", "return helper(y)"),
        f"from other import math\n{GOOD.replace('return y', 'return math.pi')}",
        GOOD.replace("return y", "print(y)"),
        GOOD.replace("    y =", "    global y\n    y ="),
        GOOD.replace("(x)", "()").replace("x +", "1 +"),
        GOOD.replace("(x)", "(x: np.ndarray)"),
        GOOD.replace("(x)", "(x=LIMIT)"),
        GOOD.replace("x + 1", "x + 1  # TODO"),
        GOOD.replace("y = x + 1", "raise NotImplementedError"),
        f"@decorated\n{GOOD}",
        f"class Box:\n    {GOOD.replace(chr(10), chr(10) + '    ')}",
        f"x = 1; {GOOD}",
        "def good(:\n",
        "\0",
        "(" * 10_000,
    ],
)
def test_what_makes_no_exercise(source: str) -> None:
    assert exercises(FILE[: FILE.index("@staticmethod")] + source) == []


@pytest.mark.parametrize(
    "source",
    [
        GOOD,
        GOOD.replace("return y", "return good(y)"),
        GOOD.replace("return y", "return [y for y in range(x)]"),
        GOOD.replace("return y", "return (lambda z: z + y)(len(str(x)))"),
        GOOD.replace("    return", "    import numpy\n    return"),
        GOOD.replace("return y", "return osp.join(line([y]))"),
        f"{GOOD}\n\nhelper = 3; LIMIT = 4\n",
    ],
)
def test_names_are_looked_up_by_scope(source: str) -> None:
    assert len(exercises(FILE[: FILE.index("@staticmethod")] + source)) == 1


def test_lengths_and_count_are_bounded() -> None:
    many = "\n".join(GOOD.replace("good", f"good{i}") for i in range(20))
    assert len(exercises(many)) == 8
    assert "good0" in exercises(many, most=1)[0]
    assert exercises(many, shortest=1000) == exercises(many, longest=50) == []


def test_real_files_give_exercises_that_run() -> None:
    folder = Path(sysconfig.get_path("stdlib"))
    found = []
    for name in ("bisect", "textwrap", "statistics", "shlex", "difflib", "colorsys", "heapq"):
        found += exercises((folder / f"{name}.py").read_text(encoding="utf-8"))
    assert len(found) >= 10
    for text in found:
        function = ast.parse(text).body[-1]
        assert isinstance(function, ast.FunctionDef)
        space: dict[str, object] = {"__name__": "exercise"}
        exec(compile(text, "exercise.py", "exec"), space)
        assert callable(space[function.name])
