"""As much of an editor's text as a model's context holds: `fit` cuts where llama.cpp does.

The prefix loses its beginning, the suffix its end, in 3:1 where both are long; other files go first,
the earliest before the latest. Cuts fall between tokens. Knows nothing of HTTP.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from tokenizers import Encoding, Tokenizer

from pipeline.model.engine import Engine

SHARE = 4
"""One part of so many is the suffix's where both are too long (llama.cpp); the same part of the
context is the most that is kept free for the answer (ours)."""
SLACK = 8
"""Tokens kept free at least: a text that was cut may have a few more (ours)."""


class Fitted(NamedTuple):
    """Token ids with room for an answer, and whether anything was cut."""

    ids: list[int]
    truncated: bool


def fit(
    engine: Engine,
    prefix: str,
    suffix: str,
    extra: Sequence[tuple[str, str]],
    middle: str,
    answer: int,
) -> Fitted:
    """The infill prompt, `middle` after it. answer: tokens wanted, below 0 as many as there is room.

    ValueError as `Engine.prompt`.
    """
    literal = _literal(engine.tokenizer)
    before, after, begun = (
        literal.encode(t, add_special_tokens=False) for t in (prefix, suffix, middle)
    )
    most = engine.context // SHARE
    free = max(SLACK, min(answer, most) if answer >= 0 else most)
    room = engine.context - free - len(engine.prompt("", ""))
    typed = begun.ids[-max(room // 2, room - len(before) - len(after), 1) :]
    room -= len(typed)
    tail = min(len(after), max(room // SHARE, room - len(before)))
    head = min(len(before), room - tail)
    files = _latest(literal, extra, room - head - tail)
    ids = engine.prompt(_last(prefix, before, head), _first(suffix, after, tail), files)
    whole = (len(begun), len(after), len(before), len(extra))
    return Fitted([*ids, *typed], (len(typed), tail, head, len(files)) != whole)


@lru_cache(8)
def _literal(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer, to which special tokens are plain text."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = True
    return copy


def _latest(
    literal: Tokenizer, extra: Sequence[tuple[str, str]], room: int
) -> Sequence[tuple[str, str]]:
    """The last files that fit whole."""
    for k in range(len(extra), 0, -1):
        name, text = extra[k - 1]
        # A name, and up to three sentinels and line ends around the text.
        room -= len(literal.encode(name + text, add_special_tokens=False)) + 3
        if room < 0:
            return extra[k:]
    return extra


def _last(text: str, tokens: Encoding, count: int) -> str:
    if count == len(tokens):
        return text
    return text[tokens.offsets[-count][0] :] if count else ""


def _first(text: str, tokens: Encoding, count: int) -> str:
    if count == len(tokens):
        return text
    return text[: tokens.offsets[count - 1][1]] if count else ""
