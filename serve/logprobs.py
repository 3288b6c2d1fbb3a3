"""Tokens with their log-probabilities in OpenAI's two shapes: completions' columns and chat's rows.

A token that is no whole character is spelt by its bytes, as OpenAI does: "bytes:\\xf0\\x9f".
Knows nothing of requests.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.pre_tokenizers import ByteLevel as Alphabet

LOWEST = -9999.0
"""What stands for minus infinity, which JSON has no word for (OpenAI)."""


class Token(NamedTuple):
    """A token of a prompt or an answer; the first of a prompt has no log-probability."""

    id: int
    logprob: float | None
    top: Mapping[int, float] | None


class Spelt(NamedTuple):
    """How a token is shown, its bytes, and how many characters begin in it."""

    text: str
    raw: bytes
    begins: int


def columns(tokenizer: Tokenizer, tokens: Sequence[Token], start: int) -> dict[str, Any]:
    """Completions' shape. Offsets are characters into the choice's text, from `start` on."""
    spelt = [spell(tokenizer, t.id) for t in tokens]
    offsets = []
    for s in spelt:
        # A token that begins within a character stands where that character does.
        offsets.append(start if s.begins or not s.raw else max(start - 1, 0))
        start += s.begins
    return {
        "tokens": [s.text for s in spelt],
        "token_logprobs": [_finite(t.logprob) for t in tokens],
        "top_logprobs": [_named(tokenizer, t) for t in tokens],
        "text_offset": offsets,
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


def characters(tokenizer: Tokenizer, tokens: Sequence[Token]) -> int:
    """How many characters these tokens are."""
    return sum(spell(tokenizer, t.id).begins for t in tokens)


@lru_cache(1 << 18)
def spell(tokenizer: Tokenizer, token: int) -> Spelt:
    """One token of a vocabulary."""
    raw = _raw(tokenizer, token)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "bytes:" + "".join(f"\\x{b:02x}" for b in raw)
    return Spelt(text, raw, sum(b & 0xC0 != 0x80 for b in raw))


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
