"""Answers in OpenAI's shape, whole or as chunks: pieces to choices, and the token counts.

What a choice looks like is the route's `Writer`. Knows nothing of requests.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from pipeline.model.engine import Piece
from serve.calls import Calls, wholes


class Tally:
    """Counts the tokens of a request's calls as their pieces come, `n` of each prompt."""

    def __init__(self, prompts: Sequence[Sequence[int]], n: int) -> None:
        self._prompt, self._n = sum(map(len, prompts)), n
        self._completion, self._cached = 0, 0

    def take(self, k: int, piece: Piece) -> None:
        """Row `k`'s next piece."""
        self._completion += len(piece.tokens)
        self._cached += piece.cached_tokens if k % self._n == 0 else 0

    @property
    def usage(self) -> dict[str, Any]:
        """`Usage` as it is sent, of what has been counted so far."""
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._completion,
            "total_tokens": self._prompt + self._completion,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }


class Writer(Protocol):
    """What every chunk says, the counts, and a row's next piece as a choice (its whole as one)."""

    frame: Mapping[str, Any]
    tally: Tally

    def choice(self, k: int, piece: Piece) -> dict[str, Any]: ...


async def answered(writer: Writer, calls: Calls) -> dict[str, Any]:
    """The whole answer."""
    choices = [_told(writer, k, piece) for k, piece in enumerate(await wholes(calls))]
    return {**writer.frame, "choices": choices, "usage": writer.tally.usage}


async def chunks(
    writer: Writer, calls: Calls, include_usage: bool
) -> AsyncIterator[dict[str, Any]]:
    """A chunk for each piece, then the counts where they are asked for."""
    async for k, piece in calls:
        yield {**writer.frame, "choices": [_told(writer, k, piece)], "usage": None}
    if include_usage:
        yield {**writer.frame, "choices": [], "usage": writer.tally.usage}


def _told(writer: Writer, k: int, piece: Piece) -> dict[str, Any]:
    writer.tally.take(k, piece)
    return writer.choice(k, piece)
