"""Near copies among sketches: pairs that share a band, and which document of each pair stays.

Documents are numbered by preference: of a pair, the smaller number is the more wanted. A document
goes only when one that *stays* is like it, so that a chain A ~ B ~ C cannot take out C by way of B;
one pass in order of preference decides everything, and there is nothing that might not converge
(ours; Marin keeps the same rule). A pair is one 64-bit number: the less wanted document above, the
more wanted below.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.arrays import I64, U8
from pipeline.core.removals import Kept
from pipeline.kernels.compiled import compiled
from pipeline.kernels.hashing import U64, mixed
from pipeline.kernels.shingles import U32

NO, MAYBE, YES = 0, 1, 2
"""How alike a pair is: below the threshold, too near it for an estimate to tell, above it."""
KEPT, GONE, OPEN = 0, 1, 2
"""What is known of a document: it stays, it goes, or it hangs on pairs that are MAYBE."""
_CHANCE = 1 / 256
"""Share of sketch bytes that agree although the minima differ."""


def estimate(agreeing: NDArray[np.integer[Any]], length: int) -> NDArray[np.float64]:
    """Jaccard similarity from the number of agreeing sketch bytes (unbiased; Li and König 2010)."""
    return (agreeing / length - _CHANCE) / (1 - _CHANCE)


def agreeing(similarity: float, length: int) -> int:
    """The fewest agreeing bytes of `length` that estimate at least `similarity`."""
    return int(np.ceil(length * (similarity * (1 - _CHANCE) + _CHANCE) - 1e-9))


def error(similarity: float, length: int) -> float:
    """Standard deviation of the estimate at a similarity."""
    return float(np.sqrt(similarity * (1 - similarity) / length))


def pairs(
    sketches: U8,
    order: U32,
    bands: range,
    rows: int,
    *,
    least: int,
    sure: int,
    cap: int,
    fixed: int = 0,
    inside: bool = True,
    part: tuple[int, int] = (0, 1),
) -> tuple[U64, NDArray[np.uint16]]:
    """(sorted pairs, agreeing bytes): documents that agree in all `rows` bytes of one of the bands.

    sketches: (stored, length) bytes; order: document -> its stored row. Only pairs that agree in
    `least` bytes or more. The first `fixed` documents are never paired among themselves, and
    without `inside` the others neither. In a bucket of more than `cap` documents each is compared
    with the first `cap` that no earlier one of the bucket is surely (`sure` bytes) like. part: only
    the (number, of so many) part of all buckets; 20 bytes a document of it are held.
    """
    found, counts = [np.empty(0, np.uint64)], [np.empty(0, np.uint16)]
    for band in bands:
        keys, members = _keys(sketches, order, band * rows, rows, *part)
        by_key = np.argsort(keys, kind="stable")
        some, agree = _bucket_pairs(
            sketches, order, keys[by_key], members[by_key], least, sure, cap, fixed, inside
        )
        found.append(some)
        counts.append(agree)
    unique, first = np.unique(np.concatenate(found), return_index=True)
    return unique, np.concatenate(counts)[first]


def split(pair: U64) -> tuple[I64, I64]:
    """(more wanted, less wanted) document of each pair."""
    return (pair & np.uint64(0xFFFFFFFF)).astype(np.int64), (pair >> np.uint64(32)).astype(np.int64)


def settle(pair: U64, alike: U8, state: U8) -> None:
    """Set each document's `state` (KEPT at first) to GONE or OPEN where a pair says so; pairs sorted,
    in as many calls as they need. Without MAYBE pairs nothing is OPEN."""
    _settle(np.ascontiguousarray(pair), alike, state)


def everyone(documents: int) -> Kept:
    """All documents stay."""
    nothing = np.full(documents, np.nan, np.float32)
    return Kept(np.arange(documents, dtype=np.uint32), nothing, np.zeros(documents, np.bool_))


def keepers(
    pair: U64,
    similarity: NDArray[np.float32],
    measured: NDArray[np.bool_],
    threshold: float,
    kept: Kept,
) -> None:
    """Decide about each pair's less wanted document; pairs sorted, in as many calls as they need."""
    _keepers(np.ascontiguousarray(pair), similarity, measured, np.float32(threshold), *kept)


