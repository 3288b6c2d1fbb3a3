"""Comments, strings and telling lines of source text, by a table of each language's signs.

One pass over an Arrow column's bytes with five states; no parser: a quote ends at its line's end
where the language has no longer strings, and regular expressions are not known. Counts only; the
measures are OpenCoder's (2411.04905, app. A), the lexer ours. Knows nothing of thresholds.
"""

from functools import cache

import numpy as np

from pipeline.core.arrays import I64, U8
from pipeline.kernels.compiled import compiled
from pipeline.kernels.styles import STYLE_OF, Style

NAMES = (
    "code_lines",
    "comments",
    "strings",
    "long_string_lines",
    "long_words",
    "hex_words",
    "todo_lines",
    "assert_lines",
    "print_lines",
    "directives",
    "mains",
)
"""The columns of `measure`, in characters or lines:

code_lines: with anything but white space and comments. comments: characters, markers included
(Python: also triple-quoted strings that begin a line). strings: characters between quotes.
long_string_lines: more than 20 words inside strings. long_words: characters in words of more than 20
inside strings, URLs apart. hex_words: characters of 0x... numbers outside comments. todo_lines: a
comment says todo, fixme or your code here. assert_lines, print_lines: code that says assert, print
or console.log. directives: code lines that begin with #, where # begins no comment. mains: `int
main(` or `void main(`. All but code_lines are 0 for languages without a style.
"""


_MARKERS, _WORDS = 6, (b"assert", b"print", b"console.log", b"todo", b"fixme", b"your code here")
_SPACE, _LINE, _SPECIAL, _NAME = 1, 2, 4, 8


def measure(data: U8, offsets: I64, languages: list[str]) -> I64:
    """(texts, NAMES) counts of a flat column, each text read in the style of its language."""
    styles, rows, acts = _tables()
    of = np.array([rows.get(name, 0) for name in languages], np.int64)
    out = np.zeros((len(of), len(NAMES)), np.int64)
    _measure(data, offsets, of, styles, acts, *_words(), out)
    return out


@cache
def _tables() -> tuple[U8, dict[str, int], U8]:
    """(styles, 6 fields, 8) bytes led by their number; language -> style; (styles, 256) byte acts."""
    listed = [Style(), *dict.fromkeys(STYLE_OF.values())]
    fields = np.zeros((len(listed), _MARKERS, 8), np.uint8)
    acts = np.zeros((len(listed), 256), np.uint8)
    for number, style in enumerate(listed):
        signs = [*(*style.line, b"", b"")[:2], *style.block, style.quotes, style.raw]
        for field, sign in enumerate(signs):
            fields[number, field, : len(sign) + 1] = [len(sign), *sign]
            acts[number, list(sign[:1] if field < 4 else sign)] |= _SPECIAL
        fields[number, 0, 6:] = [style.literal, style.triple]
        acts[number, list(b"aApPcCmM0#")] |= _SPECIAL
    acts[:, list(b" \t\f\v\r")] = _SPACE
    acts[:, 10] = _LINE
    names = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
    acts[:, list(names + bytes(range(128, 256)))] |= _NAME
    return fields, {name: listed.index(style) for name, style in STYLE_OF.items()}, acts


@cache
def _words() -> tuple[U8, I64]:
    ends = np.cumsum([0, *map(len, _WORDS)], dtype=np.int64)
    return np.frombuffer(b"".join(_WORDS), np.uint8), ends


@compiled
def _measure(data, offsets, of, styles, acts, words, ends, out):  # type: ignore[no-untyped-def]
    for d in range(len(of)):
        _lex(data, offsets[d], offsets[d + 1], styles[of[d]], acts[of[d]], words, ends, out[d])


@compiled
def _lex(data, lo, hi, style, acts, words, ends, row):  # type: ignore[no-untyped-def]
    """Code is read here byte by byte; comments and strings are handed on whole."""
    line = np.zeros(6, np.int64)  # code, todo, assert, print, directive, words in strings
    i = lo
    while i < hi:
        act = acts[data[i]]
        if act & _LINE:
            _line_end(line, row)
        elif not act & _SPACE:
            end = i
            if act & _SPECIAL:
                end = _comment(data, i, hi, style, words, ends, line, row)
                if end == i:
                    end = _string(data, i, hi, style, line, row)
                if end == i:
                    _telling(data, lo, i, hi, acts, words, ends, line, row)
            if end > i:
                i = end
                continue
            line[0] = 1
        i += 1
    _line_end(line, row)


@compiled
def _line_end(line, row):  # type: ignore[no-untyped-def]
    row[0] += line[0]
    row[3] += line[5] > 20
    row[6] += line[1]
    row[7] += line[2]
    row[8] += line[3]
    row[9] += line[4]
    line[:] = 0


@compiled
def _sign(data, i, hi, sign):  # type: ignore[no-untyped-def]
    """Whether the bytes from i on are the sign (length first); an empty sign is nowhere."""
    size = np.int64(sign[0])
    if size == 0 or i + size > hi:
        return False
    k = 0
    while k < size and data[i + k] == sign[k + 1]:
        k += 1
    return k == size


@compiled
def _triple(data, i, hi):  # type: ignore[no-untyped-def]
    c = data[i]
    return (c == 34 or c == 39) and i + 2 < hi and data[i + 1] == c and data[i + 2] == c


