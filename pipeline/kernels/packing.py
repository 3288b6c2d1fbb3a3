"""Documents of given lengths laid into sequences of a fixed length: concatenate and cut.

Numbers only: which piece of which document goes where, with room reserved for the sentinels of a
piece that will be infilled, so that nothing is ever cut out of its middle. numpy only.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SENTINELS = 3
"""Places that an infilled piece needs beside its tokens."""
SHORTEST = 16
"""A piece of fewer tokens is not infilled: nothing to learn from it (ours)."""


@dataclass(frozen=True)
class Pieces:
    """Parallel arrays, one entry a piece: its sequence, document number, offset and length (in
    tokens) inside the document, whether it is infilled, whether it ends its document."""

    sequence: NDArray[np.int64]
    document: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    infill: NDArray[np.bool_]
    last: NDArray[np.bool_]


def lay(lengths: NDArray[np.int64], length: int, rate: float, rng: np.random.Generator) -> Pieces:
    """Documents in the given order, end to end, cut into sequences of `length` tokens.

    Each document's last piece takes one more place for an end token. rate: the share of pieces that
    are infilled, drawn from `rng` piece by piece. Sequences are numbered from 0; the last may be short.
    """
    rows: list[tuple[int, int, int, int, bool, bool]] = []
    sequence, room = 0, length
    for document, left in enumerate(lengths.tolist()):
        offset, last = 0, False
        while not last:
            fits = min(left, room - SENTINELS) >= SHORTEST
            infill = fits and bool(rng.random() < rate)
            space = room - SENTINELS * infill
            size, last = min(left, space), left < space
            rows.append((sequence, document, offset, size, infill, last))
            offset, left = offset + size, left - size
            room = space - size - last
            if room == 0:
                sequence, room = sequence + 1, length
    columns = zip(*rows, strict=True) if rows else [()] * 6
    kinds = ("i8", "i8", "i8", "i8", "?", "?")
    return Pieces(*(np.array(c, k) for c, k in zip(columns, kinds, strict=True)))