def jaccard(left: I64, right: I64, grams: U32, bounds: I64) -> NDArray[np.float32]:
    """Exact similarity of sets `left[i]` and `right[i]`; set s is grams[bounds[s]:bounds[s + 1]]."""
    out = np.empty(len(left), np.float32)
    _jaccard(left, right, grams, bounds, out)
    return out


@compiled
def _keys(sketches, order, first, rows, part, parts):  # type: ignore[no-untyped-def]
    """The band's bytes of each document whose key falls into the part, and its number."""
    most = len(order) if parts == 1 else len(order) // parts * 2 + 1024
    keys, members, at = np.empty(most, np.uint64), np.empty(most, np.uint32), 0
    for d in range(len(order)):
        key = np.uint64(0)
        for k in range(first, first + rows):
            key = (key << np.uint64(8)) | np.uint64(sketches[order[d], k])
        if parts > 1 and mixed(key) % np.uint64(parts) != np.uint64(part):
            continue
        if at == len(keys):
            keys = np.concatenate((keys, np.empty_like(keys)))
            members = np.concatenate((members, np.empty_like(members)))
        keys[at], members[at] = key, d
        at += 1
    return keys[:at], members[:at]


@compiled
def _agree(sketches, left, right):  # type: ignore[no-untyped-def]
    count = 0
    for k in range(sketches.shape[1]):
        count += sketches[left, k] == sketches[right, k]
    return count


@compiled
def _bucket_pairs(sketches, order, keys, by_key, least, sure, cap, fixed, inside):  # type: ignore[no-untyped-def]
    out, counts, at = np.empty(1024, np.uint64), np.empty(1024, np.uint16), 0
    heads = np.empty(len(keys), np.int64)
    start, n = 0, len(keys)
    while start < n:
        end = start + 1
        while end < n and keys[end] == keys[start]:
            end += 1
        hot, known = end - start > cap, 0
        for m in range(start, end):
            second, covered = by_key[m], False
            for h in range(known):
                first = heads[h]
                if second < fixed or (first >= fixed and not inside):
                    continue
                same = _agree(sketches, order[first], order[second])
                covered = covered or same >= sure
                if same < least:
                    continue
                if at == len(out):
                    out = np.concatenate((out, np.empty_like(out)))
                    counts = np.concatenate((counts, np.empty_like(counts)))
                out[at] = (np.uint64(second) << np.uint64(32)) | np.uint64(first)
                counts[at] = same
                at += 1
            if not hot or (not covered and known < cap):
                heads[known] = second
                known += 1
        start = end
    return out[:at], counts[:at]


@compiled
def _settle(pair, alike, state):  # type: ignore[no-untyped-def]
    low = np.uint64(0xFFFFFFFF)
    for p in range(len(pair)):
        first, second = np.int64(pair[p] & low), np.int64(pair[p] >> np.uint64(32))
        if alike[p] == 0 or state[first] == 1 or state[second] == 1:
            continue
        if alike[p] == 2 and state[first] == 0:
            state[second] = 1
        else:
            state[second] = 2


@compiled
def _keepers(pair, similarity, measured, threshold, keeper, value, exact):  # type: ignore[no-untyped-def]
    low = np.uint64(0xFFFFFFFF)
    for p in range(len(pair)):
        first, second = np.int64(pair[p] & low), np.int64(pair[p] >> np.uint64(32))
        if similarity[p] < threshold or keeper[first] != first:
            continue
        if keeper[second] == second or similarity[p] > value[second]:
            keeper[second] = first
            value[second] = similarity[p]
            exact[second] = measured[p]


@compiled
def _jaccard(left, right, grams, bounds, out):  # type: ignore[no-untyped-def]
    for p in range(len(left)):
        i, j, common = bounds[left[p]], bounds[right[p]], 0
        last, end = bounds[left[p] + 1], bounds[right[p] + 1]
        size = last - i + end - j
        while i < last and j < end:
            a, b = grams[i], grams[j]
            common += a == b
            i += a <= b
            j += b <= a
        out[p] = common / (size - common) if size > common else 0.0
