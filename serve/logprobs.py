"""Tokens with their log-probabilities in OpenAI's two shapes: completions' columns and chat's rows.

A token that is no whole character is spelt by its bytes, as OpenAI does: "bytes:\\xf0\\x9f".
Knows nothing of requests.
"""

from codecs import getincrementaldecoder
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.pre_tokenizers import ByteLevel as Alphabet

from pipeline.model.engine import Piece

LOWEST = -9999.0
"""What stands for minus infinity, which JSON has no word for (OpenAI)."""


class Token(NamedTuple):
    """A token of a prompt or an answer; the first of a prompt has no log-probability."""

    id: int
    logprob: float | None
    top: Mapping[int, float] | None


class Spelt(NamedTuple):
    """How a token is shown, and its bytes."""

    text: str
    raw: bytes


def written(piece: Piece) -> list[Token]:
    """What was generated, the special token that ended it included, as OpenAI's is: lm_eval drops
    the last entry of every answer."""
    tokens = zip(piece.tokens, piece.logprobs, piece.top, strict=True)
    end = [] if piece.sentinel is None else [Token(*piece.sentinel)]
    return [*(Token(*t) for t in tokens), *end]


class Reader:
    """Where in a text its tokens begin, one after the other."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._at = 0

    def place(self, raw: bytes) -> int:
        """The character that the next token begins with, or within."""
        at = self._at
        self._at += len(self._decoder.decode(raw))
        return at


def columns(tokenizer: Tokenizer, tokens: Sequence[Token], reader: Reader) -> dict[str, Any]:
    """Completions' shape. Offsets are characters into the choice's text, as far as `reader` is."""
    spelt = [spell(tokenizer, t.id) for t in tokens]
    return {
        "tokens": [s.text for s in spelt],
        "token_logprobs": [_finite(t.logprob) for t in tokens],
        "top_logprobs": [_named(tokenizer, t) for t in tokens],
        "text_offset": [reader.place(s.raw) for s in spelt],
    }


def rows(tokenizer: Tokenizer, tokens: Sequence[Token]) -> dict[str, Any]:
    """Chat's shape."""
    return {
        "content": [
            _row(tokenizer, t.id, t.logprob)
            | {"top_logprobs": [_row(tokenizer, i, lp) for i, lp in (t.top or {}).items()]}
            for t in tokens
        ]
    }


@lru_cache(1 << 18)
def spell(tokenizer: Tokenizer, token: int) -> Spelt:
    """One token of a vocabulary."""
    raw = _raw(tokenizer, token)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "bytes:" + "".join(f"\\x{b:02x}" for b in raw)
    return Spelt(text, raw)


def _raw(tokenizer: Tokenizer, token: int) -> bytes:
    written = tokenizer.id_to_token(token)
    if isinstance(tokenizer.decoder, ByteLevel) and written is not None:
        found = [_BYTES.get(c) for c in written]
        if None not in found:
            return bytes(b for b in found if b is not None)
    return str(tokenizer.decode([token], skip_special_tokens=False)).encode()


def _byte_level() -> dict[str, int]:
    """The character that a byte-level tokenizer writes for each byte: itself where it can be seen,
    else the next of those from U+0100 on."""
    seen = [b for b in range(256) if chr(b) in Alphabet.alphabet()]
    rest = [b for b in range(256) if b not in seen]
    return {chr(b): b for b in seen} | {chr(256 + k): b for k, b in enumerate(rest)}


_BYTES = _byte_level()


def _named(tokenizer: Tokenizer, token: Token) -> dict[str, float] | None:
    """The likeliest tokens by their text, the token itself among them."""
    if token.top is None or token.logprob is None:
        return None
    found = {**token.top, token.id: token.logprob}
    return {spell(tokenizer, i).text: max(lp, LOWEST) for i, lp in found.items()}


def _row(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, Any]:
    spelt = spell(tokenizer, token)
    return {"token": spelt.text, "logprob": _finite(logprob), "bytes": list(spelt.raw)}


def _finite(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LOWEST)
