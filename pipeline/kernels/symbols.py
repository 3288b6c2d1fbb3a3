"""A text as a stream of small integers, in three ways, and the pieces of such streams found in it.

`CHARS`: bytes without white space, lower-cased (StarCoder2). `WORDS`: numbers in a vocabulary, 0 for
a word that is not in it. `TOKENS`: code with every name, number and string alike, comments left
out (ours), for copies with other names. Each symbol comes with the byte that it starts at. A piece
is found by a hash of its first n symbols and then compared symbol by symbol: no hash decides
anything. All in one module, since numba's cache misses changes in callees of other modules.
"""

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.arrays import I64, U8
from pipeline.kernels.compiled import compiled
from pipeline.kernels.hashing import U64, mixed

I32 = NDArray[np.int32]
CHARS, WORDS, TOKENS = 0, 1, 2
"""The ways, as the kernels name them."""
NAME, NUMBER, STRING, KEPT_FROM = 1, 2, 3, 128
"""Symbols of TOKENS: an operator is its byte (33 to 126), kept word i is KEPT_FROM + i."""
_KEPT = (
    # reserved in Python
    "false none true and as assert async await break class continue def del elif else except "
    "finally for from global if import in is lambda nonlocal not or pass raise return try while "
    "with yield "
    # reserved elsewhere, and seldom a variable's name where they are not
    "catch const do enum extends extern foreach function goto implements interface namespace "
    "package private protected public sizeof static struct switch template throw throws typedef "
    "typename undefined unsigned virtual void "
    # built in, and seldom a variable's name (unlike sum, max, list or str)
    "abs all any bool chr enumerate float int isinstance len ord print range reversed round "
    "sorted tuple zip"
)
KEPT = tuple(_KEPT.split())
"""Words that renaming does not change, lower-cased: these keep a symbol of their own (ours)."""
_METHODS = (
    "append copy count endswith extend find format get group index insert isalpha isdigit islower "
    "isupper items join keys length lower map match pop push remove replace reverse slice sort "
    "split startswith strip sub update upper values"
)
METHODS = tuple(_METHODS.split())
"""Names of the standard libraries that keep a symbol of their own after a dot (ours)."""

_PRIME, _START = np.uint64(0x100000001B3), np.uint64(0xCBF29CE484222325)
_UPPER, _LOWER = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"abcdefghijklmnopqrstuvwxyz"
_DIGITS = b"0123456789"
_CHAR = np.arange(256, dtype=np.int32)
_CHAR[:33] = 0
_WORD = np.zeros(256, np.uint8)
for _byte in _LOWER + _DIGITS + b"_" + bytes(range(128, 256)):
    _WORD[_byte] = _byte
for _byte in _UPPER:
    _WORD[_byte] = _CHAR[_byte] = _byte + 32
_DIGIT = np.zeros(256, np.bool_)
_DIGIT[list(_DIGITS)] = True
_NEWLINE, _BACKSLASH, _QUOTE, _APOSTROPHE = 10, 92, 34, 39
_METHODS_FROM = len(KEPT)
_HASH, _SLASH, _STAR, _DOT = 35, 47, 42, 46

_BASE = np.uint64(0x9E3779B97F4A7C15)
_FEWEST_BITS, _BITS_EACH = 20, 16


class Vocabulary(NamedTuple):
    """Distinct words in a hash table; a word found is compared byte by byte."""

    places: I32
    """(a power of two) a word's number at its hash or the next free place after, -1 for none."""
    bounds: I64
    """(words + 1): word i is text[bounds[i]:bounds[i + 1]]."""
    text: U8


def vocabulary(words: Iterable[bytes]) -> Vocabulary:
    """The distinct words, numbered in their order. Already lower-cased (ASCII letters)."""
    listed = list(dict.fromkeys(words))
    bounds = np.cumsum([0, *map(len, listed)], dtype=np.int64)
    places = np.full(1 << (4 * len(listed) + 1).bit_length(), -1, np.int32)
    made = Vocabulary(places, bounds, np.frombuffer(b"".join(listed), np.uint8))
    _place(made)
    return made


@cache
def kept() -> Vocabulary:
    """The vocabulary of TOKENS: KEPT, then METHODS."""
    return vocabulary(word.encode() for word in KEPT + METHODS)


