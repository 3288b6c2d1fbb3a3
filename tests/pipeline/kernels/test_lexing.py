"""Comments, strings and telling lines are told apart; Python's own tokenizer is the oracle for Python."""

import io
import tokenize
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.arrays import flat
from pipeline.kernels import lexing
from pipeline.kernels.styles import STYLE_OF


def counted(text: str, language: str) -> dict[str, int]:
    rows = lexing.measure(*flat(pa.array([text], pa.large_string())), [language])
    return dict(zip(lexing.NAMES, rows[0].tolist(), strict=True))


@pytest.mark.parametrize(
    ("language", "text", "comments", "strings", "code_lines"),
    [
        ("C", "int a; // é b\n/* c\n d */ int e;\n", 6 + 10, 0, 2),
        ("C", 'char *s = "// no /* no */";\n', 0, 14, 1),
        ("C", "char c = '\"'; /* 'yes' */\n", 11, 1, 1),
        ("JavaScript", "let a = `one\n// two`; // three", 8, 10, 2),
        ("Go", "a := `x\\`; b // c\n", 4, 2, 1),
        ("JavaScript", "a = `x\\`; b // c\n", 0, 12, 1),
        ("SQL", "select 'it''s' -- all\nfrom t;", 6, 3, 2),
        ("Lua", 'x = "a" --[[ b\n c ]] y = 1 -- d\n', 12 + 4, 1, 2),
        ("HTML", "<p>it's</p><!-- gone\n -->\n", 14, 0, 1),
        ("Haskell", "f' x = x {- y\n -} -- z\n", 8 + 4, 0, 1),
        ("Python", "'''told\nmore'''\nx = '''kept\nkept''' # c\n", 15 + 3, 9, 2),
        ("Python", 'a = "it\'s" + \'# "\' # "\n', 3, 4 + 3, 1),
        ("Python", "a = 'never closed # 1\nb = 2 # c\n", 3, 16, 2),
        ("Rust", "fn f<'a>(x: &'a str) { \"s\" } // 'c\n", 5, 1, 1),
        ("JSON", '{"a": "// b"}\n', 0, 0, 1),
        ("unheard of", "# // /* --\n", 0, 0, 1),
        ("C", "/* never closed\n", 16, 0, 0),
        ("C", 'x = "ends in \\', 0, 9, 1),
        ("C", "", 0, 0, 0),
    ],
)
def test_parts_of_a_text(
    language: str, text: str, comments: int, strings: int, code_lines: int
) -> None:
    got = counted(text, language)
    assert (got["comments"], got["strings"], got["code_lines"]) == (comments, strings, code_lines)


def test_telling_lines() -> None:
    text = """#include <stdio.h>
  # define X 0xFF + 0x1g + 0xab
int main (void) { /* TODO: a
   todo, FixMe */ // your code here
  printf("todo print assert"); assert(x); static_assert(y);
  domain(1); main(2);
}
void
main(int a) { remain(0x00); }
"""
    got = counted(text, "C")
    assert got["directives"] == 2
    assert got["mains"] == 2
    assert got["todo_lines"] == 2
    assert got["print_lines"] == 1
    assert got["assert_lines"] == 1
    assert got["hex_words"] == 4 + 4 + 4
    assert counted("console.log(1)\nx.log()\n", "JavaScript")["print_lines"] == 1
    assert counted("self.assertEqual(1, 1)\nassert x  # assert\n", "Python")["assert_lines"] == 2


def test_long_words_and_long_strings() -> None:
    text = f'a = "{"x" * 21} {"é" * 21} {"y" * 20} https://{"z" * 30}"\nb = "{"w " * 21}"\n'
    got = counted(text, "Python")
    assert got["long_words"] == 42
    assert got["long_string_lines"] == 1


def test_python_comments_are_those_of_its_tokenizer() -> None:
    for path in sorted(Path(io.__file__).parent.glob("[a-d]*.py")):
        text = path.read_text(encoding="utf-8")
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments = sum(len(t.string) for t in tokens if t.type == tokenize.COMMENT)
        told = counted(text, "Python")["comments"]
        assert comments <= told
        assert counted(text, "Shell")["comments"] >= comments * 0.5 or comments < 50


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.sampled_from("ab0x\"'`\\#/*-[](){}<>!;%.\n =é")), st.sampled_from(sorted(STYLE_OF))
)
def test_any_text_has_parts_no_larger_than_itself(text: str, language: str) -> None:
    got = counted(text, language)
    assert got["comments"] + got["strings"] <= len(text)
    assert got["code_lines"] <= text.count("\n") + 1
    assert min(got.values()) >= 0
