"""Runs of encoded data in bytes: base64, hex and \\u escapes, as three regular expressions have them.

The forms and their use are StarCoder2's (2402.19173, app. A); the scanner is ours and equal to
Python's `re` on bytes. Knows nothing of texts and thresholds.
"""

import numpy as np

from pipeline.core.arrays import U8
from pipeline.kernels.compiled import compiled

BASE64, HEX, WORD, BLANK, SPELT = 1, 2, 4, 8, 16
"""Classes of bytes."""


def byte_classes() -> U8:
    """Of each byte: base64's, a hex digit, a word's, white space (ASCII regex), in \\x or \\u runs."""
    classes = np.zeros(256, np.uint8)
    letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    for bit, members in (
        (BASE64, letters + b"+/\n="),
        (HEX, b"0123456789abcdefABCDEF"),
        (WORD, letters + b"_"),
        (BLANK, b" \t\n\r\f\v"),
        (SPELT, b"0123456789abcdefABCDEFxu\\, \t\n\r\f\v"),
    ):
        classes[list(members)] |= bit
    return classes


@compiled
def encoded(data, lo, hi, classes):  # type: ignore[no-untyped-def]
    """(bytes in runs, bytes of the longest) of the matches of

    [A-Za-z0-9+/\\n=]{64,} | (?:\\b(?:0x|\\\\x)?[0-9a-fA-F]{2}(?:,|\\b\\s*)){8,} | (?:\\\\u[0-9a-fA-F]{4}){8,}

    read from the left over bytes (ASCII rules); a match of line ends only is none (ours). The first
    begins a window of 64 bytes of its class, the others one of 23 (`00 11 22 33 44 55 66 77`): both
    are looked for from their ends, as Boyer and Moore do, so that most bytes are never read.
    """
    total, longest, i, packed, spelt, spelt_end = 0, 0, lo, lo - 1, lo - 1, lo
    while i < hi:
        if packed < i:
            packed = _window(data, i, hi, classes, 64, BASE64)
        if spelt < i:
            spelt = i if i + 23 <= spelt_end else _window(data, i, hi, classes, 23, SPELT)
            if spelt + 23 > spelt_end:
                spelt_end = _class_end(data, spelt, hi, classes, SPELT)
        if packed == hi and spelt == hi:
            break
        i = min(packed, spelt)
        if i == packed:
            end = _class_end(data, i, hi, classes, BASE64)
        else:
            end = _spelt_match(data, lo, i, hi, classes)
        if end > i and not _only_ends(data, i, end):
            total += end - i
            longest = max(longest, end - i)
        i = max(end, i + 1)
    return total, longest


@compiled
def _window(data, i, hi, classes, size, wanted):  # type: ignore[no-untyped-def]
    """The first place from i on with `size` bytes of the wanted class, or hi."""
    while i + size <= hi:
        k = i + size - 1
        while k >= i and classes[data[k]] & wanted:
            k -= 1
        if k < i:
            return i
        i = k + 1
    return hi


@compiled
def _class_end(data, i, hi, classes, wanted):  # type: ignore[no-untyped-def]
    while i < hi and classes[data[i]] & wanted:
        i += 1
    return i


@compiled
def _spelt_match(data, lo, i, hi, classes):  # type: ignore[no-untyped-def]
    """Where a match of the hex or of the \\u form from i ends, or i."""
    c = data[i]
    if c == 92 and i + 1 < hi and data[i + 1] == 117:
        return _escapes_end(data, i, hi, classes)
    if c == 92 or classes[c] & HEX:
        return _hex_end(data, lo, i, hi, classes)
    return i


@compiled
def _hex_end(data, lo, i, hi, classes):  # type: ignore[no-untyped-def]
    """Where a run of 8 or more hex bytes from i ends, or i. Each step has one way to match."""
    start, count = i, 0
    while i < hi:
        word_before = i > lo and classes[data[i - 1]] & WORD != 0
        if word_before == (classes[data[i]] & WORD != 0):
            break
        k = i
        if k + 1 < hi and data[k + 1] == 120 and (data[k] == 48 or data[k] == 92):
            k += 2
        if k + 2 > hi or not (classes[data[k]] & HEX and classes[data[k + 1]] & HEX):
            break
        k += 2
        if k < hi and data[k] == 44:
            k += 1
        elif k < hi and classes[data[k]] & WORD:
            break
        else:
            while k < hi and classes[data[k]] & BLANK:
                k += 1
        i, count = k, count + 1
    return i if count >= 8 else start


@compiled
def _escapes_end(data, i, hi, classes):  # type: ignore[no-untyped-def]
    start, count = i, 0
    while i + 6 <= hi and data[i] == 92 and data[i + 1] == 117:
        digits = 0
        while digits < 4 and classes[data[i + 2 + digits]] & HEX:
            digits += 1
        if digits < 4:
            break
        i, count = i + 6, count + 1
    return i if count >= 8 else start


@compiled
def _only_ends(data, i, end):  # type: ignore[no-untyped-def]
    while i < end and data[i] == 10:
        i += 1
    return i == end
