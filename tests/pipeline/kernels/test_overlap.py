"""What counts as overlap with a task: copies, reformatted and renamed ones; and what does not:
boilerplate, number rows, templates. Every hit's stretch and share are those one can count.
"""

import re
import textwrap

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.core.arrays import flat
from pipeline.kernels.overlap import Needles, Overlap, Part, Text, needles, overlaps

SOLUTION = """\
def widest_gap(readings, limit):
    ordered = sorted(readings)
    widest = 0.0
    for left, right in zip(ordered, ordered[1:]):
        distance = right - left
        if distance > widest and distance < limit:
            widest = distance
    return widest
"""
DOCSTRING = "Return the widest gap between neighbouring readings that stays below the given limit."
RENAMED = """\
    def f1(a, b):  # other names
        '''Other words.'''
        c = sorted(a)
        d = 1
        for e, f in zip(c, c[7:]):
            g = f - e
            if g > d and g < b: d = g
        return d
"""


def text(
    value: str, part: Part = "solution", task: str = "t/0", problem: str | None = None
) -> Text:
    return Text("suite", task, problem or task, part, value)


def look(documents: list[str], what: Needles) -> list[Overlap | None]:
    return overlaps(*flat(pa.array(documents, pa.large_string())), what)


def one(document: str, what: Needles) -> Overlap:
    (found,) = look([document], what)
    assert found
    return found


def spanned(document: str, hit: Overlap) -> str:
    return document.encode()[hit.first : hit.last + 1].decode()


ALL = needles([text(SOLUTION), text(DOCSTRING, "docstring")])
NGRAM = needles([text(SOLUTION), text(DOCSTRING, "docstring")], shortest=None, tokens=None)
LIKENESS = needles([text(SOLUTION)], shortest=None, words=None)


def test_a_text_inside_is_a_substring_whatever_its_case_and_white_space() -> None:
    for copy in (
        SOLUTION,
        SOLUTION.upper(),
        "".join(SOLUTION.split()),
        SOLUTION.replace(" ", "\n"),
    ):
        document = f"x = 1\n{copy}# end\n"
        hit = one(document, ALL)
        assert (hit.kind, hit.how, hit.share, hit.text.part) == (
            "substring",
            "substring",
            1,
            "solution",
        )
        assert spanned(document, hit) == copy.strip()


def test_an_identical_run_of_ten_words_is_an_ngram_and_nine_are_none() -> None:
    words = DOCSTRING.rstrip(".").split()
    assert len(words) == 13
    run = ", ".join(words[2:12])
    hit = one(f"# {run}", NGRAM)
    assert (hit.kind, hit.how, hit.text.part) == ("ngram", "10-gram", "docstring")
    assert hit.share == 1 / 4
    assert (hit.first, hit.last) == (2, 2 + run.rindex("given"))
    assert look([" ".join(words[2:11]), " ".join(words[2:11]) + " the2", ""], NGRAM) == [None] * 3


def test_the_stretch_is_the_longest_run_of_hits() -> None:
    words = DOCSTRING.split()
    document = " ".join(words[:10]) + "\nother words\n" + " ".join(words[1:])
    hit = one(document, NGRAM)
    assert hit.share == 1
    assert spanned(document, hit).startswith("the widest")
    assert spanned(document, hit).endswith(" l")


def test_short_texts_are_looked_for_whole() -> None:
    what = needles([text("assert widest_gap([3], 2) == 0")])
    hit = one("a = 1\nassert  Widest_gap([ 3 ], 2) == 0.5", what)
    assert (hit.kind, hit.how, hit.share) == ("ngram", "5 words", 1)
    assert (hit.first, hit.last) == (6, 38)
    assert look(["assert widest_gap([3], 2) == 1", "widest_gap([3], 2) == 0"], what) == [None, None]
    assert not needles([text("widest gap")], shortest=None).layers


@pytest.mark.parametrize(
    "trivial",
    [
        "    return x + y\n",
        "return len(string)",
        "return n**2",
        "return ''.join(strings)",
        "return 0",
    ],
)
def test_trivial_solutions_are_not_looked_for(trivial: str) -> None:
    assert not needles([text(trivial)], shortest=8).layers


def test_number_rows_loops_and_imports_are_no_evidence() -> None:
    boilerplate = [
        "x = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]",
        "for i in range(n):\n    for j in range(n):\n        if i in j: return",
        "import numpy as np\nimport pandas as pd\nfrom matplotlib import pyplot as plt, colors",
        "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <math.h>\n#include <time.h>",
        "if __name__ == '__main__':\n    unittest.main()\n\nclass TestCases(unittest.TestCase):\n    def setUp(self): pass",
    ]
    task = "\n".join(boilerplate) + "\n\n" + SOLUTION
    what = needles([text(task)])
    assert look(boilerplate, what) == [None] * len(boilerplate)
    assert one(task, what).kind == "substring"
    assert one("zero\n" + boilerplate[2] + "\n\n" + SOLUTION, what).kind == "ngram"


