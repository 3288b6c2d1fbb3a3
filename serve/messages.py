"""Answers in the shape of chat: one prompt's completions as messages, or as their deltas.

Knows nothing of how the prompt came about.
"""

import time
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel

from pipeline.model.engine import Engine, Piece, Sampling
from serve import events, logprobs
from serve.calls import settled
from serve.generating import Generating, Usage, begin
from serve.state import State
from serve.writing import Tally, answered, chunks


class Message(BaseModel):
    """What the model says."""

    role: Literal["assistant"]
    content: str


class MessageChoice(BaseModel):
    """One answer; `logprobs` has a row a token."""

    index: int
    message: Message
    logprobs: dict[str, list[dict[str, Any]]] | None
    finish_reason: Literal["stop", "length"]


class MessageResponse(BaseModel):
    """The answer. In a stream each event is a `chat.completion.chunk` with a `delta` for a `message`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[MessageChoice]
    usage: Usage


async def reply(
    state: State,
    request: Request,
    response: Response,
    body: Generating,
    name: str,
    ids: list[int],
    how: Sampling,
) -> Response:
    """`n` completions of `ids`, whole or as a stream."""
    calls = begin(state, request, name, [ids], how, body.n, body.seed_scope)
    writer = _Writer(name, state.engines[name], ids, body, how.top_logprobs is not None)
    if body.stream:
        return events.stream(chunks(writer, calls, body.stream_options.include_usage), response)
    return events.answer(await answered(writer, calls), response)


class _Writer:
    """See `writing.Writer`."""

    def __init__(
        self, model: str, engine: Engine, ids: list[int], body: Generating, scored: bool
    ) -> None:
        self._tokenizer, self._scored = engine.tokenizer, scored
        self._key = "delta" if body.stream else "message"
        self._begun: set[int] = set()
        self.tally = Tally([ids], body.n)
        self.frame: Mapping[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk" if body.stream else "chat.completion",
            "created": int(time.time()),
            "model": model,
        }

    def choice(self, k: int, piece: Piece) -> dict[str, Any]:
        """Row `k`'s next piece; the first says who speaks."""
        said = {} if k in self._begun else {"role": "assistant"}
        self._begun.add(k)
        return {
            "index": k,
            self._key: {**said, "content": piece.text},
            "logprobs": self._rows(piece) if self._scored else None,
            "finish_reason": settled(piece),
        }

    def _rows(self, piece: Piece) -> dict[str, Any]:
        return logprobs.rows(self._tokenizer, logprobs.written(piece))
