"""Where any of many words begins in an Arrow column's bytes, with a cheap look at what surrounds it.

One pass for all words: every three bytes, lower-cased and hashed, are looked up in a table of the
words' rarest three letters; what is found there is compared, then its surroundings are checked
(method ours). The same pass finds the shapes that have no word: addresses with an @, IPv4 and IPv6
addresses, three dotted groups of a bot token. Knows nothing of what the words mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.arrays import I64, U8
from pipeline.kernels.compiled import compiled

I32 = NDArray[np.int32]
Look = Literal["run", "assigned", "before", "any"]

_BITS = 14
_RUN, _BEFORE, _ASSIGNED, _ANY = 0, 1, 2, 3
_AT, _DOT, _COLON = 1, 2, 3
_WORD, _TOKEN, _LOCAL, _GLUE, _SIGN, _STOP, _HEX = 1, 2, 4, 8, 16, 32, 64
_MOST_BACK = 200
SHAPES = ("email", "url", "ipv4", "ipv6", "dotted")
"""What `hits` finds without a word; their codes follow those of the words, in this order."""


@dataclass(frozen=True)
class Word:
    """A word to find and what must surround it."""

    text: bytes
    """At least three bytes."""
    look: Look = "run"
    """run: at least `size` token bytes from the word's start on, exact case. before: the same, and
    the hit is where the token bytes around the word start. assigned: any case, followed by an
    assignment of eight characters or more that are not a plain word. any: any case, anywhere."""
    size: int = 20
    """Token bytes ([A-Za-z0-9] and -_.+/=~%$:) from the word's start on; 20 is ours."""


class Table(NamedTuple):
    """Words as the arrays that the kernel reads."""

    heads: NDArray[np.uint16]
    """(2**14) hash of three bytes -> bucket + 1, 0 for none."""
    bounds: I64
    """(buckets + 1) into `order`."""
    order: I64
    """Word numbers, bucket after bucket."""
    blob: U8
    starts: I64
    at: I64
    """Where in each word its three hashed bytes are."""
    look: I64
    size: I64


def table(words: Sequence[Word]) -> Table:
    """The words' lookup table."""
    texts = [w.text if w.look in ("run", "before") else w.text.lower() for w in words]
    at = [_rarest(t) for t in texts]
    hashes = np.array([_hash(t[i : i + 3].lower()) for t, i in zip(texts, at, strict=True)])
    order = np.argsort(hashes, kind="stable")
    distinct, first = np.unique(hashes[order], return_index=True)
    heads = np.zeros(1 << _BITS, np.uint16)
    heads[distinct] = np.arange(1, len(distinct) + 1)
    looks = {"run": _RUN, "before": _BEFORE, "assigned": _ASSIGNED, "any": _ANY}
    return Table(
        heads,
        np.append(first, len(words)).astype(np.int64),
        order.astype(np.int64),
        np.frombuffer(b"".join(texts), np.uint8),
        np.cumsum([0, *map(len, texts)]).astype(np.int64),
        np.array(at, np.int64),
        np.array([looks[w.look] for w in words], np.int64),
        np.array([w.size for w in words], np.int64),
    )


def hits(data: U8, offsets: I64, words: Table) -> tuple[I64, I32]:
    """(positions, codes), ascending positions in `data`; a code is a word's number, or the number of
    words plus that of a shape. A hit lies wholly in one text."""
    room = max(4096, len(data) >> 8)
    while True:
        where, codes = np.empty(room, np.int64), np.empty(room, np.int32)
        count = _hits(data, offsets, *words, where, codes)
        if count <= room:
            order = np.argsort(where[:count], kind="stable")
            return where[:count][order], codes[:count][order]
        room = count


def _hash(three: bytes) -> int:
    a, b, c = three
    return (((a << 16 | b << 8 | c) * 0x9E3779B1) & 0xFFFFFFFF) >> (32 - _BITS)


def _rarest(text: bytes) -> int:
    """Where the three bytes start whose letters are rarest in English."""
    common = b"zqxjkvbpygfwmucldrhsnioate"
    costs = [max(common.find(bytes([c]).lower()), 0) for c in text]
    return min(range(len(text) - 2), key=lambda i: sum(costs[i : i + 3]))


