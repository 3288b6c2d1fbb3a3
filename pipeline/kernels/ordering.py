"""The order of documents in a pass, by hashes of their names, and of sequences: of rows it knows nothing.

So it does not matter in which shards, or in which order, documents come.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.kernels.hashing import places

I64 = NDArray[np.int64]


def order(table: pa.Table, group: Sequence[str], salt: str) -> I64:
    """Row numbers of documents in order: by the hashed group names (dictionary columns), then by the
    hash of `uid`, then (should two hashes clash) by uid."""
    keys = {name: _ranks(table[name], salt) for name in group}
    keyed = pa.table(keys | {"place": places(table["uid"], salt), "uid": table["uid"]})
    by = [(name, "ascending") for name in keyed.column_names]
    return np.asarray(pc.sort_indices(keyed, by), np.int64)


def chosen(column: pa.ChunkedArray, share: float, salt: str) -> NDArray[np.bool_]:
    """Whether each row's name (a dictionary column) is among a share of the names drawn by hash."""
    coded = column.combine_chunks()
    drawn = places(coded.dictionary, salt) / 2.0**64 < share
    return np.asarray(drawn[coded.indices.to_numpy()])


def shuffled(begins: I64, number: I64) -> tuple[I64, I64]:
    """(sequence, piece) of the pieces in training order, where sequence s becomes `number[s]`.

    begins: the first piece of each sequence, and the number of pieces.
    """
    old = np.empty_like(number)
    old[number] = np.arange(len(number))
    counts = np.diff(begins)[old]
    ahead = np.cumsum(counts) - counts
    sequence = np.repeat(np.arange(len(number)), counts)
    return sequence, np.arange(len(sequence)) + (begins[old] - ahead)[sequence]


def _ranks(column: pa.ChunkedArray, salt: str) -> I64:
    """The rank of each row's name, names in the order of their hashes (a clash: of the names)."""
    coded = column.combine_chunks()
    keyed = pa.table({"place": places(coded.dictionary, salt), "name": coded.dictionary})
    found = pc.sort_indices(keyed, [("place", "ascending"), ("name", "ascending")]).to_numpy()
    ranks = np.empty(len(found), np.int64)
    ranks[found] = np.arange(len(found))
    return np.asarray(ranks[coded.indices.to_numpy()])
