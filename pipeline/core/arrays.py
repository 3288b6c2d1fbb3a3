"""Arrow string columns as the flat arrays that kernels work on: no Python string is made.

Knows nothing of what the bytes mean.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


def flat(column: pa.ChunkedArray | pa.Array) -> tuple[U8, I64]:
    """(bytes, offsets) of a string column: text i is bytes[offsets[i]:offsets[i + 1]]; null is empty.

    The bytes are the column's own memory where it is one chunk.
    """
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    whole = whole.cast(pa.large_string()) if not pa.types.is_large_string(whole.type) else whole
    if whole.null_count:
        whole = whole.fill_null("")
    _, offsets, data = whole.buffers()
    if len(whole) == 0:
        return np.frombuffer(b"", np.uint8), np.frombuffer(bytes(8), np.int64)
    bounds = np.frombuffer(offsets, np.int64)[whole.offset : whole.offset + len(whole) + 1]
    return np.frombuffer(data if data is not None else b"", np.uint8), bounds


def halves(column: pa.ChunkedArray | pa.Array) -> U64:
    """(n, 2) texts of 32 hex digits as two numbers of 64 bits each, high and low, in the same order."""
    data, bounds = flat(column)
    digits = data[bounds[0] : bounds[-1]].tobytes().decode()
    return np.frombuffer(bytes.fromhex(digits), ">u8").reshape(-1, 2).astype(np.uint64)
