"""Masks spans of a document's piece and asks for them at its end (CodeGen2, 2305.02309 §3).

`text <mask_1> text <mask_2> text [end] <sep> <mask_1> span <eom> <mask_2> span <eom>`: spans lie at
places drawn evenly, their lengths are drawn evenly and brought to the share that is to be masked.
Every place carries loss, sentinels too: the model is a causal decoder, and the paper's first lesson
is to keep as many tokens as possible under it. numpy only; knows nothing of sequences.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.schema import EOM, MASK, SEP

Ids = NDArray[np.integer[Any]]


def corrupt(ids: Ids, masked: int, spans: int, end: int, rng: np.random.Generator) -> Ids:
    """`ids` (n) with `masked` of them in `spans` spans behind <sep>: n + 3 * spans + 1 ids, same
    dtype, and one more for `end` (-1: none), which ends the text before <sep>.

    1 <= spans <= masked <= n. Spans may touch.
    """
    sizes = _sizes(masked, spans, rng)
    before = np.cumsum(sizes) - sizes
    starts = before + np.sort(rng.integers(0, len(ids) - masked + 1, spans))
    bounds = list(zip(starts.tolist(), (starts + sizes).tolist(), strict=True))
    at, kept, moved = 0, list[Ids](), list[Ids]()
    for number, (start, stop) in enumerate(bounds):
        sentinel = np.array([MASK + number], ids.dtype)
        kept += [ids[at:start], sentinel]
        moved += [sentinel, ids[start:stop], np.array([EOM], ids.dtype)]
        at = stop
    close = [SEP] if end < 0 else [end, SEP]
    return np.concatenate([*kept, ids[at:], np.array(close, ids.dtype), *moved])


def mend(ids: Ids) -> Ids:
    """What `corrupt` was given, with its end token; ValueError if `ids` is not one of its results."""
    at = np.flatnonzero(ids == SEP)
    stops = np.flatnonzero(ids == EOM).tolist()
    if len(at) != 1 or not stops or stops[-1] != len(ids) - 1 or stops[0] < at[0]:
        raise ValueError("no corrupted piece: it needs one <sep>, then spans that end in <eom>")
    first = int(at[0]) + 1
    begins = [first, *(stop + 1 for stop in stops[:-1])]
    out, done = list[Ids](), 0
    for number, (begin, stop) in enumerate(zip(begins, stops, strict=True)):
        holes = np.flatnonzero(ids[: first - 1] == MASK + number)
        if len(holes) != 1 or ids[begin] != MASK + number or holes[0] < done:
            raise ValueError(f"no corrupted piece: <mask_{number + 1}> is not where it belongs")
        out += [ids[done : holes[0]], ids[begin + 1 : stop]]
        done = int(holes[0]) + 1
    return np.concatenate([*out, ids[done : first - 1]])


def _sizes(masked: int, spans: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`spans` lengths of 1 or more, `masked` in all, in proportion to even draws."""
    drawn = np.cumsum(rng.random(spans) + 1e-9)
    bounds = np.rint(drawn / drawn[-1] * (masked - spans)).astype(np.int64)
    return np.asarray(np.diff(bounds, prepend=0) + 1)
