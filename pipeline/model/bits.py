"""Bits per byte: what is common to measuring it in the training loop and in an evaluation.

A text is cut into windows that fill the context, each led by the end token. Imports no torch.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.schema import END, FIM_PAD

if TYPE_CHECKING:
    from tokenizers import Tokenizer

IGNORED = -100
"""The label of a place without loss (PyTorch's)."""


class Slice(NamedTuple):
    """Windows of some texts, (N, T) padded, their labels, and the texts' UTF-8 bytes."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    size: int


def bits(nats: float, size: int) -> float:
    """Bits a byte of texts of `size` UTF-8 bytes, from their summed negative log-probability."""
    return nats / math.log(2) / size


def windows(documents: Iterable[Sequence[int]], context: int, end: int) -> list[list[int]]:
    """The tokens of documents in windows of at most `context`; the first token of each sees only
    `end`."""
    step = context - 1
    return [[end, *d[i : i + step]] for d in documents for i in range(0, len(d), step)]


def within(texts: Sequence[str], budget: int) -> list[str]:
    """The first texts that have together at most `budget` UTF-8 bytes; at least one."""
    sizes = np.cumsum([len(t.encode()) for t in texts])
    return list(texts[: max(1, int(np.searchsorted(sizes, budget, side="right")))])


def plain(tokenizer: "Tokenizer") -> "Tokenizer":
    """The tokenizer, reading special tokens in a text as ordinary characters."""
    copy = type(tokenizer).from_str(tokenizer.to_str())
    copy.encode_special_tokens = True
    return copy


def slices(
    texts: Mapping[str, Sequence[str]], tokenizer: "Tokenizer", context: int
) -> dict[str, Slice]:
    """The texts of each name (a language), ready to be measured; a name without text is left out."""
    reader = plain(tokenizer)
    out = {}
    for name, found in texts.items():
        size = sum(len(t.encode()) for t in found)
        encoded = reader.encode_batch(list(found), add_special_tokens=False)
        rows = windows([e.ids for e in encoded], context, END)
        if size and rows:
            out[name] = Slice(*_padded(rows, context), size)
    return out


def _padded(rows: list[list[int]], context: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    ids = np.full((len(rows), context), FIM_PAD, np.int32)
    labels = np.full_like(ids, IGNORED)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = labels[at, : len(row)] = row
    return ids, labels
