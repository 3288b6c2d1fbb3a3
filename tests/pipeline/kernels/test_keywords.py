"""The compiled search for words finds what a search word by word finds, in every text of a column."""

import re

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.arrays import flat
from pipeline.kernels.keywords import SHAPES, Word, hits, table

WORDS = (
    Word(b"key-", "run", 8),
    Word(b"ghp_", "run", 10),
    Word(b"hp_a", "run", 4),
    Word(b"-us1", "before", 4),
    Word(b"; pwd", "any"),
)
TABLE = table(WORDS)
TOKEN = rb"[A-Za-z0-9_.+/=~%$:-]"


def obvious(text: bytes) -> list[tuple[int, int]]:
    """(position, word) of each word, by a regular expression a word."""
    found = []
    for number, word in enumerate(WORDS):
        flags = re.I if word.look == "any" else re.NOFLAG
        rest = max(0, word.size - len(word.text)) if word.look != "any" else 0
        form = b"(?=" + re.escape(word.text) + TOKEN + b"{%d})" % rest
        for match in re.finditer(form, text, flags):
            at = match.start()
            if word.look == "before":
                at -= len(re.search(rb"[A-Za-z0-9_-]{0,200}\Z", text[:at])[0])
            found.append((at, number))
    return sorted(found)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.lists(
            st.sampled_from(
                ["key-", "KEY-", "ghp_", "hp_", "a", "Z9", "-us1", "; PwD", ";", " ", "é"]
            ),
            max_size=30,
        ).map("".join),
        max_size=4,
    )
)
def test_hits_are_those_of_a_plain_search(texts: list[str]) -> None:
    data, offsets = flat(pa.array(texts, pa.large_string()))
    where, codes = hits(data, offsets, TABLE)
    expected = [
        (int(offset) + at, word)
        for text, offset in zip(texts, offsets, strict=False)
        for at, word in obvious(text.encode())
    ]
    assert sorted(zip(where.tolist(), codes.tolist(), strict=True)) == sorted(expected)
    assert (np.diff(where) >= 0).all()


def test_shapes() -> None:
    texts = [
        "to ada@acme.io now",
        "db://u:p@h/x",
        "at 93.184.216.34.",
        "at 2a00:1450:4001:82a::200e x",
        "M" + "T" * 23 + ".abc-_1." + "x" * 27,
        "1.2.3 a@ @b std::x 12:30:45 2024:01:02",
    ]
    data, offsets = flat(pa.array(texts, pa.large_string()))
    where, codes = hits(data, offsets, TABLE)
    starts = (where - offsets[:5]).tolist()
    assert [SHAPES[code - len(WORDS)] for code in codes] == list(SHAPES)
    assert starts == [3, 5, 3, 3, 0]


def test_more_hits_than_room() -> None:
    data, offsets = flat(pa.array(["key-aaaa " * 10_000], pa.large_string()))
    assert len(hits(data, offsets, TABLE)[0]) == 10_000
