"""Strings -> 64-bit places in a random order, which depends on the string and a salt alone.

FNV-1a over the UTF-8 bytes from a salted start, finished with SplitMix64's mixer. For orders and
draws, where a clash costs nothing; identities are `schema.digest`. Makes no Python string.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.arrays import flat
from pipeline.core.schema import digest
from pipeline.kernels.compiled import compiled

U64 = NDArray[np.uint64]

_PRIME = np.uint64(0x100000001B3)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def places(column: pa.ChunkedArray | pa.Array, salt: str) -> U64:
    """A place (n) for each string of a column; a null is the empty string. Other salt, other order."""
    out = np.empty(len(column), np.uint64)
    if len(column):
        data, bounds = flat(column)
        _places(data, bounds, np.uint64(int(digest(salt)[:16], 16)), out)
    return out


@compiled
def mixed(value):  # type: ignore[no-untyped-def]
    """SplitMix64's mixer: each of the 64 bits out depends on each one in. One-to-one."""
    value = (value ^ (value >> np.uint64(30))) * _FIRST
    value = (value ^ (value >> np.uint64(27))) * _SECOND
    return value ^ (value >> np.uint64(31))


@compiled
def _places(data, bounds, start, out):  # type: ignore[no-untyped-def]
    for row in range(len(out)):
        place = start
        for at in range(bounds[row], bounds[row + 1]):
            place = (place ^ np.uint64(data[at])) * _PRIME
        out[row] = mixed(place)