@compiled
def _comment(data, i, hi, style, words, ends, line, row):  # type: ignore[no-untyped-def]
    """Where the comment that begins at i ends, or i; its lines and marks are counted."""
    if _sign(data, i, hi, style[2]):
        end = _block_end(data, i + style[2][0], hi, style[3])
    elif style[0][7] and line[0] == 0 and _triple(data, i, hi):
        end = _triple_end(data, i, hi)
    elif _sign(data, i, hi, style[0]) or _sign(data, i, hi, style[1]):
        end = i
        while end < hi and data[end] != 10:
            end += 1
    else:
        return i
    for k in range(i, end):
        c = data[k]
        row[1] += c & 0xC0 != 0x80
        if c == 10:
            _line_end(line, row)
        elif c | 32 == 116:
            line[1] |= _says(data, k, hi, words, ends, 3)
        elif c | 32 == 102:
            line[1] |= _says(data, k, hi, words, ends, 4)
        elif c | 32 == 121:
            line[1] |= _says(data, k, hi, words, ends, 5)
    return end


@compiled
def _block_end(data, i, hi, sign):  # type: ignore[no-untyped-def]
    while i < hi and not _sign(data, i, hi, sign):
        i += 1
    return min(i + sign[0], hi)


@compiled
def _triple_end(data, i, hi):  # type: ignore[no-untyped-def]
    quote, i = data[i], i + 3
    while i < hi and not (data[i] == quote and _triple(data, i, hi)):
        i += 2 if data[i] == 92 else 1
    return min(i + 3, hi)


@compiled
def _says(data, i, hi, words, ends, which):  # type: ignore[no-untyped-def]
    """Whether the word of that number stands at i, in any case."""
    start, size = ends[which], ends[which + 1] - ends[which]
    if i + size > hi:
        return False
    k = 0
    while k < size and (data[i + k] | 32) == (words[start + k] | 32):
        k += 1
    return k == size


@compiled
def _string(data, i, hi, style, line, row):  # type: ignore[no-untyped-def]
    """Where the string that begins at i ends, or i; its characters, words and lines are counted."""
    quote, over = data[i], False
    if style[0][7] and _triple(data, i, hi):
        end = _triple_end(data, i, hi)
        first, last = i + 3, max(i + 3, end - 3)
    else:
        plain, over = _among(quote, style[4]), _among(quote, style[5])
        if not plain and not over:
            return i
        first = last = i + 1
        while last < hi and data[last] != quote and (over or data[last] != 10):
            last += 2 if data[last] == 92 and not (over and style[0][6]) else 1
        last = min(last, hi)
        end = min(last + 1, hi) if last < hi and data[last] == quote else last
    _inside(data, first, last, line, row)
    line[0] |= end > last
    return end


@compiled
def _among(c, sign):  # type: ignore[no-untyped-def]
    k = np.int64(sign[0])
    while k > 0 and sign[k] != c:
        k -= 1
    return k > 0


@compiled
def _inside(data, first, last, line, row):  # type: ignore[no-untyped-def]
    size, address = 0, False
    line[0] = 1
    for k in range(first, last + 1):
        c = data[k] if k < last else 32
        if k < last:
            row[2] += c & 0xC0 != 0x80
        if c == 32 or 9 <= c <= 13:
            line[5] += size > 0
            row[4] += size if size > 20 and not address else 0
            size, address = 0, False
            if c == 10:
                _line_end(line, row)
        else:
            line[0] = 1
            size += c & 0xC0 != 0x80
            address = address or (c == 58 and k + 2 < last and data[k + 1] == 47)


@compiled
def _telling(data, lo, i, hi, acts, words, ends, line, row):  # type: ignore[no-untyped-def]
    """What code says at i: assert, print, a hex number, a directive, the head of main."""
    c = data[i] | 32
    if c == 97:
        line[2] |= _says(data, i, hi, words, ends, 0)
    elif c == 112:
        line[3] |= _says(data, i, hi, words, ends, 1)
    elif c == 99:
        line[3] |= _says(data, i, hi, words, ends, 2)
    elif data[i] == 35:
        line[4] |= line[0] == 0
    elif i > lo and acts[data[i - 1]] & _NAME:
        return
    elif data[i] == 48:
        row[5] += _hex_number(data, i, hi, acts)
    elif data[i] == 109:
        row[10] += _main(data, lo, i, hi, acts)


@compiled
def _hex_number(data, i, hi, acts):  # type: ignore[no-untyped-def]
    """Length of the 0x... number that begins at i, or 0."""
    if i + 2 >= hi or data[i + 1] | 32 != 120:
        return 0
    k = i + 2
    while k < hi and (48 <= data[k] <= 57 or 97 <= data[k] | 32 <= 102):
        k += 1
    return k - i if k > i + 2 and (k == hi or not acts[data[k]] & _NAME) else 0


@compiled
def _main(data, lo, i, hi, acts):  # type: ignore[no-untyped-def]
    """1 where `main` and an opening bracket stand at i after `int` or `void`."""
    if i + 4 >= hi or data[i + 1] != 97 or data[i + 2] != 105 or data[i + 3] != 110:
        return 0
    k, before = i + 4, i - 1
    while k < hi and acts[data[k]] & _SPACE:
        k += 1
    while before >= lo and acts[data[before]] & (_SPACE | _LINE):
        before -= 1
    if k == hi or data[k] != 40 or before == i - 1 or before < lo + 2:
        return 0
    after_int = data[before] == 116 and data[before - 1] == 110 and data[before - 2] == 105
    after_void = data[before] == 100 and data[before - 1] == 105 and data[before - 2] == 111
    return 1 if after_int or after_void else 0