def stream(text: bytes, way: int, words: Vocabulary) -> tuple[I32, I64]:
    """(symbols, byte each starts at). words: the vocabulary of WORDS, `kept()` of TOKENS."""
    symbols, at = np.empty(len(text) + 1, np.int32), np.empty(len(text) + 1, np.int64)
    count: int = read(np.frombuffer(text, np.uint8), way, words, symbols, at)
    return symbols[:count], at[:count]


class Table(NamedTuple):
    """Distinct pieces of streams, ordered by hash; equal hashes stand side by side."""

    n: int
    """Symbols that are hashed; a piece has at least as many."""
    mask: np.uint64
    """Which bits of a hash are used: all, but in tests of what clashes do."""
    bits: U64
    """The filter: 16 bits and more a piece, so that 15 in 16 places are done with one load."""
    places: I32
    """(a power of two) the first piece of a hash, at the hash or the next free place; -1 for none."""
    hashes: U64
    starts: I64
    """Where piece i starts in `symbols`."""
    lengths: I64
    symbols: I32


def table(
    symbols: I32, starts: I64, lengths: I64, n: int, mask: int = 2**64 - 1
) -> tuple[Table, I64]:
    """The table of pieces symbols[starts[i]:starts[i] + lengths[i]], and each piece's number in it.

    lengths: n or more each. Equal pieces get one number.
    """
    used = np.uint64(mask)
    hashes = np.empty(len(starts), np.uint64)
    _hash_each(symbols, starts, n, used, hashes)
    order = np.lexsort((np.arange(len(starts)), lengths, hashes))
    number = np.empty(len(starts), np.int64)
    firsts = np.empty(len(starts), np.int64)
    count: int = _distinct(symbols, starts, lengths, hashes, order, number, firsts)
    first = firsts[:count]
    size = max(_FEWEST_BITS, (_BITS_EACH * count).bit_length())
    made = Table(
        n,
        used,
        np.zeros(1 << (size - 6), np.uint64),
        np.full(1 << (4 * count + 1).bit_length(), -1, np.int32),
        hashes[first],
        starts[first],
        lengths[first],
        symbols,
    )
    _fill(made)
    return made, number


def find(data: U8, offsets: I64, way: int, words: Vocabulary, *tables: Table) -> list[I64]:
    """For each table (two at most) its hits in the texts of a flat column, by text, then place.

    (hits, 4): text, piece, and the bytes in the text where the piece's first and last symbol start.
    way, words: as in `stream`; the texts are read once.
    """
    assert len(tables) <= 2, "two tables at most"
    nothing, _ = table(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int64), 1)
    first, second = (*tables, nothing, nothing)[:2]
    out, hits = _find(data, offsets, way, words, (first, second))
    found = out[:hits]
    return [found[found[:, 0] == i, 1:] for i in range(len(tables))]


@compiled
def read(text, way, words, symbols, at):  # type: ignore[no-untyped-def]
    """Fill `symbols` and `at` (both longer than the text); returns how many there are."""
    if way == CHARS:
        return _chars(text, symbols, at)
    if way == WORDS:
        return _words(text, words, symbols, at)
    return _tokens(text, words, symbols, at)


@compiled
def _place(words):  # type: ignore[no-untyped-def]
    last = len(words.places) - 1
    for i in range(len(words.bounds) - 1):
        hashed = _START
        for j in range(words.bounds[i], words.bounds[i + 1]):
            hashed = (hashed ^ np.uint64(words.text[j])) * _PRIME
        place = np.int64(mixed(hashed) >> np.uint64(32)) & last
        while words.places[place] >= 0:
            place = (place + 1) & last
        words.places[place] = i


@compiled
def _number(words, hashed, text, start, end):  # type: ignore[no-untyped-def]
    """The number of the word text[start:end], -1 if it is not in the vocabulary."""
    last = len(words.places) - 1
    place = np.int64(mixed(hashed) >> np.uint64(32)) & last
    while words.places[place] >= 0:
        word = words.places[place]
        first = words.bounds[word]
        if words.bounds[word + 1] - first == end - start:
            i = start
            while i < end and _WORD[text[i]] == words.text[first + i - start]:
                i += 1
            if i == end:
                return word
        place = (place + 1) & last
    return -1


