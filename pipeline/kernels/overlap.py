"""Overlap of a document with evaluation tasks: shared word 10-grams, or a whole solution inside it.

DeepSeek-Coder drops on an identical 10-gram; BigCode and StarCoder2 on a substring with white space
removed. Both, over every suite given. numpy only.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.kernels.shingles import U64, ngrams, words

GRAM = 10
"""Words in a gram (DeepSeek-Coder, 2401.14196 §2.3)."""
SHORTEST = 40
"""Characters without white space below which a text is too common to be matched whole (ours)."""


@dataclass(frozen=True)
class Needles:
    """What to look for: sorted gram hashes with the task each came from, and whole texts."""

    grams: U64
    owners: tuple[int, ...]
    texts: tuple[tuple[str, int], ...]
    tasks: tuple[str, ...]


def needles(tasks: Iterable[tuple[str, list[str]]]) -> Needles:
    """The index of (task name, its texts: docstring, solution, tests)."""
    names, grams, owners, whole = [], [], [], []
    for number, (name, texts) in enumerate(tasks):
        names.append(name)
        for text in texts:
            hashes = words(text.encode())
            found = ngrams(hashes, GRAM) if len(hashes) >= GRAM else np.empty(0, np.uint64)
            grams.append(found)
            owners += [number] * len(found)
            if len(squeezed := squeeze(text)) >= SHORTEST:
                whole.append((squeezed, number))
    flat = np.concatenate([*grams, np.empty(0, np.uint64)])
    unique, first = np.unique(flat, return_index=True)
    return Needles(unique, tuple(owners[i] for i in first), tuple(whole), tuple(names))


def squeeze(text: str) -> str:
    """Lower case, without white space."""
    return re.sub(r"\s+", "", text).lower()


def overlap(text: str, index: Needles) -> tuple[str, str] | None:
    """(task, kind of hit) of the first overlap, or None."""
    found = ngrams(words(text.encode()), GRAM)
    if len(index.grams) and len(found):
        at = np.minimum(np.searchsorted(index.grams, found), len(index.grams) - 1)
        hits = at[index.grams[at] == found]
        if len(hits):
            return index.tasks[index.owners[int(hits[0])]], f"{GRAM}-gram"
    squeezed = squeeze(text)
    for needle, owner in index.texts:
        if needle in squeezed:
            return index.tasks[owner], "substring"
    return None
