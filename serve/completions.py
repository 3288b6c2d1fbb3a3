"""`POST /v1/completions`: a request to token ids, to the engine, to OpenAI's answer or events.

`suffix` is the model's own infill layout; a model that was not trained to infill refuses it.
`/beta/completions` is the same under the path that DeepSeek's clients call.
Knows nothing of keys or Ray.
"""

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from pipeline.model.engine import Engine, Piece, Sampling
from serve import events, logprobs
from serve.calls import settled
from serve.completion_schemas import CompletionRequest, CompletionResponse
from serve.generating import begin, no_token, sampling, text_ids, too_long
from serve.guard import Refusal
from serve.logprobs import Reader, Token
from serve.schemas import name_unknown
from serve.state import State
from serve.writing import Tally, answered, chunks


def routes(state: State) -> APIRouter:
    """The routes of `/v1/completions`."""
    router = APIRouter()

    async def completions(body: CompletionRequest, request: Request, response: Response) -> Any:
        name, engine = state.engine(body.model)
        name_unknown(body, response)
        asked = await asyncio.to_thread(_understand, body, name, engine, state)
        how, n = asked.sampling, body.n
        calls = begin(state, request, name, asked.prompts, how, n, body.seed_scope)
        writer = _Writer(asked, body)
        if body.stream:
            more = body.stream_options.include_usage
            return events.stream(chunks(writer, calls, more), response)
        return events.answer(await answered(writer, calls), response)

    for path in ("/v1/completions", "/beta/completions"):
        router.post(path, response_model=CompletionResponse)(completions)
    return router


@dataclass(frozen=True)
class Understood:
    """A request understood: its prompts as ids, and the text that `echo` puts before an answer."""

    model: str
    engine: Engine
    prompts: list[list[int]]
    echoes: list[str]
    sampling: Sampling


def _understand(body: CompletionRequest, name: str, engine: Engine, state: State) -> Understood:
    """Refusal where the engine or the model cannot do it."""
    if body.best_of not in (None, body.n):
        message = f"best_of is {body.best_of}: leave it out, every completion made is an answer"
        raise Refusal(400, message, "best_of")
    if body.suffix is not None and body.echo and body.logprobs is not None:
        raise Refusal(400, "echo with logprobs shows a prompt without a suffix only", "echo")
    most = body.max_tokens
    how = sampling(
        body,
        engine,
        max_tokens=state.settings.max_tokens_default if most is None else most,
        top_logprobs=body.logprobs,
        prompt_logprobs=body.echo and body.logprobs is not None,
    )
    prompts = [_ids(prompt, body, name, engine) for prompt in body.prompts]
    echoes = [_echo(k, ids, body, engine) for k, ids in enumerate(prompts)]
    return Understood(name, engine, prompts, echoes, how)


def _ids(prompt: str | list[int], body: CompletionRequest, name: str, engine: Engine) -> list[int]:
    keep = body.truncate_prompt_tokens
    if body.suffix is not None and (keep is not None or not isinstance(prompt, str)):
        message = "a suffix goes with a whole text prompt, not with token ids or a cut"
        raise Refusal(400, message, "suffix")
    if isinstance(prompt, str):
        if keep is None or not prompt:
            return text_ids(engine, prompt, body.suffix, name)
        prompt = engine.tokenizer.encode(prompt, add_special_tokens=False).ids
    return _checked(prompt if keep is None else prompt[-keep:], engine)


def _checked(ids: list[int], engine: Engine) -> list[int]:
    if odd := no_token(engine.tokenizer, ids):
        raise Refusal(400, odd, "prompt")
    if len(ids) >= engine.context:
        raise too_long(
            f"the prompt has {len(ids)} tokens, the model's context is {engine.context}: "
            f"send at most {engine.context - 1}"
        )
    return ids


def _echo(k: int, ids: list[int], body: CompletionRequest, engine: Engine) -> str:
    if not body.echo:
        return ""
    sent = body.prompts[k]
    if isinstance(sent, str) and body.truncate_prompt_tokens is None:
        return sent
    return str(engine.tokenizer.decode(ids, skip_special_tokens=False))


class _Writer:
    """See `writing.Writer`."""

    def __init__(self, asked: Understood, body: CompletionRequest) -> None:
        self._asked, self._body = asked, body
        self._readers: dict[int, Reader] = {}
        self.tally = Tally(asked.prompts, body.n)
        self.frame: Mapping[str, Any] = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": asked.model,
        }

    def choice(self, k: int, piece: Piece) -> dict[str, Any]:
        """Row `k`'s next piece."""
        echo = "" if k in self._readers else self._asked.echoes[k // self._body.n]
        reason = settled(piece)
        shown = self._logprobs(k, piece)
        return {"index": k, "text": echo + piece.text, "logprobs": shown, "finish_reason": reason}

    def _logprobs(self, k: int, piece: Piece) -> dict[str, Any] | None:
        reader = self._readers.setdefault(k, Reader())
        if self._body.logprobs is None:
            return None
        tokens = _tokens(self._asked.prompts[k // self._body.n], piece)
        return logprobs.columns(self._asked.engine.tokenizer, tokens, reader)


def _tokens(prompt: Sequence[int], piece: Piece) -> list[Token]:
    before = zip(prompt, *piece.prompt, strict=True) if piece.prompt else ()
    return [*(Token(*t) for t in before), *logprobs.written(piece)]
