"""Words, repeated n-grams and repeated lines of texts, counted in hash tables over an Arrow column.

A word is a run of [A-Za-z0-9_] or non-ASCII characters, ASCII lower-cased, as in near-copy search.
The measures are Gopher's and RedPajama's as OpenCoder uses them on code (2411.04905, app. A); words
there are what white space separates. Knows nothing of languages and thresholds.
"""

import numpy as np

from pipeline.core.arrays import I64, U8
from pipeline.kernels.compiled import compiled

TOP, DUPLICATE = (2, 3, 4), (5, 6, 7, 8, 9, 10)
NAMES = (
    "words",
    "word_characters",
    "unique_words",
    *(f"top_{n}_gram" for n in TOP),
    *(f"repeated_{n}_grams" for n in DUPLICATE),
    "filled_lines",
    "repeated_lines",
)
"""The columns of `measure`. words, unique_words: counts; word_characters: of all words. top_n_gram:
characters of all occurrences of the n-gram that occurs most (at least twice; the longest of such).
repeated_n_grams: characters of words in n-grams that stood before. filled_lines: lines with more
than white space; repeated_lines: those that occur twice or more, white space apart, not counting
lines of one character and `},`.
"""
_BASE, _START = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xCBF29CE484222325)
_PRIME, _MIX = np.uint64(0x100000001B3), np.uint64(0xBF58476D1CE4E5B9)


def measure(data: U8, offsets: I64) -> I64:
    """(texts, NAMES) counts of a flat column."""
    out = np.zeros((len(offsets) - 1, len(NAMES)), np.int64)
    longest = int(np.max(np.diff(offsets), initial=0))
    _measure(data, offsets, _word_bytes(), longest, out)
    return out


def _word_bytes() -> U8:
    """Each byte's lower-case form where it is a word's, else 0."""
    table = np.zeros(256, np.uint8)
    for byte in b"abcdefghijklmnopqrstuvwxyz0123456789_" + bytes(range(128, 256)):
        table[byte] = byte
    for byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        table[byte] = byte + 32
    return table


