"""Which documents go, and to which twin: gathered on disk in order of place, read shard by shard.

A removal is a record: place, rank of the twin that stays, and what is told of it (the similarity's
bits as a 32-bit float, above two bits: 2 where it was measured, 1 where the contents are the same).
Knows nothing of how twins were found.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core import preference, spill
from pipeline.core.arrays import U64
from pipeline.core.files import verdicts
from pipeline.core.preference import Ranked

F32 = NDArray[np.float32]
Flags = NDArray[np.bool_]


class Kept(NamedTuple):
    """For each numbered document the kept one it is most like (itself where it stays), how alike they
    are (NaN for itself), and whether that was measured: 9 bytes a document."""

    keeper: NDArray[np.uint32]
    value: F32
    exact: Flags


def gathered(known: Ranked, found: Kept, home: Path) -> int:
    """Write all removals to `gone`, in order of place; how many different documents they are like."""
    runs = [spill.run(home / f"near-{n}", r) for n, r in enumerate(_near(found, home))]
    for n, path in enumerate(known.copies):
        runs.append(spill.run(home / f"copy-{n}", _copied(spill.records(path, 2), found, home)))
    kept = np.zeros(len(known.alive), bool)
    with open(home / "gone", "wb") as out:
        for part in spill.merged(runs, 3, 3):
            kept[part[:, 1].astype(np.int64)] = True
            spill.put(out, part)
    return int(kept.sum())


def _near(found: Kept, home: Path) -> Iterator[U64]:
    """The documents that a kept one is like."""
    place, rank = (spill.records(home / n, 1)[:, 0] for n in ("places", "ranks"))
    for at in range(0, len(found.keeper), spill.MOST):
        keeper = found.keeper[at : at + spill.MOST]
        gone = np.flatnonzero(keeper != np.arange(at, at + len(keeper))) + at
        told = _told(found.value[gone], found.exact[gone], np.zeros(len(gone), bool))
        yield np.column_stack([place[gone], rank[found.keeper[gone]], told])


def _copied(copies: U64, found: Kept, home: Path) -> U64:
    """A copy goes where its original goes."""
    place, original = copies.T
    number = spill.records(home / "numbers", 1, np.uint32)[original.astype(np.int64), 0]
    at = np.maximum(number, 1).astype(np.int64) - 1
    stays = number == 0
    twin, value, exact = original.copy(), np.ones(len(at), np.float32), np.ones(len(at), bool)
    if len(found.keeper):
        stays |= found.keeper[at] == at
        gone, rank = at[~stays], spill.records(home / "ranks", 1)[:, 0]
        twin[~stays] = rank[found.keeper[gone]]
        value[~stays], exact[~stays] = found.value[gone], found.exact[gone]
    return np.column_stack([place, twin, _told(value, exact, stays)])


def _told(value: NDArray[np.float32], exact: NDArray[np.bool_], same: NDArray[np.bool_]) -> U64:
    bits = value.view(np.uint32).astype(np.uint64)
    flags = (exact.astype(np.uint64) << np.uint64(1)) | same.astype(np.uint64)
    return (bits << np.uint64(2)) | flags


def of_shard(home: Path, number: int) -> U64:
    """The removals among a shard's documents."""
    low, high = preference.places(number, 1)[0], preference.places(number + 1, 1)[0]
    return spill.between(home / "gone", 3, low, high)


def decide(uid: pa.ChunkedArray, gone: U64, known: Ranked) -> pa.Table:
    """The verdicts of a shard's documents: `exact` where the kept twin has the same content, and the
    twin's uid as evidence."""
    rules, value, evidence = (list[Any]([None] * len(uid)) for _ in range(3))
    exact = np.zeros(len(uid), bool)
    at, told = preference.split(gone[:, 0])[1], gone[:, 2]
    twins = spill.records(known.uid, 2)[gone[:, 1].astype(np.int64)].tolist()
    values = (told >> np.uint64(2)).astype(np.uint32).view(np.float32).astype(float).tolist()
    for row, same, likeness, (high, low) in zip(
        at.tolist(), (told & np.uint64(1)).tolist(), values, twins, strict=True
    ):
        rules[row], value[row] = "exact" if same else "near", likeness
        evidence[row] = f"{high:016x}{low:016x}"
    exact[at] = (told & np.uint64(2)) > 0
    stays = np.array([rule is None for rule in rules], bool)
    return verdicts(uid, rules, value, evidence, measured=pa.array(exact, mask=stays))
