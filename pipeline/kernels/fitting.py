"""Documents of given lengths put into sequences of a fixed length whole: best fit, decreasing.

A document longer than a sequence fills whole sequences first; what is left of it, and every shorter
document, goes where the least room is left that holds it (Ding 2404.10830, best-fit packing), so
that nothing is cut for its neighbours' sake. Numbers only, as `packing`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels.compiled import compiled
from pipeline.kernels.packing import (
    CORRUPTED,
    F64,
    I64,
    PLAIN,
    Pieces,
    Spans,
    draw,
    most_pieces,
    piece,
    typed,
)


def fit(
    lengths: I64, length: int, infill: F64 | float, rng: np.random.Generator, spans: Spans = PLAIN
) -> Pieces:
    """Documents put whole into as few sequences of `length` tokens as best fit finds.

    Parameters as of `packing.lay`, but corrupted pieces are drawn one by one: which sequence they go
    to depends on their size. Pieces are sorted by sequence, then in the order of the documents.
    Linear in documents but for a tree of log2(length) levels; documents of one size are taken in
    the given order, so that another order gives other neighbours.
    """
    seed = np.uint64(rng.integers(2**64, dtype=np.uint64))
    rates = np.ascontiguousarray(np.broadcast_to(infill, lengths.shape), np.float64).copy()
    most = most_pieces(lengths, length, spans)
    numbers, flags = np.empty((6, most), np.int64), np.empty((2, most), np.bool_)
    used = np.empty(most, np.int64)
    sizes = np.array(lengths, np.int64)  # a copy: the kernel is compiled for writable arrays
    count = _cut(sizes, length, rates, seed, typed(spans), numbers, flags, used)
    numbers, flags = numbers[:, :count], flags[:, :count]
    total = _assign(used[:count], length, numbers[0])
    order = _by_sequence(numbers[0], total)
    return Pieces(*_taken(numbers, order), *_taken(flags, order))


def _taken(rows: NDArray[Any], order: I64) -> list[NDArray[Any]]:
    return [row[order] for row in rows]


@compiled
def _cut(lengths, length, rates, seed, spans, numbers, flags, used):  # type: ignore[no-untyped-def]
    """Pieces of documents that each begin a sequence; returns how many."""
    count = 0
    for document in range(len(lengths)):
        left, offset, last = lengths[document], 0, False
        while not last:
            corrupt = draw(seed ^ CORRUPTED, document, offset) < spans.rate
            size, used[count], last = piece(
                left, length, rates[document], corrupt, seed, document, offset, spans,
                numbers[:, count], flags[:, count],
            )  # fmt: skip
            offset, left, count = offset + size, left - size, count + 1
    return count


@compiled
def _assign(used, length, sequence):  # type: ignore[no-untyped-def]
    """Write each piece's sequence, largest pieces first; returns how many sequences there are.

    `first[c]` is the newest sequence with c places left, `below[s]` the one under it; a leaf of the
    tree is 1 where there is any, a node where there is any below it.
    """
    leaves = 1
    while leaves <= length:
        leaves *= 2
    tree, first = np.zeros(2 * leaves, np.uint8), np.full(length + 1, -1, np.int64)
    below, total = np.empty(len(used), np.int64), 0
    for item in _decreasing(used, length):
        room = _least(tree, leaves, used[item])
        if room < 0:
            number, room, total = total, length, total + 1
        else:
            number = first[room]
            first[room] = below[number]
            if first[room] < 0:
                _set(tree, leaves + room, 0)
        sequence[item], room = number, room - used[item]
        if room:
            below[number], first[room] = first[room], number
            _set(tree, leaves + room, 1)
    return total


@compiled
def _decreasing(used, length):  # type: ignore[no-untyped-def]
    """Pieces by size, largest first, in their order where sizes are equal (a counting sort)."""
    at = np.zeros(length + 2, np.int64)
    for size in used:
        at[length - size + 1] += 1
    at = np.cumsum(at)
    order = np.empty(len(used), np.int64)
    for item in range(len(used)):
        place = length - used[item]
        order[at[place]] = item
        at[place] += 1
    return order


@compiled
def _least(tree, leaves, size):  # type: ignore[no-untyped-def]
    """The smallest room of at least `size` that a sequence has left, -1 for none."""
    node = leaves + size
    if tree[node]:
        return size
    while node > 1:
        if node % 2 == 0 and tree[node + 1]:
            node += 1
            break
        node //= 2
    if node == 1:
        return -1
    while node < leaves:
        node *= 2
        if not tree[node]:
            node += 1
    return node - leaves


@compiled
def _set(tree, node, value):  # type: ignore[no-untyped-def]
    """Set a leaf, and the nodes above it as far as they change."""
    tree[node] = value
    while node > 1:
        above = tree[node] | tree[node ^ 1]
        node //= 2
        if tree[node] == above:
            return
        tree[node] = above


@compiled
def _by_sequence(sequence, total):  # type: ignore[no-untyped-def]
    """Pieces sorted by sequence, else in their order (a counting sort)."""
    at = np.zeros(total + 1, np.int64)
    for number in sequence:
        at[number + 1] += 1
    at = np.cumsum(at)
    order = np.empty(len(sequence), np.int64)
    for item in range(len(sequence)):
        order[at[sequence[item]]] = item
        at[sequence[item]] += 1
    return order
