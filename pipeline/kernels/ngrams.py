"""N-gram language models over token ids: interpolated modified Kneser-Ney, as KenLM's lmplz makes it.

Chen & Goodman (TR-10-98) §3 with Heafield et al. (ACL 2013) for counts at `<s>`, pruning and
discounts that cannot be estimated. An n-gram is the pair (its last n-1 words, its first word), so a
number per suffix is all that is hashed and two n-grams never share an entry. Knows nothing of files
or languages.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import log

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels.compiled import compiled
from pipeline.kernels.hashing import mixed

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Bools = NDArray[np.bool_]

UNKNOWN, BEGIN, END, WORDS = range(4)
"""Words `<unk>`, `<s>`, `</s>` (KenLM's numbers); token t is the word WORDS + t."""
FALLBACK = (0.5, 1.0, 1.5)
"""Discounts of an order whose own cannot be estimated (lmplz --discount_fallback)."""
LOAD = 2 / 3
"""Share of a model's table that is full: 24 bytes an n-gram (KenLM's probing model: 1/1.5)."""
_LOG10 = log(10)
_HEAD, _PIECE = 4, 1 << 20
"""Numbers before the entries of a packed model; entries in a piece of it."""


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order n, in the order of their first occurrence; all arrays have one
    entry an n-gram. Of words (n = 1) there is one a word of the vocabulary, seen or not."""

    first: I32
    """Its first word."""
    suffix: I32
    """The number, among the grams of order n-1, of it without its first word."""
    prefix: I32
    """The same without its last word: its context."""
    count: I64
    """How often it occurs."""
    adjusted: I64
    """Different words before it; for the highest order, and after `<s>`, how often it occurs."""


@dataclass(frozen=True)
class Estimate:
    """What is known of the n-grams of one order."""

    grams: Grams
    kept: Bools
    """Whether it is in the model; False where it was pruned, or is no outcome."""
    p: F64
    """Probability of its last word in its context."""
    backoff: F64
    """Weight of the lower order in the context that it is; 1 where nothing follows it."""
    discounts: tuple[float, float, float]
    """Of adjusted counts 1, 2, and 3 or more."""


@dataclass(frozen=True)
class Model:
    """An n-gram model to score with. The log (natural) of p(word | context) is `gain` of the longest
    known n-gram that ends there plus `weight` of the longest known context, up to order - 1 words.

    entries: (words + slots, 2), 16 bytes each: 0 or 1 + suffix * words + first word, where suffix is
    an entry's number; then gain and weight as two float32. The first `words` entries are the words.
    """

    order: int
    words: int
    grams: int
    entries: U64

    @property
    def packed(self) -> Iterator[bytes]:
        """The model in pieces, to be written one after the other."""
        yield np.array([self.order, self.words, self.grams, 0], np.uint64).tobytes()
        for start in range(0, len(self.entries), _PIECE):
            yield self.entries[start : start + _PIECE].tobytes()


def unpacked(array: U64) -> Model:
    """The model of its pieces end to end, which may be mapped into memory; no copy."""
    order, words, grams, _ = array[:_HEAD].tolist()
    return Model(order, words, grams, array[_HEAD:].reshape(-1, 2))


def learn(
    ids: NDArray[np.unsignedinteger], bounds: I64, vocabulary: int, order: int, prune: int = 0
) -> Model:
    """A model of documents ids[bounds[i]:bounds[i + 1]] over token ids below `vocabulary`.

    prune: n-grams of 3 words and more that occur at most so often are left out.
    """
    return assemble(estimate(counted(stream(ids, bounds, vocabulary), vocabulary, order), prune))


def stream(ids: NDArray[np.unsignedinteger], bounds: I64, vocabulary: int) -> I32:
    """The documents one after the other as words: `<s>`, its tokens, `</s>`; ids from `vocabulary`
    on are `<unk>`."""
    out = np.empty(int(bounds[-1] - bounds[0]) + 2 * (len(bounds) - 1), np.int32)
    _streamed(ids, bounds, vocabulary, out)
    return out


def counted(words: I32, vocabulary: int, order: int) -> list[Grams]:
    """The n-grams of each order in a stream; contexts end at the beginning of a document."""
    size = vocabulary + WORDS
    depth = _depths(words, order)
    nodes, found = words.copy(), [_unigrams(words, size)]
    for n in range(2, order + 1):
        found.append(_next_order(words, depth, nodes, n, size))
    for n in range(order - 1):
        found[n] = _adjusted(found[n], found[n + 1], n + 1)
    return found


def _unigrams(words: I32, size: int) -> Grams:
    every = np.arange(size, dtype=np.int32)
    nothing = np.zeros(size, np.int32)
    count = np.bincount(words, minlength=size)
    count[BEGIN] = 0
    return Grams(every, nothing, nothing, count, count)


def _next_order(words: I32, depth: NDArray[np.uint8], nodes: I32, n: int, size: int) -> Grams:
    """The n-grams of order n; `nodes`, the number of the (n-1)-gram that ends at each word, becomes
    that of the n-gram."""
    most = int(np.count_nonzero(depth >= n))
    slots = 1 << max(4, (most * 3 // 2).bit_length())
    keys, numbers = np.zeros(slots, np.uint64), np.empty(slots, np.int32)
    out = np.empty((4, most), np.int32)
    unique = _numbered(words, depth, nodes, n, np.uint64(size), keys, numbers, out)
    first, suffix, prefix, count = (row[:unique].copy() for row in out)
    return Grams(first, suffix, prefix, count.astype(np.int64), count.astype(np.int64))


def _adjusted(grams: Grams, longer: Grams, n: int) -> Grams:
    """Grams with the number of different words before them for their counts."""
    continued = np.bincount(longer.suffix, minlength=len(grams.first))
    whole = (grams.first == BEGIN) & (n > 1)
    adjusted = np.where(whole, grams.count, continued)
    return replace(grams, adjusted=adjusted)


def estimate(orders: list[Grams], prune: int = 0) -> list[Estimate]:
    """Probabilities and backoffs of each order: discounted counts, interpolated with the order below
    (words: with 1 / outcomes, every word but `<s>` being one)."""
    whole = len(orders[0].first) - 1
    below, outer = np.full(1, 1 / whole), np.ones(1, bool)
    found: list[Estimate] = []
    for n, grams in enumerate(orders, 1):
        kept = (grams.count > (prune if n > 2 else 0)) & outer[grams.suffix]
        kept = kept | (np.arange(whole + 1) != BEGIN) if n == 1 else kept
        fit = discounts(grams.adjusted)
        p, weight = _interpolated(grams, kept, fit, below)
        if found:
            found[-1] = _with_backoff(found[-1], weight)
        found.append(Estimate(grams, kept, p, np.ones(len(p)), fit))
        below, outer = p, np.ones(len(p), bool) if n == 1 else kept
    return found


def discounts(counts: I64) -> tuple[float, float, float]:
    """Of adjusted counts 1, 2 and 3+ (Chen & Goodman, equation 26); FALLBACK where the counts of
    counts give none, or one outside (0, count]."""
    n = np.bincount(np.minimum(counts, 5), minlength=6)[:5].tolist()
    if not (n[1] and n[2] and n[3]):
        return FALLBACK
    y = n[1] / (n[1] + 2 * n[2])
    one, two, three = (k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
    return (
        (one, two, three)
        if all(0 < d <= k for k, d in enumerate((one, two, three), 1))
        else FALLBACK
    )


def _interpolated(
    grams: Grams, kept: Bools, fit: tuple[float, float, float], below: F64
) -> tuple[F64, F64]:
    """(probability of each gram, backoff of each context). What is pruned gives its mass to the
    backoff."""
    a = grams.adjusted.astype(np.float64)
    off = np.minimum(a, np.array([0.0, *fit])[np.minimum(grams.adjusted, 3)])
    sums = _summed(grams.prefix, a, len(below))
    freed = _summed(grams.prefix, np.where(kept, off, a), len(below))
    weight = np.divide(freed, sums, out=np.ones_like(sums), where=sums > 0)
    own = np.divide(a - off, sums[grams.prefix], out=np.zeros_like(a), where=a > 0)
    return own + weight[grams.prefix] * below[grams.suffix], weight


def _summed(groups: I32, values: F64, count: int) -> F64:
    """The sum of each of `count` groups (of no values too, where numpy would make integers)."""
    return np.bincount(groups, values, count).astype(np.float64, copy=False)


def _with_backoff(lower: Estimate, weight: F64) -> Estimate:
    return replace(lower, backoff=weight)


def assemble(orders: list[Estimate]) -> Model:
    """The model to score with."""
    size = len(orders[0].p)
    most = sum(int(np.count_nonzero(e.kept)) for e in orders[1:])
    entries = np.zeros((size + int(most / LOAD) + 1, 2), np.uint64)
    values = entries.view(np.float32)
    weight = np.log(orders[0].backoff)
    values[:size, 2], values[:size, 3] = np.log(orders[0].p), weight
    nodes = np.arange(size)
    for e in orders[1:]:
        gain = np.log(e.p, out=np.zeros(len(e.p)), where=e.kept) - weight[e.grams.prefix]
        weight = np.log(e.backoff) + weight[e.grams.suffix]
        below, nodes = nodes, np.empty(len(e.p), np.int64)
        _placed(
            entries, values, size, below, e.grams.first, e.grams.suffix, e.kept, gain, weight, nodes
        )
    return Model(len(orders), size, most, entries)


def log_probabilities(
    model: Model, ids: NDArray[np.unsignedinteger], starts: I64, stops: I64
) -> F64:
    """The natural log of the probability of each document ids[start:stop], `</s>` with it."""
    out = np.zeros(len(starts))
    room = int((stops - starts).max(initial=0)) + 2
    values = model.entries.view(np.float32)
    scratch = np.empty((4, room), np.int64)
    _scored(model.entries, values, model.words, model.order, ids, starts, stops, scratch, out)
    return out


def arpa(orders: list[Estimate], name: Callable[[int], str]) -> Iterator[str]:
    """The lines of an ARPA file, which KenLM, SRILM and others read. name: of a token id, without
    white space. Words that were never seen are `<unk>`."""
    numbers = [_told(e, n) for n, e in enumerate(orders, 1)]
    yield "\\data\\"
    yield from (f"ngram {n}={len(at)}" for n, at in enumerate(numbers, 1))
    for n, (e, at) in enumerate(zip(orders, numbers, strict=True), 1):
        yield f"\n\\{n}-grams:"
        p = np.log(e.p, out=np.zeros(len(e.p)), where=e.kept)
        for i in at.tolist():
            words = " ".join(_named(orders, n, i, name))
            weight = f"\t{np.log(e.backoff[i]) / _LOG10:.7f}" if n < len(orders) else ""
            yield f"{p[i] / _LOG10:.7f}\t{words}{weight}"
    yield "\n\\end\\"


def _told(e: Estimate, n: int) -> I64:
    """Which n-grams an ARPA file lists: those in the model, of words those that were seen."""
    if n > 1:
        return np.flatnonzero(e.kept)
    special = np.arange(len(e.p)) <= END
    return np.flatnonzero((e.grams.count > 0) | special)


def _named(
    orders: list[Estimate], n: int, number: int, name: Callable[[int], str]
) -> Iterator[str]:
    for e in reversed(orders[:n]):
        word = int(e.grams.first[number])
        yield ("<unk>", "<s>", "</s>")[word] if word < WORDS else name(word - WORDS)
        number = int(e.grams.suffix[number])


@compiled
def _streamed(ids, bounds, vocabulary, out):  # type: ignore[no-untyped-def]
    at = 0
    for document in range(len(bounds) - 1):
        out[at] = BEGIN
        at += 1
        for i in range(bounds[document], bounds[document + 1]):
            out[at] = ids[i] + WORDS if ids[i] < vocabulary else UNKNOWN
            at += 1
        out[at] = END
        at += 1


@compiled
def _depths(words, most):  # type: ignore[no-untyped-def]
    """Words from the beginning of the document to each word, it included, up to `most`."""
    out = np.empty(len(words), np.uint8)
    depth = 0
    for t in range(len(words)):
        depth = 1 if words[t] == BEGIN else min(depth + 1, most)
        out[t] = depth
    return out


@compiled
def _numbered(words, depth, nodes, n, size, keys, numbers, out):  # type: ignore[no-untyped-def]
    """Number the n-grams; returns how many there are. out: (first, suffix, prefix, count)."""
    unique, mask, before = 0, np.uint64(len(keys) - 1), np.int32(0)
    for t in range(len(words)):
        suffix = nodes[t]
        if depth[t] >= n:
            first = words[t - n + 1]
            key = np.uint64(suffix) * size + np.uint64(first) + np.uint64(1)
            slot = mixed(key) & mask
            while keys[slot] != 0 and keys[slot] != key:
                slot = (slot + np.uint64(1)) & mask
            if keys[slot] == 0:
                keys[slot], numbers[slot] = key, unique
                out[0, unique], out[1, unique] = first, suffix
                out[2, unique], out[3, unique] = before, 0
                unique += 1
            nodes[t] = numbers[slot]
            out[3, nodes[t]] += 1
        before = suffix
    return unique


@compiled
def _slot(key, slots):  # type: ignore[no-untyped-def]
    """Where to look for a key first: its hash scaled to the slots, fewer than 2**32."""
    return ((mixed(key) >> np.uint64(32)) * slots) >> np.uint64(32)


@compiled
def _placed(entries, values, size, below, first, suffix, kept, gain, weight, nodes):  # type: ignore[no-untyped-def]
    """Put the kept n-grams of one order into the table; `nodes` gets their entries' numbers."""
    slots = np.uint64(len(entries) - size)
    for i in range(len(first)):
        nodes[i] = -1
        if kept[i]:
            key = np.uint64(below[suffix[i]]) * np.uint64(size) + np.uint64(first[i]) + np.uint64(1)
            slot = _slot(key, slots)
            while entries[np.uint64(size) + slot, 0] != 0:
                slot = slot + np.uint64(1) if slot + np.uint64(1) < slots else np.uint64(0)
            nodes[i] = np.uint64(size) + slot
            entries[nodes[i], 0] = key
            values[nodes[i], 2], values[nodes[i], 3] = gain[i], weight[i]


@compiled
def _scored(entries, values, size, order, ids, starts, stops, scratch, out):  # type: ignore[no-untyped-def]
    """Order by order over a whole document, so that the reads of many words are under way at once."""
    word, node, context, active = scratch[0], scratch[1], scratch[2], scratch[3]
    slots, wide = np.uint64(len(entries) - size), np.uint64(size)
    for document in range(len(out)):
        start, stop = starts[document], stops[document]
        n = stop - start + 2
        word[0], word[n - 1] = BEGIN, END
        for i in range(start, stop):
            known = ids[i] < size - WORDS
            word[i - start + 1] = np.int64(ids[i]) + WORDS if known else UNKNOWN
        node[:n] = word[:n]
        context[:n] = word[:n]
        for t in range(n):
            active[t] = t
        left = n
        for k in range(2, order + 1):
            still = 0
            for i in range(left):
                t = active[i]
                if t < k - 1:
                    continue
                key = np.uint64(node[t]) * wide + np.uint64(word[t - k + 1]) + np.uint64(1)
                slot = _slot(key, slots)
                found = entries[wide + slot, 0]
                while found != 0 and found != key:
                    slot = slot + np.uint64(1) if slot + np.uint64(1) < slots else np.uint64(0)
                    found = entries[wide + slot, 0]
                if found == key:
                    node[t] = wide + slot
                    if k < order:
                        context[t] = node[t]
                    active[still] = t
                    still += 1
            left = still
        total = 0.0
        for t in range(1, n):
            total += np.float64(values[node[t], 2]) + np.float64(values[context[t - 1], 3])
        out[document] = total