def _classes() -> U8:
    """What each byte may be part of, as bits."""
    kinds = np.zeros(256, np.uint8)
    letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    for flag, members in (
        (_WORD, letters + b"_"),
        (_TOKEN, letters + b"-_.+/=~%$:"),
        (_LOCAL, letters + b"._+%-"),
        (_GLUE, letters + b"_-. "),
        (_SIGN, b" \t\"'`\\])(=:,>!?|"),
        (_STOP, b" \t\r\n\"'`<>(),;"),
        (_HEX, b"0123456789abcdefABCDEF"),
    ):
        kinds[list(members)] |= np.uint8(flag)
    return kinds


_CLASS = _classes()
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[65:91] += 32
_SPECIAL = np.zeros(256, np.uint8)
_SPECIAL[[ord("@"), ord("."), ord(":")]] = _AT, _DOT, _COLON


@compiled
def _hits(data, offsets, heads, bounds, order, blob, starts, at, look, size, where, codes):  # type: ignore[no-untyped-def]
    count, room, words = 0, len(where), len(look)
    for d in range(len(offsets) - 1):
        low, high = offsets[d], offsets[d + 1]
        rolled = np.uint64(0)
        for i in range(low, high):
            c = data[i]
            rolled = ((rolled << np.uint64(8)) | np.uint64(_LOWER[c])) & np.uint64(0xFFFFFF)
            hashed = ((rolled * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)) >> np.uint64(
                32 - _BITS
            )
            bucket = heads[hashed]
            if bucket:
                for k in range(bounds[bucket - 1], bounds[bucket]):
                    w = order[k]
                    found = _word(data, low, high, i - 2 - at[w], blob, starts, look, size, w)
                    if found >= 0:
                        if count < room:
                            where[count], codes[count] = found, w
                        count += 1
            if _SPECIAL[c]:
                found, shape = _shape(data, low, high, i, _SPECIAL[c])
                if found >= 0:
                    if count < room:
                        where[count], codes[count] = found, words + shape
                    count += 1
    return count


@compiled
def _word(data, low, high, i, blob, starts, look, size, w):  # type: ignore[no-untyped-def]
    """Where the hit of word `w`, which would begin at i, starts; -1 if it is none."""
    length = starts[w + 1] - starts[w]
    if i < low or i + length > high:
        return -1
    for k in range(length):
        c = data[i + k]
        if (_LOWER[c] if look[w] >= _ASSIGNED else c) != blob[starts[w] + k]:
            return -1
    if look[w] == _ANY:
        return i
    if look[w] == _ASSIGNED:
        return i if _assigned(data, i + length, high) else -1
    end = i + length
    while end < high and end - i < size[w] and _CLASS[data[end]] & _TOKEN:
        end += 1
    if end - i < size[w]:
        return -1
    return i if look[w] == _RUN else _back(data, low, i)


@compiled
def _back(data, low, i):  # type: ignore[no-untyped-def]
    """Where the run of letters, digits, _ and - that ends at i starts."""
    stop = max(low, i - _MOST_BACK)
    while i > stop and (_CLASS[data[i - 1]] & _WORD or data[i - 1] == 45):
        i -= 1
    return i


@compiled
def _assigned(data, i, high):  # type: ignore[no-untyped-def]
    """Whether what follows is `... = value` with a value that could be a secret: eight characters
    with a digit, or sixteen of both cases. `name: type = value` has two signs, so two tries."""
    for _ in range(2):
        stop = min(high, i + 40)
        while i < stop and _CLASS[data[i]] & _GLUE:
            i += 1
        sign, stop = i > 0 and data[i - 1] == 32, min(high, i + 12)
        quoted = False
        while i < stop and _CLASS[data[i]] & _SIGN:
            quoted |= data[i] == 34 or data[i] == 39 or data[i] == 96
            sign |= data[i] == 61 or data[i] == 58 or data[i] == 44 or data[i] == 62
            sign |= data[i] == 40 or data[i] == 33
            i += 1
        if not sign:
            return False
        first, stop = i, min(high, i + 64)
        digit, upper, lower = False, False, False
        while i < stop and not _CLASS[data[i]] & _STOP:
            digit |= 48 <= data[i] <= 57
            upper |= 65 <= data[i] <= 90
            lower |= 97 <= data[i] <= 122
            i += 1
        if i - first >= 8 and (digit or (i - first >= 16 and upper and lower)):
            return True
        if quoted or i - first > 24:
            return False
    return False


