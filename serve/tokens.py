"""`POST /tokenize` and `/detokenize`, by vLLM's and by llama.cpp's field names.

Knows nothing of models beyond their tokenizer.
"""

import asyncio
from typing import Any

from fastapi import APIRouter, Response
from pydantic import AliasChoices, Field
from tokenizers import Tokenizer

from pipeline.model.engine import Engine
from serve.generating import no_token
from serve.guard import Refusal
from serve.logprobs import spell
from serve.schemas import Body, Text, name_unknown
from serve.state import State


class TokenizeRequest(Body):
    """`POST /tokenize`; the text may spell special tokens, as in a prompt."""

    prompt: Text = Field(validation_alias=AliasChoices("prompt", "content"))
    """The text; llama.cpp calls it `content`."""
    add_special_tokens: bool = Field(
        False, validation_alias=AliasChoices("add_special_tokens", "add_special")
    )
    """Add what the tokenizer puts around a text; completions do not."""
    with_pieces: bool = False
    """Answer with {id, piece} for each token (llama.cpp)."""
    return_token_strs: bool = False
    """Answer with the tokens' texts too (vLLM)."""


class DetokenizeRequest(Body):
    """`POST /detokenize`."""

    tokens: list[int]
    """Token ids."""


def routes(state: State) -> APIRouter:
    """The routes of the tokenizer."""
    router = APIRouter()

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest, response: Response) -> dict[str, Any]:
        _, engine = state.engine(body.model)
        name_unknown(body, response)
        return await asyncio.to_thread(_tokenize, body, engine)

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest, response: Response) -> dict[str, str]:
        _, engine = state.engine(body.model)
        name_unknown(body, response)
        text = await asyncio.to_thread(_detokenize, body.tokens, engine)
        return {"prompt": text, "content": text}

    return router


def _tokenize(body: TokenizeRequest, engine: Engine) -> dict[str, Any]:
    tokenizer = engine.tokenizer
    ids = tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens).ids
    pieces = [{"id": i, "piece": _piece(tokenizer, i)} for i in ids] if body.with_pieces else ids
    answer = {"count": len(ids), "max_model_len": engine.context, "tokens": pieces}
    strings = {"token_strs": [tokenizer.id_to_token(i) for i in ids]}
    return answer | (strings if body.return_token_strs else {})


def _piece(tokenizer: Tokenizer, token: int) -> str | list[int]:
    """A token's text, or its bytes where they are no whole characters."""
    spelt = spell(tokenizer, token)
    return list(spelt.raw) if spelt.text.encode() != spelt.raw else spelt.text


def _detokenize(ids: list[int], engine: Engine) -> str:
    if odd := no_token(engine.tokenizer, ids):
        raise Refusal(400, odd, "tokens")
    return str(engine.tokenizer.decode(ids, skip_special_tokens=False))
