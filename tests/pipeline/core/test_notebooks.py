"""Notebooks of every format become scripts in their language; what is none is named."""

import ast
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.notebooks import script

CELLS = [
    {"cell_type": "markdown", "source": ["# Title\n", "\n", "Some text."]},
    {"cell_type": "code", "source": "import os\nx = 1\n", "outputs": [{"text": "lost"}]},
    {"cell_type": "code", "source": ["\n"]},
    {"cell_type": "raw", "source": "as it is"},
    {"cell_type": "code", "source": ["def f():\n", "    return x\n", "\n"]},
]
SCRIPT = """# # Title
#
# Some text.

import os
x = 1

# as it is

def f():
    return x
"""


def book(cells: list[dict], metadata: dict | None = None, **more: object) -> str:
    return json.dumps({"cells": cells, "metadata": metadata or {}, "nbformat": 4} | more)


def code(source: str, metadata: dict | None = None) -> str:
    return script(book([{"cell_type": "code", "source": source}], metadata))[0]


def test_cells_in_order_text_as_comments_outputs_left_out() -> None:
    assert script(book(CELLS)) == (SCRIPT, "Python")
    assert script("\ufeff" + book(CELLS)) == (SCRIPT, "Python")


def test_formats_before_4_keep_their_cells_in_worksheets() -> None:
    cells = [
        {"cell_type": "heading", "level": 2, "source": "Part"},
        {"cell_type": "code", "input": ["x = 1\n", "y = 2"], "language": "python"},
    ]
    old = {"worksheets": [{"cells": cells}, {"cells": cells[1:]}], "nbformat": 3, "metadata": {}}
    assert script(json.dumps(old)) == ("# ## Part\n\nx = 1\ny = 2\n\nx = 1\ny = 2\n", "Python")


@pytest.mark.parametrize(
    ("metadata", "language", "comment"),
    [
        ({"language_info": {"name": "R"}}, "R", "# a"),
        ({"kernelspec": {"name": "ir"}}, "R", "# a"),
        ({"kernelspec": {"name": "julia-1.10"}}, "Julia", "# a"),
        ({"kernelspec": {"name": "my-env", "language": "scala"}}, "Scala", "// a"),
        ({"kernelspec": {"name": "my-env"}}, "Python", "# a"),
        ({"kernelspec": {"name": "xcpp17"}}, "C++", "// a"),
        ({"language_info": {"name": "c++"}, "kernelspec": {"name": "python3"}}, "C++", "// a"),
        ({"language_info": {"name": ".net-csharp"}}, "C#", "// a"),
        ({"language_info": {"name": "haskell"}}, "Haskell", "-- a"),
        ({"language_info": {"name": "ocaml"}}, "OCaml", "(* a *)"),
        ({"language_info": {"name": "python", "version": "3.11"}}, "Python", "# a"),
        ({"language_info": "python", "kernelspec": None}, "Python", "# a"),
        ({}, "Python", "# a"),
    ],
)
def test_the_language_is_the_metadatas(metadata: dict, language: str, comment: str) -> None:
    text = script(book([{"cell_type": "markdown", "source": "a"}], metadata))
    assert text == (comment + "\n", language)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("%matplotlib inline\nx = 1", "# %matplotlib inline\nx = 1"),
        ("!pip install a \\\n  b\nx = 1", "# !pip install a \\\n  # b\nx = 1"),
        ("files = !ls\nn, m = %who_ls", "# files = !ls\n# n, m = %who_ls"),
        ("len?\n?len\nprint(1)", "# len?\n# ?len\nprint(1)"),
        ("%%time\nx = 1", "# %%time\nx = 1"),
        ("%%bash\nls\n\npwd", "# %%bash\n# ls\n#\n# pwd"),
        ("%%html\n<b>a</b>", "# %%html\n# <b>a</b>"),
        ("for a in b:\n    !ls $a\n    a", "for a in b:\n    # !ls $a\n    a"),
        ("y = (x\n  %z)", "y = (x\n  %z)"),
        ('t = """\n!not a command\n"""', 't = """\n!not a command\n"""'),
        ("%load_ext a\ny = (x\n  %z)", "# %load_ext a\ny = (x\n  %z)"),
        ("x = 1 # ok?", "x = 1 # ok?"),
        ("a != b", "a != b"),
        ('x = "\\d"', 'x = "\\d"'),
        ("print 'two'\n%pylab", "print 'two'\n# %pylab"),
    ],
)
def test_magics_and_shell_lines_are_commented_out(source: str, expected: str) -> None:
    assert code(source) == expected + "\n"


def test_other_languages_operators_are_no_magics() -> None:
    r = {"language_info": {"name": "R"}}
    assert code("a <- b\n%in% c\n!a", r) == "a <- b\n%in% c\n!a\n"
    assert code("%%python\nx = 1", r) == "# %%python\n# x = 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no notebook: Expecting value"),
        ("{", "no notebook: Expecting property name"),
        ("[]", "no notebook: JSON list where an object is needed"),
        ("[" * 100_000, "no notebook: JSON nested too deeply"),
        ("{}", "no notebook: neither cells nor worksheets"),
        ('{"cells": 1}', "no notebook: cells is int, not a list"),
        ('{"worksheets": [1]}', "no notebook: cells is NoneType, not a list"),
        ('{"cells": [1]}', "notebook cell 1 is int, not an object"),
        ('{"cells": [{}]}', "notebook cell 1 has type None; code, markdown or raw is needed"),
        ('{"cells": [{"cell_type": "code", "source": 1}]}', "notebook cell 1: source is neither"),
        ('{"cells": [{"cell_type": "code", "source": "\\ud800"}]}', "cell 1: half of a surrogate"),
        ('{"cells": [], "metadata": {"language_info": {"name": "xyzzy"}}}', "language 'xyzzy' is not known"),
    ],
)  # fmt: skip
def test_what_is_no_notebook_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        script(text)


def test_an_empty_notebook_is_an_empty_script() -> None:
    assert script(book([])) == ("", "Python")
    assert script(book([{"cell_type": "code", "source": " \n"}])) == ("", "Python")


LINES = st.lists(
    st.sampled_from(["x = 1", "if x:", "    y = 2", "%time", "    !ls", "'''", "", "f(?"])
)


@given(st.lists(st.tuples(st.sampled_from(["code", "markdown"]), LINES.map("\n".join))))
def test_a_script_of_cells_that_parse_parses(cells: list[tuple[str, str]]) -> None:
    made = [{"cell_type": kind, "source": text} for kind, text in cells]
    text, _ = script(book(made))
    assert text == "" or (text.endswith("\n") and not text.endswith("\n\n"))
    if all(parses(code(source)) for kind, source in cells if kind == "code"):
        assert parses(text)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["cells", "worksheets", "metadata", "cell_type", "source", "input", "level", "language", "kernelspec", "language_info", "name"]), inner, max_size=4)))  # fmt: skip
def test_any_json_is_answered_or_named(value: object) -> None:
    found = answered(json.dumps(value))
    assert "notebook" in found or found == "" or found.endswith("\n")
    found.encode()


def answered(text: str) -> str:
    try:
        return script(text)[0]
    except ValueError as e:
        return str(e)


def parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True