@compiled
def _shape(data, low, high, i, kind):  # type: ignore[no-untyped-def]
    """(start, shape) of the address that the special byte at i is part of; (-1, 0) if of none."""
    if i == low or i + 2 >= high:
        return -1, 0
    if kind == _AT:
        return _address(data, low, high, i)
    if kind == _DOT:
        if 48 <= data[i - 1] <= 57 and 48 <= data[i + 1] <= 57:
            first = _ipv4(data, low, high, i)
            if first >= 0:
                return first, 2
        if i + 34 < high and data[i + 7] == 46:
            return _dotted(data, low, high, i), 4
    elif _CLASS[data[i - 1]] & _HEX and i - low >= 4 and (data[i - 4] == 50 or data[i - 4] == 51):
        return _ipv6(data, low, high, i), 3
    return -1, 0


@compiled
def _address(data, low, high, i):  # type: ignore[no-untyped-def]
    """An e-mail's local part, or what follows `://` of a URL with a colon before its @."""
    if not _CLASS[data[i + 1]] & _WORD and data[i + 1] != 91:
        return -1, 0
    first, colon, slashes = i, False, 0
    stop = max(low, i - _MOST_BACK)
    while first > stop and slashes < 3 and not _CLASS[data[first - 1]] & _STOP:
        first -= 1
        slashes += data[first] == 47
        if data[first] == 58:
            if colon and slashes == 2 and data[first + 1] == 47 and data[first + 2] == 47:
                return first + 3, 1
            colon = True
    first, stop = i, max(low, i - 65)
    while first > stop and _CLASS[data[first - 1]] & _LOCAL:
        first -= 1
    return (first, 0) if first < i else (-1, 0)


@compiled
def _ipv4(data, low, high, i):  # type: ignore[no-untyped-def]
    first = i
    while first > low and i - first <= 3 and 48 <= data[first - 1] <= 57:
        first -= 1
    if i - first > 3 or (
        first > low and (_CLASS[data[first - 1]] & _WORD or data[first - 1] == 46)
    ):
        return -1
    for part in range(3):
        start = i + 1
        i = start
        while i < high and i - start <= 3 and 48 <= data[i] <= 57:
            i += 1
        if i == start or i - start > 3 or (part < 2 and (i >= high or data[i] != 46)):
            return -1
    return first


@compiled
def _ipv6(data, low, high, i):  # type: ignore[no-untyped-def]
    """Global unicast addresses alone (RFC 4291): the first group is four digits, 2000 to 3fff."""
    first = i - 4
    for k in range(first, i):
        if not _CLASS[data[k]] & _HEX:
            return -1
    if first > low and (_CLASS[data[first - 1]] & _WORD or data[first - 1] == 58):
        return -1
    colons, double, stop = 0, False, min(high, i + 41)
    while i < stop and (_CLASS[data[i]] & _HEX or data[i] == 58):
        colons += data[i] == 58
        double |= data[i] == 58 and data[i - 1] == 58
        i += 1
    return first if colons == 7 or (double and 2 <= colons < 7) else -1


@compiled
def _dotted(data, low, high, i):  # type: ignore[no-untyped-def]
    """24 token bytes or more that start with M, N or O, a dot, six, a dot, 27 or more."""
    for k in range(i + 1, i + 35):
        if k != i + 7 and not _CLASS[data[k]] & _WORD and data[k] != 45:
            return -1
    first = _back(data, low, i)
    return first if 24 <= i - first <= 28 and 77 <= data[first] <= 79 else -1