def test_what_many_problems_share_is_a_template() -> None:
    phrase = "Write a function that takes the list of seal colonies and returns"
    texts = [
        text(f"{phrase} number{i} of them", "prompt", f"t/{i}", f"p/{i % 12}") for i in range(24)
    ]
    assert look([phrase], needles(texts, common=11)) == [None]
    hit = one(phrase, needles(texts, common=12))
    assert (hit.how, hit.text.task) == ("10-gram", "t/0")
    assert one(texts[13].text, needles(texts, common=11)).text.task == "t/13"


def test_a_renamed_copy_is_found_by_its_structure() -> None:
    document = f"import os\n\nclass A:\n{RENAMED}\n    def other(self): return os\n"
    hit = one(document, ALL)
    assert (hit.kind, hit.how, hit.text.part, hit.share) == (
        "renamed",
        "20-gram without names",
        "solution",
        1,
    )
    assert spanned(document, hit) == RENAMED.strip()
    assert one(RENAMED.replace("d = g", "d = -g"), LIKENESS).share == 30 / 33
    assert look([RENAMED.replace("f - e", "abs(f)")], LIKENESS) == [None]


def test_tables_and_prose_are_no_renamed_solutions() -> None:
    row = "days = [" + ", ".join(map(str, range(40))) + "]\n"
    prose = "the seals lie on the ice and sleep until the bear comes near to them then they go into the sea"
    assert not needles([text(row), text(prose)], shortest=None, words=None).layers
    assert not needles([text(SOLUTION, "test")], shortest=None, words=None).layers


def test_the_text_with_most_symbols_hit_is_named() -> None:
    texts = [text(DOCSTRING, "docstring", "a"), text(SOLUTION, task="b"), text(SOLUTION, task="c")]
    assert one(DOCSTRING + SOLUTION, needles(texts)).text.task == "b"


def test_documents_do_not_depend_on_their_neighbours() -> None:
    documents = [SOLUTION, "", RENAMED, "widest", DOCSTRING, SOLUTION + RENAMED]
    assert look(documents, ALL) == [look([d], ALL)[0] for d in documents]
    table = pa.table({"text": pa.array(documents, pa.large_string())}).slice(2, 3)
    assert overlaps(*flat(table["text"]), ALL) == look(documents[2:5], ALL)


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=30),
    st.text(max_size=30),
    st.sampled_from(["", " ", "\t", "  \t "]),
    st.sampled_from(["\n", "\r\n", "\n\n", " \t\n"]),
    st.sampled_from([1, 2, 8]),
)
@example('"', "'", "\t", "\r\n", 1)
def test_a_document_with_a_solution_in_other_layout_is_hit(
    before: str, after: str, margin: str, end: str, width: int
) -> None:
    lines = [
        margin + re.sub(r"^( {4})+", lambda m: " " * (len(m[0]) // 4 * width), line)
        for line in SOLUTION.splitlines()
    ]
    document = before + "\n" + end.join(lines) + "\n" + after
    assert one(document, ALL).kind == "substring"
    assert one(document, NGRAM).share == 1
    code = "before = 1\n" + end.join(lines) + "\n" + after
    assert one(code, LIKENESS).share == 1


WORDS = st.sampled_from(["ice", "floe", "seal", "bear", "Floe", "walrus"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(WORDS, min_size=4, max_size=9),
    st.lists(st.lists(WORDS, max_size=12), max_size=4),
)
def test_ngrams_are_those_that_a_search_in_words_finds(
    task: list[str], documents: list[list[str]]
) -> None:
    n = 4
    what = needles([text(" ".join(task))], shortest=None, tokens=None, words=n, fewest_words=3)

    def runs(words: list[str]) -> set[tuple[str, ...]]:
        low = [w.lower() for w in words]
        return {tuple(low[i : i + n]) for i in range(len(low) - n + 1)}

    telling = {run for run in runs(task) if len({*run}) > 1}
    found = look([" - ".join(d) for d in documents], what)
    assert [hit.share if hit else 0 for hit in found] == [
        len(runs(d) & telling) / max(1, len(telling)) for d in documents
    ]


def test_dedented_methods_and_other_languages() -> None:
    java = "int add(int[] xs) { int s = 0; for (int x : xs) { if (x > 0) { s += x; } } return s; }"
    other = java.replace("xs", "values").replace("int s", "int total").replace("s +", "total +")
    what = needles([text(java)], shortest=None, words=None)
    assert one(other.replace("; ", ";  // note\n"), what).kind == "renamed"
    assert one(textwrap.dedent(RENAMED), LIKENESS).kind == "renamed"
