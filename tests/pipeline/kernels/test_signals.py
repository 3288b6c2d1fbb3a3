"""Counts of a text's bytes equal what Python's own strings and regular expressions say."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.arrays import flat
from pipeline.kernels.signals import ANNOUNCED, MARKS, NAMES, measure

ENCODED = re.compile(
    rb"[A-Za-z0-9+/\n=]{64,}|(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*)){8,}|(?:\\u[0-9a-fA-F]{4}){8,}"
)
PIECES = ["00 ", "ff,", "0x1f,", "\\x0a", "\\x", "ab", "a", " ", "\n", ",", "\\u00e9", "\\u", "_"]
PIECES += ["A" * 30, "QUJD" * 16, "\u00e9", "0xzz", "00", "0", "x", "+", "\n" * 20, "0a\t"]


def counted(*texts: str, html: bool = False) -> list[dict[str, int]]:
    data, offsets = flat(pa.array(texts, pa.large_string()))
    rows = measure(data, offsets, np.full(len(texts), html))
    return [dict(zip(NAMES, row, strict=True)) for row in rows.tolist()]


def expected(text: str) -> dict[str, Any]:
    """The obvious version, on Python strings."""
    lines = re.split("\r\n|\r|\n", text)
    lines = lines[:-1] if lines[-1] == "" else lines
    return {
        "size": len(text.encode()),
        "characters": len(text),
        "lines": len(lines),
        "line_characters": sum(map(len, lines)),
        "max_line": max(map(len, lines), default=0),
        "alphabetic": sum(map(str.isalpha, text)),
        "alphanumeric": sum(map(str.isalnum, text)),
        "digits": sum(map(str.isdigit, text)),
        "spaces": sum(map(str.isspace, text)),
        "replacements": text.count("\ufffd"),
    }


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab1 \t\r\n_é中𝒳²½٣\u3000\u0085\ufffd\0")), max_size=4))
def test_counts_are_those_of_python_strings(texts: list[str]) -> None:
    for text, got in zip(texts, counted(*texts), strict=True):
        assert {k: got[k] for k in expected(text)} == expected(text)


def test_every_character_is_of_the_kind_that_python_says() -> None:
    text = "".join(chr(c) for c in range(1, 0x110000, 3) if not 0xD800 <= c < 0xE000)
    assert {k: counted(text)[0][k] for k in expected(text)} == expected(text)


def test_long_texts_do_not_overflow_the_small_counters() -> None:
    text = "a" * 200_000 + "\n" + "1 " * 100_000
    assert {k: counted(text)[0][k] for k in expected(text)} == expected(text)


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60), st.booleans())
def test_encoded_runs_are_the_matches_of_the_expression(pieces: list[str], hexes: bool) -> None:
    text = "".join(p for p in pieces if not hexes or len(p) in (3, 4, 5))
    sizes = [len(m[0]) for m in ENCODED.finditer(text.encode()) if m[0].strip(b"\n")]
    got = counted(text)[0]
    assert (got["encoded"], got["encoded_run"]) == (sum(sizes), max(sizes, default=0))


def test_encoded_data() -> None:
    base64, plain, escapes = counted(
        "x = '" + "QUJD" * 300 + "'",
        "value = first + second * third\n" * 40,
        r"s = '" + r"\u00e9" * 20 + "'",
    )
    assert (base64["encoded"], base64["encoded_run"]) == (1200, 1200)
    assert (plain["encoded"], plain["encoded_run"]) == (0, 0)
    assert escapes["encoded"] == 120


@pytest.mark.parametrize("mark", MARKS)
def test_marks_of_generated_files_are_found_in_the_first_five_lines(mark: str) -> None:
    place = MARKS.index(mark) + 1
    found = counted(
        f"# {mark.upper()} by x\n",
        "\n\r\n\n\r# " + mark,
        "\n" * 5 + mark,
        mark[:-1] + "?",
    )
    assert [f["generated"] for f in found] == [place, place, 0, 0]


def test_announcements_and_xml_are_found_among_the_first_characters() -> None:
    announced = [
        c["announced"] for c in counted("é" * 192 + ANNOUNCED[0], "é" * 193 + ANNOUNCED[0])
    ]
    assert announced == [1, 0]
    xml = [
        c["xml"]
        for c in counted(
            "<?xml version='1.0'?>", "é" * 86 + "<?xml version=", "x" * 87 + "<?xml version="
        )
    ]
    assert xml == [1, 1, 0]


def test_visible_html() -> None:
    page = """<!DOCTYPE html><html><head><title>One  two</title><style>p {a: b}</style>
    <SCRIPT src="x">if (a < b) { c > d }</SCRIPT ></head><!-- no > --><body> three é &lt; 1 < 2
    </body></html>"""
    assert counted(page, html=True)[0]["visible"] == len("One two three é &lt; 1 < 2 ")
    assert counted("<p never closed", "a <", "", html=True)[0]["visible"] == 0
    assert counted(page)[0]["visible"] == -1


def test_no_texts_and_empty_texts() -> None:
    assert counted() == []
    assert {k: v for k, v in counted("")[0].items() if v} == {"visible": -1}
