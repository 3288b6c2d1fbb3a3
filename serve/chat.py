"""`POST /v1/chat/completions`, for a model whose folder has a chat template.

Knows nothing of templates beyond `pipeline.model.chat`.
"""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from pipeline.model import chat
from pipeline.model.engine import Engine
from serve.generating import Generating, sampling, text_ids
from serve.guard import Refusal
from serve.messages import MessageResponse, reply
from serve.schemas import Part, Text, name_unknown
from serve.state import State


class Span(Part):
    """A part of a message's content."""

    type: Literal["text"] = "text"
    text: Text


class Said(Part):
    """One message."""

    role: Text
    content: Text | list[Span] = ""

    @property
    def words(self) -> str:
        """The content as one text."""
        return (
            self.content if isinstance(self.content, str) else "".join(s.text for s in self.content)
        )


class ChatRequest(Generating):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Said], Field(min_length=1, max_length=1000)]
    """The conversation so far."""
    max_completion_tokens: int | None = None
    """Most new tokens, as newer clients name it."""
    logprobs: bool = False
    """Send each token's log-probability."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    """And so many of the likeliest; only with `logprobs`."""


def routes(state: State) -> APIRouter:
    """The route of `/v1/chat/completions`."""
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=MessageResponse)
    async def completions(body: ChatRequest, request: Request, response: Response) -> Any:
        name, engine = state.engine(body.model)
        name_unknown(body, response)
        ids = await asyncio.to_thread(_ids, body, name, engine)
        asked = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
        how = sampling(
            body,
            engine,
            max_tokens=engine.context if asked is None else asked,
            top_logprobs=body.top_logprobs if body.logprobs else None,
        )
        return await reply(state, request, response, body, name, ids, how)

    return router


def _ids(body: ChatRequest, name: str, engine: Engine) -> list[int]:
    render = chat.template(engine.folder)
    if render is None:
        message = f"model {name!r} has no chat template: send its text to /v1/completions"
        raise Refusal(400, message, "model", "no_chat_template")
    try:
        text = render([{"role": said.role, "content": said.words} for said in body.messages])
    except ValueError as e:
        raise Refusal(400, str(e), "messages") from None
    return text_ids(engine, text, None, name)
