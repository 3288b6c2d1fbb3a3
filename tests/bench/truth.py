"""Exact Jaccard similarities of a corpus's files, found without any sketch: the yardstick of dedup.

Words are a regular expression's, grams are numbered by a dictionary, and every pair at or above the
threshold is found by prefix filtering (Bayardo et al., WWW 2007): two sets that are alike share one
of their rarest grams. Shares no code with the kernels it judges.
"""

import re
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(rb"[A-Za-z0-9_\x80-\xff]+")


@dataclass(frozen=True)
class Truth:
    """sets: gram numbers of every file, rarest first. left, right, similarity: every pair at or
    above the threshold, left < right."""

    grams: NDArray[np.int32]
    bounds: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    similarity: NDArray[np.float64]

    def jaccard(self, one: int, other: int) -> float:
        """Exact similarity of two files."""
        a, b = (set(self.grams[self.bounds[i] : self.bounds[i + 1]].tolist()) for i in (one, other))
        return len(a & b) / len(a | b) if a or b else 0.0


def truth(texts: list[str], threshold: float, n: int = 5) -> Truth:
    """Every pair of `texts` whose word n-gram sets have a Jaccard similarity of `threshold` or more."""
    grams, bounds = _numbered(texts, n)
    found = _join(grams, bounds, threshold)
    return Truth(grams, bounds, *found)


def _numbered(texts: list[str], n: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Each text's distinct grams as numbers, 0 the rarest of the corpus."""
    words: dict[bytes, int] = {}
    keys, owners = [], []
    for owner, text in enumerate(texts):
        ids = [words.setdefault(w, len(words)) for w in _WORD.findall(text.encode().lower())]
        rows = np.unique(_windows(np.array(ids, np.int64), n))
        keys.append(rows)
        owners.append(np.full(len(rows), owner))
    _, numbers, counts = np.unique(np.concatenate(keys), return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int32)
    rank[np.lexsort([np.arange(len(counts)), counts])] = np.arange(len(counts), dtype=np.int32)
    owner, gram = np.concatenate(owners), rank[numbers]
    order = np.lexsort([gram, owner])
    sizes = np.bincount(owner, minlength=len(texts))
    return gram[order], np.concatenate([[0], np.cumsum(sizes)])


def _windows(ids: NDArray[np.int64], n: int) -> NDArray[np.uint64]:
    """One key per n words: a polynomial in their numbers (a false match once in 2**64)."""
    n = min(n, len(ids))
    key = np.zeros(max(len(ids) - n + 1, 0) if n else 0, np.uint64)
    for k in range(n):
        step = ids[k : len(ids) - n + 1 + k].astype(np.uint64) + np.uint64(1)
        key = (key ^ (key >> np.uint64(29))) * np.uint64(0xD6E8FEB86659FD93) + step * np.uint64(
            0xA0761D6478BD642F
        )
    return key


@numba.njit(cache=True)
def _overlap(grams, i, i_end, j, j_end):  # type: ignore[no-untyped-def]
    common = 0
    while i < i_end and j < j_end:
        a, b = grams[i], grams[j]
        common += a == b
        i += a <= b
        j += b <= a
    return common


@numba.njit(cache=True)
def _join(grams, bounds, threshold):  # type: ignore[no-untyped-def]
    n, top = len(bounds) - 1, 0
    for g in grams:
        top = max(top, g + 1)
    heads, following, holder = (
        np.full(top, -1, np.int64),
        np.empty(len(grams), np.int64),
        np.empty(len(grams), np.int64),
    )
    seen = np.full(n, -1, np.int64)
    left, right, similarity = [0][:0], [0][:0], [0.0][:0]
    for x in range(n):
        start, end = bounds[x], bounds[x + 1]
        size = end - start
        prefix = start + size - int(np.ceil(threshold * size - 1e-9)) + 1
        for at in range(start, min(prefix, end)):
            entry = heads[grams[at]]
            while entry >= 0:
                y = holder[entry]
                if seen[y] != x:
                    seen[y] = x
                    other = bounds[y + 1] - bounds[y]
                    if min(size, other) >= threshold * max(size, other) - 1e-9:
                        common = _overlap(grams, start, end, bounds[y], bounds[y + 1])
                        alike = common / (size + other - common)
                        if alike >= threshold:
                            left.append(y)
                            right.append(x)
                            similarity.append(alike)
                entry = following[entry]
        for at in range(start, min(prefix, end)):
            holder[at] = x
            following[at] = heads[grams[at]]
            heads[grams[at]] = at
    return np.array(left), np.array(right), np.array(similarity)
