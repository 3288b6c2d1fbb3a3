"""Words, grams and sketches against ten-line obvious versions and against datasketch."""

import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.arrays import flat
from pipeline.kernels.neighbours import estimate
from pipeline.kernels.shingles import (
    gram_sets,
    has_words,
    minima,
    ngrams,
    permutations,
    sketches,
    words,
)

WORD = re.compile(rb"[A-Za-z0-9_\x80-\xff]+")


def lowered(word: bytes) -> bytes:
    return bytes(c + 32 if 65 <= c <= 90 else c for c in word)


@given(st.binary(max_size=300))
def test_equal_words_have_equal_hashes_and_others_do_not(text: bytes) -> None:
    obvious, found = [lowered(w) for w in WORD.findall(text)], words(text)
    assert len(found) == len(obvious)
    assert len(set(zip(obvious, found.tolist(), strict=True))) == len(set(obvious))
    assert len(set(found.tolist())) == len(set(obvious))


@given(st.lists(st.sampled_from("ab"), max_size=30), st.integers(1, 6))
def test_ngrams_are_windows(letters: list[str], n: int) -> None:
    found = ngrams(words(" ".join(letters).encode()), n)
    width = min(n, len(letters))
    windows = (
        [tuple(letters[i : i + width]) for i in range(len(letters) - width + 1)] if letters else []
    )
    assert len(found) == len(windows)
    assert len(set(zip(windows, found.tolist(), strict=True))) == len(set(windows))
    assert len(set(found.tolist())) == len(set(windows))


def test_white_space_and_case_make_no_difference() -> None:
    assert (words(b"def  F(x):\n\treturn x") == words(b"DEF f(x): return X")).all()


@given(st.lists(st.text(alphabet="ab é;\n", max_size=40), max_size=8))
def test_gram_sets_are_the_distinct_windows_of_each_text(texts: list[str]) -> None:
    grams, bounds = gram_sets(*flat(pa.array(texts, pa.large_string())), 3)
    for number, text in enumerate(texts):
        found = [lowered(w) for w in WORD.findall(text.encode())]
        width = min(3, len(found))
        obvious = (
            {tuple(found[i : i + width]) for i in range(len(found) - width + 1)} if found else set()
        )
        mine = grams[bounds[number] : bounds[number + 1]]
        assert len(mine) == len(obvious)
        assert (np.diff(mine.astype(np.int64)) > 0).all()


def test_a_column_in_pieces_with_nulls_reads_as_one() -> None:
    column = pa.chunked_array([["skip me", "def f(): pass", None], ["x = 1"]], pa.string()).slice(1)
    data, offsets = flat(column)
    texts = [bytes(data[s:e]) for s, e in pairwise(offsets)]
    assert texts == [b"def f(): pass", b"", b"x = 1"]
    assert has_words(data, offsets).tolist() == [True, False, True]


def test_minima_are_the_smallest_of_each_affine_map() -> None:
    """The scheme that datasketch 2 calls affine32: a * x + b modulo 2**32."""
    a, b = permutations(64, 5)
    grams = np.random.default_rng(1).integers(0, 2**32, 500, dtype=np.uint32)
    obvious = (grams[:, None].astype(np.uint64) * a + b) % 2**32
    assert (minima(grams, a, b) == obvious.min(axis=0)).all()


@pytest.mark.parametrize("shared", [0.3, 0.5, 0.7, 0.9])
def test_the_estimate_is_as_good_as_datasketchs(shared: float) -> None:
    rng = np.random.default_rng(7)
    ours, theirs = [], []
    for trial in range(30):
        a, b = permutations(256, trial)
        size = int(600 * shared / (1 + shared) * 2)
        common = [f"c{trial}x{i}" for i in rng.integers(0, 10**9, size)]
        sides = [
            [f"{side}{trial}x{i}" for i in rng.integers(0, 10**9, 600 - size)] for side in "lr"
        ]
        texts = [" ".join(common + side) for side in sides]
        true = len(set(common)) / len(set(common) | set(sides[0]) | set(sides[1]))
        made = sketches(*flat(pa.array(texts, pa.large_string())), 1, a, b)
        ours.append(float(estimate(np.sum(made[0] == made[1]), 256)) - true)
        made2 = [MinHash(256, seed=trial) for _ in range(2)]
        for sketch, side in zip(made2, sides, strict=True):
            sketch.update_batch([w.encode() for w in common + side])
        theirs.append(made2[0].jaccard(made2[1]) - true)
    assert np.sqrt(np.mean(np.square(ours))) < 1.5 * np.sqrt(np.mean(np.square(theirs))) + 0.005
    assert abs(np.mean(ours)) < 0.02


def test_unlike_short_texts_do_not_collide() -> None:
    """One gram each: a sketch must not agree everywhere because one byte of a hash does."""
    texts = [f"word{i}" for i in range(2000)]
    made = sketches(*flat(pa.array(texts, pa.large_string())), 5, *permutations(256, 1))
    assert len(np.unique(made, axis=0)) == 2000
    agree = (made[:1000] == made[1000:]).sum(axis=1)
    assert agree.max() < 30
