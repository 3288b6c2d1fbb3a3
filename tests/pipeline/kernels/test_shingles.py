"""Words, shingles and MinHash against ten-line obvious versions and against datasketch."""

import re

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kernels import shingles
from pipeline.kernels.shingles import bands, minhash, ngrams, pairs, permutations, similarity, words

WORD = re.compile(rb"[A-Za-z0-9_\x80-\xff]+")


def plain_words(text: bytes) -> list[bytes]:
    return [w.lower() if w.isascii() else w for w in WORD.findall(text)]


@given(st.binary(max_size=300))
def test_equal_words_have_equal_hashes_and_others_do_not(text: bytes) -> None:
    obvious, found = (
        [bytes(c + 32 if 65 <= c <= 90 else c for c in w) for w in WORD.findall(text)],
        words(text),
    )
    assert len(found) == len(obvious)
    assert len(set(found.tolist())) == len(set(obvious))


@given(st.lists(st.sampled_from("ab"), max_size=30), st.integers(1, 6))
def test_ngrams_are_windows(letters: list[str], n: int) -> None:
    found = ngrams(words(" ".join(letters).encode()), n)
    width = min(n, len(letters))
    windows = (
        [tuple(letters[i : i + width]) for i in range(len(letters) - width + 1)] if letters else []
    )
    assert len(found) == len(windows)
    assert len(set(found.tolist())) == len(set(windows))


def test_white_space_and_case_make_no_difference() -> None:
    assert (words(b"def  F(x):\n\treturn x") == words(b"DEF f(x): return X")).all()


@pytest.mark.parametrize("shared", [0.3, 0.5, 0.7, 0.9])
def test_the_estimate_is_as_good_as_datasketchs(shared: float) -> None:
    rng = np.random.default_rng(7)
    a, b = permutations(256, 1)
    ours, theirs = [], []
    for _ in range(20):
        common = rng.integers(0, 2**63, int(1000 * shared / (2 - shared) * 2))
        rest = rng.integers(0, 2**63, 2 * (1000 - len(common)) if len(common) < 1000 else 2)
        left = np.unique(np.concatenate([common, rest[::2]])).astype(np.uint64)
        right = np.unique(np.concatenate([common, rest[1::2]])).astype(np.uint64)
        true = len(np.intersect1d(left, right)) / len(np.union1d(left, right))
        ours.append(float(similarity(minhash(left, a, b), minhash(right, a, b))) - true)
        sketches = [MinHash(256) for _ in range(2)]
        for sketch, grams in zip(sketches, (left, right), strict=True):
            sketch.update_batch([g.tobytes() for g in grams])
        theirs.append(sketches[0].jaccard(sketches[1]) - true)
    assert np.sqrt(np.mean(np.square(ours))) < 1.5 * np.sqrt(np.mean(np.square(theirs))) + 0.005
    assert abs(np.mean(ours)) < 0.03


def test_a_text_without_words_has_no_shingles_and_a_full_signature() -> None:
    a, b = permutations(16, 1)
    grams = shingles.shingles(b" ;;; ", 5)
    assert len(grams) == 0
    assert (minhash(grams, a, b) == 0xFFFFFFFF).all()


def test_pairs_finds_what_shares_a_band_and_caps_hot_buckets() -> None:
    rng = np.random.default_rng(0)
    signatures = rng.integers(0, 2**32, (50, 20), dtype=np.uint32)
    signatures[7, :4] = signatures[3, :4]
    assert pairs(bands(signatures, 5, 4), 64).tolist() == [[3, 7]]
    hot = pairs(np.zeros((1000, 1), np.uint64), 8)
    assert len(hot) == 8 * 1000 - 8 * 9 // 2
    assert (hot[:, 0] < hot[:, 1]).all()
