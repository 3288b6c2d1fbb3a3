"""Where documents overlap evaluation tasks: whole texts, runs of words, runs of code without names.

`substring`: a text of a task stands in the document, case and white space apart (StarCoder2,
2402.19173). `ngram`: they share a run of 10 words, or a text of fewer words stands there
(DeepSeek-Coder, 2401.14196 §2.3; Qwen2.5-Coder, 2409.12186). `renamed`: most runs of 20 code tokens
of a solution are there, names, numbers and strings apart (ours). Knows nothing of suites' files.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pipeline.core.arrays import I64, U8
from pipeline.kernels.symbols import (
    CHARS,
    I32,
    KEPT,
    TOKENS,
    WORDS,
    Table,
    Vocabulary,
    find,
    kept,
    stream,
    table,
    vocabulary,
)

Part = Literal["prompt", "docstring", "solution", "test"]
Kind = Literal["substring", "ngram", "renamed"]
TRIVIAL = frozenset({"returnx+y", "returnlen(string)", "returnn**2", "return''.join(strings)"})
"""Solutions that prove nothing, without white space (BigCode's decontamination exempts these four)."""
TELLING_WORDS = 2
"""Different telling words that a run of words needs to be looked for (ours, measured: without it one
file in 250 of installed packages goes, for its `0 1 2 3 4 5 6 7 8 9` or `for i in range(n)` twice)."""
TELLING_TOKENS = 6
"""Different symbols that a run of code tokens needs to be looked for, so that tables of numbers and
prose are no evidence (ours)."""
_SKELETON = "self cls main __main__ __name__ __init__ unittest testcase testcases setup teardown"
_UNTELLING = frozenset(word.encode() for word in (*KEPT, *_SKELETON.split()))
_WORD = re.compile(rb"[a-z0-9_\x80-\xff]+")
_IMPORTS = re.compile(
    rb"^[ \t]*(?:import\s|from\s+\S+\s+import\s|#\s*include\b|using\s+[\w.:]+|package\s+[\w.]+).*$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Text:
    """One text of a task, and whose it is."""

    suite: str
    task: str
    problem: str
    """What variants of one problem have in common, for counting problems."""
    part: Part
    text: str


Places = Callable[[Text, I32, I64], I64]
"""Where in a text's (symbols, byte each starts at) the pieces to look for start."""


@dataclass(frozen=True)
class Layer:
    """One way to look, over all texts."""

    kind: Kind
    how: str
    """What a hit is called; `{}` is the number of symbols that were hit."""
    way: int
    words: Vocabulary
    pieces: Table
    bounds: I64
    """(pieces + 1): piece i is in the texts owners[bounds[i]:bounds[i + 1]]."""
    owners: I64
    sizes: I64
    """(texts): how many different pieces a text has."""
    least: float
    """The share of a text's pieces that makes a hit."""


@dataclass(frozen=True)
class Needles:
    """What to look for: the texts, and the layers in the order in which they name a hit."""

    texts: tuple[Text, ...]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Overlap:
    """What one document has of one text."""

    kind: Kind
    how: str
    text: Text
    share: float
    """Of the text's different pieces, those in the document: 1 for a whole text."""
    first: int
    """Byte in the document where the longest stretch of hits starts."""
    last: int
    """Byte where the last symbol of that stretch starts."""


def needles(
    texts: Sequence[Text],
    *,
    shortest: int | None = 30,
    words: int | None = 10,
    fewest_words: int = 3,
    tokens: int | None = 20,
    share: float = 0.6,
    common: int = 10,
) -> Needles:
    """The layers over these texts; see decontaminate.Config for the numbers, None leaves one out."""
    listed = tuple(texts)
    layers: list[Layer | None] = []
    if shortest is not None:
        layers.append(_whole(listed, shortest))
    if words is not None:
        vocab = vocabulary(w for t in listed for w in _WORD.findall(_raw(t).lower()))
        layers.append(_ngrams(listed, vocab, words, common))
        layers.append(_short(listed, vocab, range(fewest_words, words)))
    if tokens is not None:
        layers.append(_renamed(listed, tokens, share, common))
    return Needles(listed, tuple(layer for layer in layers if layer))


def overlaps(data: U8, offsets: I64, what: Needles) -> list[Overlap | None]:
    """For each text of a flat column the overlap to name, if any: the first layer's that has one."""
    out: list[Overlap | None] = [None] * (len(offsets) - 1)
    for way, group in groupby(what.layers, lambda layer: layer.way):
        layers = list(group)
        found = find(data, offsets, way, layers[0].words, *(layer.pieces for layer in layers))
        for layer, hits in zip(layers, found, strict=True):
            for document, own in _by_document(hits):
                out[document] = out[document] or _best(what, layer, own)
    return out


def _raw(text: Text) -> bytes:
    """Its UTF-8; lone surrogates, which no document has, become question marks."""
    return text.text.encode(errors="replace")


def _whole(texts: Sequence[Text], shortest: int) -> Layer | None:
    def places(text: Text, symbols: I32, at: I64) -> I64:
        return _start_if(len(symbols) >= shortest and not _trivial(text))

    none = vocabulary([])
    return _layer("substring", "substring", CHARS, none, texts, places, shortest, whole=True)


def _ngrams(texts: Sequence[Text], words: Vocabulary, n: int, common: int) -> Layer | None:
    def places(text: Text, symbols: I32, at: I64) -> I64:
        telling = _windows(_telling(text, symbols, at), n)
        return np.flatnonzero(_different(telling) - (telling == 0).any(1) >= TELLING_WORDS)

    return _layer("ngram", "{}-gram", WORDS, words, texts, places, n, common=common)


def _short(texts: Sequence[Text], words: Vocabulary, lengths: range) -> Layer | None:
    def places(text: Text, symbols: I32, at: I64) -> I64:
        fits = len(symbols) in lengths and not _trivial(text)
        return _start_if(fits and bool(_telling(text, symbols, at).any()))

    return _layer("ngram", "{} words", WORDS, words, texts, places, lengths.start, whole=True)


def _renamed(texts: Sequence[Text], n: int, share: float, common: int) -> Layer | None:
    def places(text: Text, symbols: I32, at: I64) -> I64:
        windows = _windows(symbols if text.part == "solution" else symbols[:0], n)
        return np.flatnonzero(_different(windows) >= TELLING_TOKENS)

    how = "{}-gram without names"
    return _layer("renamed", how, TOKENS, kept(), texts, places, n, common=common, least=share)


def _start_if(wanted: bool) -> I64:
    return np.zeros(int(wanted), np.int64)


def _trivial(text: Text) -> bool:
    return "".join(text.text.lower().split()) in TRIVIAL


def _telling(text: Text, symbols: I32, at: I64) -> I32:
    """The words' numbers, 0 for those that say nothing: short ones, keywords, lines of imports."""
    raw = _raw(text)
    listed = _WORD.findall(raw.lower())
    telling = [len(w) > 1 and not w[:1].isdigit() and w not in _UNTELLING for w in listed]
    for line in _IMPORTS.finditer(raw):
        first, end = np.searchsorted(at, line.span())
        telling[first:end] = [False] * (end - first)
    return np.where(telling, symbols, np.int32(0))


def _windows(symbols: I32, n: int) -> NDArray[np.int32]:
    """(runs, n): every run of n symbols."""
    return sliding_window_view(symbols, n) if len(symbols) >= n else np.empty((0, n), np.int32)


def _different(windows: NDArray[np.int32]) -> I64:
    """(rows): how many different numbers each row has."""
    ordered = np.sort(windows, axis=1)
    changes: I64 = (ordered[:, 1:] != ordered[:, :-1]).sum(1)
    return changes + 1


def _layer(
    kind: Kind,
    how: str,
    way: int,
    words: Vocabulary,
    texts: Sequence[Text],
    places: Places,
    n: int,
    *,
    whole: bool = False,
    common: int | None = None,
    least: float = 0.0,
) -> Layer | None:
    """The layer of the pieces of n symbols (or the `whole` texts) at `places`; None for no piece."""
    symbols = [stream(_raw(text), way, words) for text in texts]
    starts = [places(text, *own) for text, own in zip(texts, symbols, strict=True)]
    counts = np.array([len(found) for found in starts])
    if not counts.sum():
        return None
    sizes = np.array([len(own) for own, _ in symbols])
    owner = np.repeat(np.arange(len(texts)), counts)
    first = np.concatenate(starts) + np.repeat(np.cumsum(sizes) - sizes, counts)
    lengths = sizes[owner] if whole else np.full(len(owner), n)
    pieces, number = table(np.concatenate([own for own, _ in symbols]), first, lengths, n)
    pairs = np.unique(np.stack([number, owner], 1), axis=0)
    if common is not None:
        pairs = pairs[~_templates(pairs, texts, common)]
    bounds = np.searchsorted(pairs[:, 0], np.arange(len(pieces.hashes) + 1))
    own_sizes = np.bincount(pairs[:, 1], minlength=len(texts))
    return Layer(kind, how, way, words, pieces, bounds, pairs[:, 1], own_sizes, least)


def _templates(pairs: I64, texts: Sequence[Text], common: int) -> NDArray[np.bool_]:
    """(pairs): whether the piece is in more than `common` problems of one suite."""
    problems = {key: i for i, key in enumerate(dict.fromkeys((t.suite, t.problem) for t in texts))}
    suites = {suite: i for i, suite in enumerate(dict.fromkeys(t.suite for t in texts))}
    of_text = np.array([[suites[t.suite], problems[t.suite, t.problem]] for t in texts])
    held = np.unique(np.column_stack([pairs[:, 0], of_text[pairs[:, 1]]]), axis=0)
    per_suite, counts = np.unique(held[:, :2], axis=0, return_counts=True)
    return np.isin(pairs[:, 0], per_suite[counts > common, 0])


def _by_document(hits: I64) -> Iterator[tuple[int, I64]]:
    documents, starts = np.unique(hits[:, 0], return_index=True)
    for i, document in enumerate(documents.tolist()):
        yield document, hits[starts[i] : starts[i + 1] if i + 1 < len(starts) else None]


def _best(what: Needles, layer: Layer, hits: I64) -> Overlap | None:
    """The text of which most symbols were hit (then the largest share, then the first), if enough."""
    pieces = np.unique(hits[:, 1])
    counts = layer.bounds[pieces + 1] - layer.bounds[pieces]
    owned = np.repeat(pieces, counts)
    starts = np.repeat(layer.bounds[pieces] - (np.cumsum(counts) - counts), counts)
    owners = layer.owners[starts + np.arange(len(owned))]
    texts, which, found = np.unique(owners, return_inverse=True, return_counts=True)
    weights = np.bincount(which, layer.pieces.lengths[owned], minlength=len(texts))
    shares = found / layer.sizes[texts]
    order = np.lexsort((texts, -shares, -weights))
    enough = order[shares[order] >= layer.least]
    if not len(enough):
        return None
    best = enough[0]
    own = owned[which == best]
    first, last = _stretch(hits[np.isin(hits[:, 1], own)])
    how = layer.how.format(layer.pieces.lengths[own[0]])
    return Overlap(layer.kind, how, what.texts[texts[best]], float(shares[best]), first, last)


def _stretch(hits: I64) -> tuple[int, int]:
    """First and last byte of the run of overlapping hits with the most of them, the first of equals."""
    reach = np.maximum.accumulate(hits[:, 3])
    run = np.cumsum(np.concatenate([[False], hits[1:, 2] > reach[:-1]]))
    longest = int(np.argmax(np.bincount(run)))
    mine = hits[run == longest]
    return int(mine[0, 2]), int(mine[:, 3].max())
