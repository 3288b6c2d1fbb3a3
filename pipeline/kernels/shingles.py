"""Words, n-grams and MinHash of code, as arrays: no Python string is made for a word.

A word is a run of [A-Za-z0-9_] or bytes >= 0x80, ASCII lower-cased; white space and punctuation make
none. (The Stack v2's split on non-word
characters yields 72 % empty words on indented code.)
numpy only.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

_LOWER = np.zeros(256, np.uint64)
for _byte in b"abcdefghijklmnopqrstuvwxyz0123456789_" + bytes(range(128, 256)):
    _LOWER[_byte] = _byte
for _byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ":
    _LOWER[_byte] = _byte + 32
_WORD, _GRAM = np.uint64(0x100000001B3), np.uint64(0x9E3779B97F4A7C15)
_LONGEST = 256
_POWERS = np.cumprod(np.full(_LONGEST, _WORD), dtype=np.uint64)


def words(text: bytes) -> U64:
    """One 64-bit hash per word, in order. Empty for a text without words."""
    chars = _LOWER[np.frombuffer(text, np.uint8)]
    inside = chars > 0
    edges = np.diff(inside, prepend=False, append=False)
    bounds = np.flatnonzero(edges)
    starts, ends = bounds[::2], bounds[1::2]
    if not len(starts):
        return np.empty(0, np.uint64)
    at = np.flatnonzero(inside)
    lengths = ends - starts
    first = np.cumsum(lengths) - lengths
    position = np.arange(len(at)) - np.repeat(first, lengths)
    terms = chars[at] * _POWERS[position % _LONGEST]
    return _mix(np.add.reduceat(terms, first) + lengths.astype(np.uint64))


def ngrams(hashes: U64, n: int) -> U64:
    """One hash per n consecutive words; a text shorter than n words is one gram of what it has."""
    if not len(hashes):
        return np.empty(0, np.uint64)
    n = min(n, len(hashes))
    out = np.zeros(len(hashes) - n + 1, np.uint64)
    for k in range(n):
        out = out * _GRAM + hashes[k : len(hashes) - n + 1 + k]
    return _mix(out)


def shingles(text: bytes, n: int) -> U64:
    """The sorted set of word n-gram hashes: what similarity is measured on."""
    return np.unique(ngrams(words(text), n))


def permutations(count: int, seed: int) -> tuple[U32, U32]:
    """`count` affine maps of the 32-bit integers onto themselves (odd multiplier, any offset)."""
    rng = np.random.Generator(np.random.PCG64(seed))
    draws = rng.integers(0, 2**32, size=(2, count), dtype=np.uint32)
    return draws[0] | np.uint32(1), draws[1]


def minhash(grams: U64, a: U32, b: U32) -> U32:
    """The signature (one minimum per permutation); all ones for a text without words."""
    out = np.full(len(a), 0xFFFFFFFF, np.uint32)
    folded = (grams >> np.uint64(32)).astype(np.uint32)
    for block in range(0, len(folded), 4096):
        part = folded[block : block + 4096, None] * a + b
        np.minimum(out, part.min(axis=0), out=out)
    return out


def bands(signatures: U32, count: int, rows: int) -> U64:
    """(documents, permutations) signatures -> (documents, count) hashes, one per band of `rows`."""
    used = signatures[:, : count * rows].reshape(len(signatures), count, rows).astype(np.uint64)
    out = np.tile(np.arange(count, dtype=np.uint64), (len(signatures), 1))
    for k in range(rows):
        out = out * _GRAM + used[:, :, k]
    return _mix(out)


def similarity(left: U32, right: U32) -> NDArray[np.float64]:
    """Estimated Jaccard similarity of signature pairs, row by row."""
    return np.asarray((left == right).mean(axis=-1), np.float64)


def pairs(keys: U64, cap: int) -> NDArray[np.int64]:
    """(m, 2) document pairs (i < j) that share a key in some column of (documents, bands) `keys`.

    A bucket of more than `cap` documents pairs each of them with its first `cap` only, so that
    one family of near copies costs cap x size, not size squared.
    """
    found = [_column_pairs(keys[:, band], cap) for band in range(keys.shape[1])]
    both = np.concatenate([*found, np.empty((0, 2), np.int64)])
    return np.unique(both, axis=0)


def _column_pairs(keys: U64, cap: int) -> NDArray[np.int64]:
    order = np.argsort(keys, kind="stable")
    new = np.diff(keys[order]) != 0
    starts = np.concatenate([[0], np.flatnonzero(new) + 1, [len(keys)]])
    out = [_bucket(order[s:e], cap) for s, e in pairwise(starts) if e - s > 1]
    return np.concatenate(out) if out else np.empty((0, 2), np.int64)


def _bucket(members: NDArray[np.int64], cap: int) -> NDArray[np.int64]:
    heads = members[:cap]
    left, right = np.meshgrid(heads, members, indexing="ij")
    low, high = np.minimum(left, right), np.maximum(left, right)
    grid = np.stack([low[low < high], high[low < high]], axis=1)
    return grid


def _mix(x: U64) -> U64:
    """The finaliser of splitmix64: every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
