"""Streams of symbols by hand, and that finding pieces in them agrees with looking everywhere, also
when hashes clash.
"""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.arrays import flat
from pipeline.kernels import symbols as known
from pipeline.kernels.symbols import CHARS, TOKENS, WORDS, find, kept, stream, table, vocabulary

NONE = vocabulary([])


def tokens(code: str) -> str:
    """The token stream in words, to be read."""
    names = {known.NAME: "n", known.NUMBER: "0", known.STRING: "s"}
    listed = known.KEPT + known.METHODS
    words = [
        names.get(x) or (listed[x - known.KEPT_FROM] if x >= known.KEPT_FROM else chr(x))
        for x in stream(code.encode(), TOKENS, kept())[0].tolist()
    ]
    return " ".join(words)


def test_chars_are_lower_case_without_white_space() -> None:
    symbols, at = stream("aB \t\r\n\x00Ä".encode(), CHARS, NONE)
    assert bytes(symbols.tolist()) == "abÄ".encode()
    assert at.tolist() == [0, 1, 7, 8]


def test_words_are_numbered_by_the_vocabulary_and_unknown_ones_are_zero() -> None:
    words = vocabulary([b"abc", b"x_1", b"abc", "ä".encode(), b"ab"])
    symbols, at = stream("ABC(x_1)+äb Ab;abc1".encode(), WORDS, words)
    assert symbols.tolist() == [1, 2, 0, 4, 0]
    assert at.tolist() == [0, 4, 9, 13, 16]


def test_tokens_keep_structure_and_no_names() -> None:
    code = "def f(a: int) -> str:\n    # gone\n    return a.split('x')[0x1F] + 1.5e3\n"
    assert tokens(code) == "def n ( n : int ) - > n : return n . split ( s ) [ 0 ] + 0"
    assert tokens("split(x.SPLIT, None)") == "n ( n . split , none )"
    assert tokens("1.real + 1.5.real + x.5") == "0 . n + 0 . n + n . 0"


@pytest.mark.parametrize(
    ("code", "left"),
    [
        ("a // b\nc", "n n"),
        ("#include <x>\na#b", "n # n"),
        ("a /* b */ c /* d", "n n"),
        ("/*/ a */ b /**/ c", "n n"),
        ('"""doc \' " """ a \'\'\'b\'\'\' c """open', "n n"),
        ("'a\\'b' + \"c\\\\\" + d", "s + s + n"),
        ("it's\nb", "n s n"),
        ("'open", "s"),
        ("'open\\", "s"),
        ("", ""),
        ("/", "/"),
        ("''", "s"),
        ("/*", ""),
    ],
)
def test_comments_and_strings_end_where_they_should(code: str, left: str) -> None:
    assert tokens(code) == left


@given(st.text(alphabet="a1 .'\"#/*\\\n", max_size=30))
def test_tokens_start_in_order_and_inside_the_text(code: str) -> None:
    _, at = stream(code.encode(), TOKENS, kept())
    assert (np.diff(at) > 0).all()
    assert not len(at) or (at[0] >= 0 and at[-1] < len(code))


@settings(max_examples=60)
@given(
    st.lists(st.text(alphabet="ab \n", max_size=12), max_size=6),
    st.lists(st.text(alphabet="ab", min_size=2, max_size=6), min_size=1, max_size=8),
    st.sampled_from([0, 1, 6, 2**64 - 1]),
)
def test_finding_is_looking_everywhere_whatever_hashes_clash(
    texts: list[str], wanted: list[str], mask: int
) -> None:
    """mask 0: every piece has the same hash."""
    symbols, _ = stream("".join(wanted).encode(), CHARS, NONE)
    lengths = np.array([len(w) for w in wanted])
    pieces, number = table(symbols, np.cumsum(lengths) - lengths, lengths, 2, mask)
    assert len({*number.tolist()}) == len({*wanted}) == len(pieces.hashes)
    name = dict(zip(number.tolist(), wanted, strict=True))
    (found,) = find(*flat(pa.array(texts, pa.large_string())), CHARS, NONE, pieces)
    got = {(d, name[p], first, last) for d, p, first, last in found.tolist()}
    assert len(got) == len(found)
    assert got == {hit for d, text in enumerate(texts) for hit in everywhere(d, text, wanted)}


def everywhere(document: int, text: str, wanted: list[str]) -> set[tuple[int, str, int, int]]:
    at = [i for i, c in enumerate(text) if c.strip()]
    squeezed = "".join(text.split())
    return {
        (document, w, at[i], at[i + len(w) - 1])
        for w in wanted
        for i in range(len(squeezed))
        if squeezed.startswith(w, i)
    }


def test_many_hits_and_unknown_words() -> None:
    words = vocabulary([b"a", b"b"])
    pieces, _ = table(np.array([1, 2], np.int32), np.array([0]), np.array([2]), 2)
    texts = ["a b " * 1000, "a c b", "a, (B)"]
    (found,) = find(*flat(pa.array(texts, pa.large_string())), WORDS, words, pieces)
    assert np.bincount(found[:, 0]).tolist() == [1000, 0, 1]
    assert found[-1].tolist() == [2, 0, 0, 4]
