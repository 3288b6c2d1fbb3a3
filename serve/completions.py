"""`POST /v1/completions`: a request to token ids, to the engine, to OpenAI's answer or events.

`suffix` is the model's own infill layout; a model that was not trained to infill refuses it.
Knows nothing of keys, queues' length or Ray.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from serve.desk import POLL, Cancel, Desk
from serve.guard import Refusal, envelope
from serve.schemas import Choice, CompletionRequest, CompletionResponse, Usage, name_unknown
from serve.state import State

if TYPE_CHECKING:  # torch and transformers take seconds; only the replica pays them
    from pipeline.model.engine import Engine, Piece, Sampling

log = logging.getLogger(__name__)


def routes(state: State) -> APIRouter:
    """The routes of `/v1/completions`."""
    router = APIRouter()

    @router.post("/v1/completions", response_model=CompletionResponse)
    async def completions(body: CompletionRequest, request: Request, response: Response) -> Any:
        name, engine = state.engine(body.model)
        name_unknown(body, response)
        if not body.stream:
            return await complete(body, request, name, engine, state.writing)
        events = await stream(body, name, engine, state.writing)
        headers = {**response.headers, "cache-control": "no-cache"}
        return StreamingResponse(events, headers=headers, media_type="text/event-stream")

    return router


async def complete(
    body: CompletionRequest, request: Request, name: str, engine: "Engine", desk: Desk
) -> CompletionResponse:
    """Every completion of every prompt, prompt by prompt."""
    prompts, sampling = await asyncio.to_thread(_understand, body, name, engine)
    rows = [ids for ids in prompts for _ in range(body.n)]
    done = await desk.answer(request, lambda gone: engine.complete(rows, sampling, gone))
    before = [_echo(body, engine, k // body.n) for k in range(len(rows))]
    choices = [
        Choice(index=k, text=before[k] + c.text, finish_reason=_reason(c.finish_reason))
        for k, c in enumerate(done)
    ]
    usage = _usage(sum(map(len, prompts)), sum(len(c.tokens) for c in done))
    return _frame(name).model_copy(update={"choices": choices, "usage": usage})


async def stream(
    body: CompletionRequest, name: str, engine: "Engine", desk: Desk
) -> AsyncIterator[str]:
    """The completion as server-sent events. Refusals are raised before the first of them."""
    for field, count in (("prompt", len(body.prompts)), ("n", body.n)):
        if count > 1:
            raise Refusal(400, f"a stream has one completion: {field} asks for {count}", field)
    (ids,), sampling = await asyncio.to_thread(_understand, body, name, engine)
    steps = _Steps()
    pieces = desk.stream(lambda gone: steps.texts(engine, ids, sampling, gone))
    return _events(body, name, engine, len(ids), pieces, steps)


async def _events(
    body: CompletionRequest,
    name: str,
    engine: "Engine",
    prompt_tokens: int,
    pieces: AsyncIterator[str],
    steps: "_Steps",
) -> AsyncIterator[str]:
    frame = _frame(name)
    try:
        if before := _echo(body, engine, 0):
            yield _event(frame, [Choice(text=before)])
        async for text in pieces:
            yield _event(frame, [Choice(text=text)])
        yield _event(frame, [Choice(text="", finish_reason=steps.reason)])
        if body.stream_options.include_usage:
            yield _event(frame, [], _usage(prompt_tokens, steps.taken))
    except Exception:
        # The status line is out; the error can only be one more event.
        log.exception("a stream failed")
        yield f"data: {bytes(envelope(500, 'internal error').body).decode()}\n\n"
    yield "data: [DONE]\n\n"


class _Steps:
    """A stream's texts, counting its tokens as they come; `reason` once it has ended."""

    def __init__(self) -> None:
        self.taken = 0
        self.reason: Literal["stop", "length"] = "length"

    def texts(
        self, engine: "Engine", ids: list[int], sampling: "Sampling", gone: Cancel
    ) -> Iterator[str]:
        told: SimpleQueue[Piece | Exception] = SimpleQueue()
        call = engine.submit(ids, sampling, told.put)
        while True:
            try:
                piece = told.get(timeout=POLL)
            except Empty:
                if gone():
                    call.cancel()
                continue
            if isinstance(piece, Exception):
                raise piece
            self.taken += len(piece.tokens)
            if piece.text:
                yield piece.text
            if piece.finish_reason:
                self.reason = _reason(piece.finish_reason)
                return


def _understand(
    body: CompletionRequest, name: str, engine: "Engine"
) -> tuple[list[list[int]], "Sampling"]:
    """Token ids and sampling. Raises Refusal where the engine or the model cannot do it."""
    from pipeline.model.engine import Sampling

    if body.suffix is not None and not engine.info.get("infill"):
        raise Refusal(400, f"model {name!r} was not trained to infill: send no suffix", "suffix")
    try:
        prompts = [_ids(prompt, body, engine) for prompt in body.prompts]
    except ValueError as e:
        raise Refusal(400, str(e), "prompt", "context_length_exceeded") from None
    names = ("max_tokens", "temperature", "top_p", "top_k", "seed")
    try:
        return prompts, Sampling(stop=body.stops, **{k: getattr(body, k) for k in names})
    except ValueError as e:
        raise Refusal(400, str(e), str(e).split()[0]) from None


def _ids(prompt: str | list[int], body: CompletionRequest, engine: "Engine") -> list[int]:
    if isinstance(prompt, str):
        return engine.prompt(prompt, body.suffix)
    if body.suffix is not None:
        raise Refusal(400, "a suffix goes with a text prompt, not with token ids", "suffix")
    size = engine.tokenizer.get_vocab_size()
    if bad := [i for i in prompt if not 0 <= i < size]:
        raise Refusal(400, f"{bad[0]} is no token id: the model has {size}", "prompt")
    if len(prompt) >= engine.context:
        raise ValueError(
            f"the prompt has {len(prompt)} tokens, the model's context is {engine.context}"
        )
    return prompt


def _reason(finish: str) -> Literal["stop", "length"]:
    return "stop" if finish == "stop" else "length"


def _echo(body: CompletionRequest, engine: "Engine", prompt: int) -> str:
    if not body.echo:
        return ""
    sent = body.prompts[prompt]
    return sent if isinstance(sent, str) else str(engine.tokenizer.decode(sent))


def _usage(prompt: int, completion: int) -> Usage:
    total = prompt + completion
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)


def _frame(model: str) -> CompletionResponse:
    name, now = f"cmpl-{uuid.uuid4().hex}", int(time.time())
    return CompletionResponse(id=name, created=now, model=model, choices=[])


def _event(frame: CompletionResponse, choices: list[Choice], usage: Usage | None = None) -> str:
    chunk = frame.model_copy(update={"choices": choices, "usage": usage})
    return f"data: {json.dumps(chunk.model_dump(), ensure_ascii=False)}\n\n"