@compiled
def _chars(text, symbols, at):  # type: ignore[no-untyped-def]
    count = 0
    for i in range(len(text)):
        symbols[count] = _CHAR[text[i]]
        at[count] = i
        count += symbols[count] != 0
    return count


@compiled
def _words(text, words, symbols, at):  # type: ignore[no-untyped-def]
    count, i = 0, 0
    while i < len(text):
        if not _WORD[text[i]]:
            i += 1
            continue
        start, hashed = i, _START
        while i < len(text) and _WORD[text[i]]:
            hashed = (hashed ^ np.uint64(_WORD[text[i]])) * _PRIME
            i += 1
        symbols[count] = _number(words, hashed, text, start, i) + 1
        at[count] = start
        count += 1
    return count


@compiled
def _tokens(text, kept, symbols, at):  # type: ignore[no-untyped-def]
    count, i = 0, 0
    while i < len(text):
        c = text[i]
        if _CHAR[c] == 0:
            i += 1
            continue
        end = _past_comment(text, i)
        if end > i:
            i = end
            continue
        at[count] = i
        if _DIGIT[c]:
            symbols[count], i = NUMBER, _past_number(text, i)
        elif _WORD[c]:
            start, hashed = i, _START
            while i < len(text) and _WORD[text[i]]:
                hashed = (hashed ^ np.uint64(_WORD[text[i]])) * _PRIME
                i += 1
            word = _number(kept, hashed, text, start, i)
            known = word >= 0 and (word < _METHODS_FROM or (count and symbols[count - 1] == _DOT))
            symbols[count] = KEPT_FROM + word if known else NAME
        elif c in (_QUOTE, _APOSTROPHE):
            symbols[count], i = STRING, _past_string(text, i)
        else:
            symbols[count], i = c, i + 1
        count += 1
    return count


@compiled
def _past_comment(text, i):  # type: ignore[no-untyped-def]
    """Where the comment that starts at i ends (the text's end if open), i itself if none starts.

    `//` to the line's end, also where it divides: the same rule on both sides of a comparison does
    no harm. `#` where a word could start, so preprocessor lines too; `/* */`; strings of three quotes,
    which are documentation.
    """
    c, size = text[i], len(text)
    after = text[i + 1] if i + 1 < size else np.uint8(0)
    if (c == _SLASH and after == _SLASH) or (c == _HASH and (i == 0 or _CHAR[text[i - 1]] == 0)):
        while i < size and text[i] != _NEWLINE:
            i += 1
    elif c == _SLASH and after == _STAR:
        i += 4
        while i <= size and not (text[i - 2] == _STAR and text[i - 1] == _SLASH):
            i += 1
    elif c in (_QUOTE, _APOSTROPHE) and after == c and i + 2 < size and text[i + 2] == c:
        i += 6
        while i <= size and not (text[i - 3] == c and text[i - 2] == c and text[i - 1] == c):
            i += 1
    return min(i, size)


@compiled
def _past_string(text, i):  # type: ignore[no-untyped-def]
    """After the same quote, or at the line's end: a stray apostrophe spoils one line at most."""
    quote, i = text[i], i + 1
    while i < len(text) and text[i] != quote and text[i] != _NEWLINE:
        i += 2 if text[i] == _BACKSLASH else 1
    return min(i + 1, len(text))


@compiled
def _past_number(text, i):  # type: ignore[no-untyped-def]
    while i < len(text) and (
        _WORD[text[i]] or (text[i] == _DOT and i + 1 < len(text) and _DIGIT[text[i + 1]])
    ):
        i += 1
    return i


@compiled
def _hash_each(symbols, starts, n, mask, out):  # type: ignore[no-untyped-def]
    for i in range(len(starts)):
        hashed = np.uint64(0)
        for j in range(starts[i], starts[i] + n):
            hashed = hashed * _BASE + np.uint64(symbols[j])
        out[i] = mixed(hashed) & mask


@compiled
def _same(left, i, right, j, length):  # type: ignore[no-untyped-def]
    k = 0
    while k < length and left[i + k] == right[j + k]:
        k += 1
    return k == length


