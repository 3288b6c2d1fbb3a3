"""Answers in the shape of chat: one prompt's completions as messages, or as their deltas.

Knows nothing of how the prompt came about.
"""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import Request, Response
from pydantic import BaseModel

from pipeline.model.engine import Engine, Piece, Sampling
from serve import events, logprobs
from serve.calls import Calls, settled, wholes
from serve.generating import Generating, Usage, begin, usage
from serve.state import State


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
    writer = _Writer(name, state.engines[name], len(ids), how.top_logprobs is not None)
    if body.stream:
        chunks = _chunks(writer, calls, body.stream_options.include_usage)
        return events.stream(chunks, response)
    return events.answer(await _complete(writer, calls), response)


async def _complete(writer: "_Writer", calls: Calls) -> dict[str, Any]:
    pieces = enumerate(await wholes(calls))
    choices = [writer.choice(k, piece, "message") for k, piece in pieces]
    return writer.frame("chat.completion") | {"choices": choices, "usage": writer.usage}


async def _chunks(
    writer: "_Writer", calls: Calls, include_usage: bool
) -> AsyncIterator[dict[str, Any]]:
    frame = writer.frame("chat.completion.chunk")
    async for k, piece in calls:
        yield frame | {"choices": [writer.choice(k, piece, "delta")], "usage": None}
    if include_usage:
        yield frame | {"choices": [], "usage": writer.usage}


class _Writer:
    """Turns pieces into choices and counts them."""

    def __init__(self, model: str, engine: Engine, prompt_tokens: int, scored: bool) -> None:
        self._model, self._tokenizer, self._scored = model, engine.tokenizer, scored
        self._prompt, self._completion, self._cached = prompt_tokens, 0, 0
        self._begun: set[int] = set()

    def frame(self, kind: str) -> dict[str, Any]:
        """What every chunk says."""
        name, now = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        return {"id": name, "object": kind, "created": now, "model": self._model}

    def choice(self, k: int, piece: Piece, key: str) -> dict[str, Any]:
        """Row `k`'s next piece; the first says who speaks."""
        said = {} if k in self._begun else {"role": "assistant"}
        self._begun.add(k)
        self._completion += len(piece.tokens)
        self._cached += piece.cached_tokens if k == 0 else 0
        return {
            "index": k,
            key: {**said, "content": piece.text},
            "logprobs": self._rows(piece) if self._scored else None,
            "finish_reason": settled(piece),
        }

    def _rows(self, piece: Piece) -> dict[str, Any]:
        return logprobs.rows(self._tokenizer, logprobs.written(piece))

    @property
    def usage(self) -> dict[str, Any]:
        """What has been counted so far."""
        return usage(self._prompt, self._completion, self._cached)