@compiled
def _measure(data, offsets, lower, longest, out):  # type: ignore[no-untyped-def]
    hashes, grams = np.empty(longest // 2 + 2, np.uint64), np.empty(longest // 2 + 2, np.uint64)
    ends = np.zeros(longest // 2 + 2, np.int64)
    keys, counts = np.empty(16, np.uint64), np.empty(16, np.int32)
    stamps, stamp = np.zeros(16, np.int32), 0
    for d in range(len(offsets) - 1):
        lo, hi, row = offsets[d], offsets[d + 1], out[d]
        words = _words(data, lo, hi, lower, hashes, ends)
        mask = _mask(words)
        if mask >= len(keys):
            keys, counts = np.empty(mask + 1, np.uint64), np.empty(mask + 1, np.int32)
            stamps, stamp = np.zeros(mask + 1, np.int32), 0
        row[0], row[1] = words, ends[words]
        grams[:words] = hashes[:words]
        for n in range(1, 11):
            stamp += 1
            if n > 1:
                for i in range(words - n + 1):
                    grams[i] = grams[i] * _BASE + hashes[i + n - 1]
            total = words - n + 1
            if n == 1:
                row[2] = _distinct(grams, total, keys, stamps, stamp, mask)
            elif n < 5:
                row[1 + n] = _top(grams, total, n, ends, keys, counts, stamps, stamp, mask)
            else:
                row[1 + n] = _again(grams, total, n, ends, keys, stamps, stamp, mask)
        row[12] = _lines(data, lo, hi, hashes)
        mask = _mask(row[12])
        if mask >= len(keys):
            keys, counts = np.empty(mask + 1, np.uint64), np.empty(mask + 1, np.int32)
            stamps, stamp = np.zeros(mask + 1, np.int32), 0
        stamp += 1
        row[13] = _twice(hashes, row[12], keys, counts, stamps, stamp, mask)


@compiled
def _mask(entries):  # type: ignore[no-untyped-def]
    """The last index of a table at most half full with so many entries."""
    mask = 15
    while mask < 2 * entries:
        mask = 2 * mask + 1
    return mask


@compiled
def _words(data, lo, hi, lower, hashes, ends):  # type: ignore[no-untyped-def]
    """Hashes of the words; ends[w] becomes the characters of the words before w."""
    count, size, hashed = 0, 0, _START
    ends[0] = 0
    for i in range(lo, hi):
        c = lower[data[i]]
        if c:
            hashed = (hashed ^ np.uint64(c)) * _PRIME
            size += c & 0xC0 != 0x80
        elif hashed != _START:
            hashes[count] = hashed ^ (hashed >> np.uint64(32))
            count += 1
            ends[count] = ends[count - 1] + size
            size, hashed = 0, _START
    if hashed != _START:
        hashes[count] = hashed ^ (hashed >> np.uint64(32))
        count += 1
        ends[count] = ends[count - 1] + size
    return count


@compiled
def _slot(key, keys, stamps, stamp, mask):  # type: ignore[no-untyped-def]
    """The key's place in the table, where it is or would go (then its stamp is another)."""
    at = np.int64(((key * _MIX) >> np.uint64(33)) & np.uint64(mask))
    while stamps[at] == stamp and keys[at] != key:
        at = (at + 1) & mask
    return at


@compiled
def _distinct(grams, total, keys, stamps, stamp, mask):  # type: ignore[no-untyped-def]
    count = 0
    for i in range(total):
        at = _slot(grams[i], keys, stamps, stamp, mask)
        count += stamps[at] != stamp
        keys[at], stamps[at] = grams[i], stamp
    return count


@compiled
def _top(grams, total, n, ends, keys, counts, stamps, stamp, mask):  # type: ignore[no-untyped-def]
    often, longest = 1, 0
    for i in range(total):
        at = _slot(grams[i], keys, stamps, stamp, mask)
        counts[at] = counts[at] + 1 if stamps[at] == stamp else 1
        keys[at], stamps[at] = grams[i], stamp
        size = ends[i + n] - ends[i]
        if counts[at] > often or (counts[at] == often and often > 1 and size > longest):
            often, longest = counts[at], size
    return often * longest


@compiled
def _again(grams, total, n, ends, keys, stamps, stamp, mask):  # type: ignore[no-untyped-def]
    covered, characters = 0, 0
    for i in range(total):
        at = _slot(grams[i], keys, stamps, stamp, mask)
        if stamps[at] == stamp:
            characters += ends[i + n] - ends[max(i, covered)]
            covered = i + n
        keys[at], stamps[at] = grams[i], stamp
    return characters


@compiled
def _lines(data, lo, hi, hashes):  # type: ignore[no-untyped-def]
    """Hashes of the lines without their white space; 0 for a line that may well occur twice."""
    count, size, hashed = 0, 0, _START
    for i in range(lo, hi + 1):
        c = np.int64(data[i]) if i < hi else 10
        if c == 10:
            if size:
                short = size == 1 or (size == 2 and hashed == _closing())
                hashes[count] = np.uint64(0) if short else hashed ^ (hashed >> np.uint64(32))
                count += 1
            size, hashed = 0, _START
        elif c != 32 and not 9 <= c <= 13:
            size += 1
            hashed = (hashed ^ np.uint64(c)) * _PRIME
    return count


@compiled
def _closing():  # type: ignore[no-untyped-def]
    return (((_START ^ np.uint64(125)) * _PRIME) ^ np.uint64(44)) * _PRIME


@compiled
def _twice(hashes, total, keys, counts, stamps, stamp, mask):  # type: ignore[no-untyped-def]
    repeated = 0
    for i in range(total):
        if hashes[i] == 0:
            continue
        at = _slot(hashes[i], keys, stamps, stamp, mask)
        counts[at] = counts[at] + 1 if stamps[at] == stamp else 1
        keys[at], stamps[at] = hashes[i], stamp
        repeated += 1 if counts[at] > 2 else counts[at] if counts[at] == 2 else 0
    return repeated