@compiled
def _distinct(symbols, starts, lengths, hashes, order, number, firsts):  # type: ignore[no-untyped-def]
    """Number equal pieces alike. Pieces in `order` are compared with the others of their hash."""
    count, group = 0, 0
    for i in order:
        if count and hashes[firsts[count - 1]] != hashes[i]:
            group = count
        found = -1
        for k in range(group, count):
            j = firsts[k]
            if lengths[j] == lengths[i] and _same(
                symbols, starts[j], symbols, starts[i], lengths[i]
            ):
                found = k
                break
        if found < 0:
            found, firsts[count] = count, i
            count += 1
        number[i] = found
    return count


@compiled
def _fill(pieces):  # type: ignore[no-untyped-def]
    last, wide = len(pieces.places) - 1, np.uint64(64 * len(pieces.bits) - 1)
    for i in range(len(pieces.hashes)):
        hashed = pieces.hashes[i]
        if i and pieces.hashes[i - 1] == hashed:
            continue
        bit = hashed & wide
        pieces.bits[np.int64(bit >> np.uint64(6))] |= np.uint64(1) << (bit & np.uint64(63))
        place = np.int64(hashed >> np.uint64(32)) & last
        while pieces.places[place] >= 0:
            place = (place + 1) & last
        pieces.places[place] = i


@compiled
def _first(pieces, hashed):  # type: ignore[no-untyped-def]
    """The first piece of a hash, -1 for none."""
    last = len(pieces.places) - 1
    place = np.int64(hashed >> np.uint64(32)) & last
    while pieces.places[place] >= 0:
        if pieces.hashes[pieces.places[place]] == hashed:
            return pieces.places[place]
        place = (place + 1) & last
    return -1


@compiled
def _find(data, offsets, way, words, tables):  # type: ignore[no-untyped-def]
    room = 0
    for d in range(len(offsets) - 1):
        room = max(room, offsets[d + 1] - offsets[d])
    symbols, at = np.empty(room + 1, np.int32), np.empty(room + 1, np.int64)
    out, hits = np.empty((256, 5), np.int64), 0
    for d in range(len(offsets) - 1):
        count = read(data[offsets[d] : offsets[d + 1]], way, words, symbols, at)
        for i in range(len(tables)):
            if len(tables[i].hashes):
                before = hits
                out, hits = _find_one(symbols, count, at, tables[i], out, hits)
                for j in range(before, hits):
                    out[j, 0], out[j, 1] = i, d
    return out, hits


@compiled
def _larger(hits):  # type: ignore[no-untyped-def]
    """Twice the rows. By loops: slices take numba seconds to compile."""
    out = np.empty((2 * len(hits), 5), np.int64)
    for i in range(len(hits)):
        for j in range(5):
            out[i, j] = hits[i, j]
    return out


@compiled
def _find_one(symbols, count, at, pieces, out, hits):  # type: ignore[no-untyped-def]
    n, wide, six = pieces.n, np.uint64(64 * len(pieces.bits) - 1), np.uint64(6)
    top, hashed, known = np.uint64(1), np.uint64(0), 0
    for _ in range(n):
        top *= _BASE
    for i in range(count):
        gone = np.uint64(symbols[i - n]) * top if i >= n else np.uint64(0)
        hashed = hashed * _BASE + (np.uint64(symbols[i]) - gone)
        known = known + 1 if symbols[i] else 0
        if known < n:
            continue
        key = mixed(hashed) & pieces.mask
        bit = key & wide
        if not (pieces.bits[np.int64(bit >> six)] >> (bit & np.uint64(63))) & np.uint64(1):
            continue
        piece, start = _first(pieces, key), i - n + 1
        while 0 <= piece < len(pieces.hashes) and pieces.hashes[piece] == key:
            length = pieces.lengths[piece]
            if start + length <= count and _same(
                symbols, start, pieces.symbols, pieces.starts[piece], length
            ):
                if hits == len(out):
                    out = _larger(out)
                out[hits, 2] = piece
                out[hits, 3], out[hits, 4] = at[start], at[start + length - 1]
                hits += 1
            piece += 1
    return out, hits
