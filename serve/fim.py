"""`POST /v1/fim/completions`: infilling in Mistral's shape, a prompt and a suffix to a message.

Knows nothing of the model's infill layout.
"""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from serve.generating import Generating, sampling, text_ids
from serve.messages import MessageResponse, reply
from serve.schemas import Text, name_unknown
from serve.state import State


class FimRequest(Generating):
    """`POST /v1/fim/completions`; without `max_tokens` the answer may fill the context."""

    prompt: Text
    """The text before the gap."""
    suffix: Text | None = None
    """The text after it; without one the prompt is continued."""
    random_seed: int | None = None
    """`seed`, as Mistral names it."""


def routes(state: State) -> APIRouter:
    """The route of `/v1/fim/completions`."""
    router = APIRouter()

    @router.post("/v1/fim/completions", response_model=MessageResponse)
    async def fim(body: FimRequest, request: Request, response: Response) -> Any:
        name, engine = state.engine(body.model)
        name_unknown(body, response)
        if body.seed is None:
            body = body.model_copy(update={"seed": body.random_seed})
        ids = await asyncio.to_thread(text_ids, engine, body.prompt, body.suffix, name)
        most = engine.context if body.max_tokens is None else body.max_tokens
        how = sampling(body, engine, max_tokens=most)
        return await reply(state, request, response, body, name, ids, how)

    return router
