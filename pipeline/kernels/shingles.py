"""Words, n-grams and MinHash sketches of code, straight from an Arrow column's bytes.

A word is a run of [A-Za-z0-9_] or bytes >= 0x80, ASCII lower-cased; white space and punctuation make
none (The Stack v2's split on non-word characters yields 72 % empty words on indented code). A text's
grams are the hashes of its runs of n words; a text of fewer words is one gram of what it has. A
sketch keeps one byte of each minimum (b-bit minwise hashing, Li and König, WWW 2010): similar texts
agree in that many of its bytes, and six of them are a band.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.core.arrays import I64, U8
from pipeline.kernels.compiled import compiled
from pipeline.kernels.hashing import U64, mixed

U32 = NDArray[np.uint32]

_LOWER = np.zeros(256, np.uint8)
for _byte in b"abcdefghijklmnopqrstuvwxyz0123456789_" + bytes(range(128, 256)):
    _LOWER[_byte] = _byte
for _byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ":
    _LOWER[_byte] = _byte + 32
_PRIME, _BASE = np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C15)
_START = np.uint64(0xCBF29CE484222325)
_FOLD = np.uint32(0x9E3779B1)


def words(text: bytes) -> U64:
    """One 64-bit hash per word, in order. Empty for a text without words."""
    out = np.empty(len(text) // 2 + 1, np.uint64)
    count: int = _words(np.frombuffer(text, np.uint8), out)
    return out[:count]


def ngrams(hashes: U64, n: int) -> U64:
    """One hash per n consecutive words; a text shorter than n words is one gram of what it has."""
    out = np.empty(len(hashes) + 1, np.uint64)
    count: int = _ngrams(hashes, len(hashes), n, out)
    return out[:count]


def permutations(count: int, seed: int) -> tuple[U32, U32]:
    """`count` affine maps of the 32-bit integers onto themselves (odd multiplier, any offset)."""
    rng = np.random.Generator(np.random.PCG64(seed))
    draws = rng.integers(0, 2**32, size=(2, count), dtype=np.uint32)
    return draws[0] | np.uint32(1), draws[1]


def sketches(data: U8, offsets: I64, n: int, a: U32, b: U32) -> U8:
    """(texts, permutations) sketch bytes of a flat column. Texts without words sketch to zeros."""
    out = np.zeros((len(offsets) - 1, len(a)), np.uint8)
    _sketches(data, offsets, n, a, b, out)
    return out


def gram_sets(data: U8, offsets: I64, n: int) -> tuple[U32, I64]:
    """(grams, bounds): the sorted distinct 32-bit grams of text i are grams[bounds[i]:bounds[i + 1]].

    32 bits of the 64-bit hash: two texts of 1,000 grams share a false one once in 4,000 pairs.
    """
    grams, bounds = _folded(data, offsets, n)
    return _distinct(grams, bounds)


def has_words(data: U8, offsets: I64) -> NDArray[np.bool_]:
    """Which texts have any word at all: those without have no similarity to anything."""
    out = np.zeros(len(offsets) - 1, np.bool_)
    _any_word(data, offsets, out)
    return out


def minima(grams: U32, a: U32, b: U32) -> U32:
    """The whole 32-bit MinHash signature of one text's folded grams (what a sketch keeps bytes of)."""
    out = np.empty(len(a), np.uint32)
    _minima(grams, len(grams), a, b, out)
    return out


@compiled
def _words(text, out):  # type: ignore[no-untyped-def]
    count, hashed = 0, _START
    for i in range(len(text)):
        c = _LOWER[text[i]]
        if c:
            hashed = (hashed ^ np.uint64(c)) * _PRIME
        elif hashed != _START:
            out[count] = mixed(hashed)
            count += 1
            hashed = _START
    if hashed != _START:
        out[count] = mixed(hashed)
        count += 1
    return count


@compiled
def _ngrams(hashes, count, n, out):  # type: ignore[no-untyped-def]
    """Polynomial hashes of n words, rolled; returns how many there are."""
    if count == 0:
        return 0
    if count < n:
        n = count
    top, gram = np.uint64(1), np.uint64(0)
    for _ in range(n):
        top *= _BASE
    for i in range(count):
        gram = gram * _BASE + hashes[i]
        if i >= n:
            gram -= hashes[i - n] * top
        if i >= n - 1:
            out[i - n + 1] = mixed(gram)
    return count - n + 1


@compiled
def _minima(grams, count, a, b, out):  # type: ignore[no-untyped-def]
    """One permutation at a time over all grams: a reduction that the compiler vectorises."""
    for k in range(len(a)):
        p, q, low = a[k], b[k], np.uint32(0xFFFFFFFF)
        for i in range(count):
            v = np.uint32(p * grams[i] + q)
            low = min(low, v)
        out[k] = low


@compiled
def _longest(offsets):  # type: ignore[no-untyped-def]
    most = 0
    for i in range(len(offsets) - 1):
        most = max(most, offsets[i + 1] - offsets[i])
    return most


@compiled
def _sketches(data, offsets, n, a, b, out):  # type: ignore[no-untyped-def]
    room = _longest(offsets) // 2 + 1
    hashes, grams = np.empty(room, np.uint64), np.empty(room, np.uint64)
    folded, low = np.empty(room, np.uint32), np.empty(len(a), np.uint32)
    for d in range(len(offsets) - 1):
        count = _words(data[offsets[d] : offsets[d + 1]], hashes)
        count = _ngrams(hashes, count, n, grams)
        if count == 0:
            continue
        for i in range(count):
            folded[i] = np.uint32(grams[i] >> np.uint64(32))
        _minima(folded, count, a, b, low)
        for k in range(len(a)):
            out[d, k] = np.uint8(np.uint32(low[k] * _FOLD) >> np.uint32(24))


@compiled
def _any_word(data, offsets, out):  # type: ignore[no-untyped-def]
    for d in range(len(offsets) - 1):
        for i in range(offsets[d], offsets[d + 1]):
            if _LOWER[data[i]]:
                out[d] = True
                break


@compiled
def _folded(data, offsets, n):  # type: ignore[no-untyped-def]
    room = _longest(offsets) // 2 + 1
    hashes, grams = np.empty(room, np.uint64), np.empty(room, np.uint64)
    flat = np.empty((offsets[-1] - offsets[0]) // 2 + len(offsets), np.uint32)
    bounds, at = np.zeros(len(offsets), np.int64), 0
    for d in range(len(offsets) - 1):
        count = _words(data[offsets[d] : offsets[d + 1]], hashes)
        count = _ngrams(hashes, count, n, grams)
        for i in range(count):
            flat[at + i] = np.uint32(grams[i] >> np.uint64(32))
        at += count
        bounds[d + 1] = at
    return flat[:at], bounds


def _distinct(grams: U32, bounds: I64) -> tuple[U32, I64]:
    """Sort and thin each text's grams (numpy's vectorised sort, one call a text)."""
    sets = [np.unique(grams[s:e]) for s, e in pairwise(bounds)]
    sizes = np.fromiter(map(len, sets), np.int64, len(sets))
    return (np.concatenate(sets) if sets else grams), np.concatenate([[0], np.cumsum(sizes)])
