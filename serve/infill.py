"""`POST /infill`: llama.cpp's shape, which llama.vim and llama.vscode call.

Text around the cursor and from other files, cut to what fits; with `n_predict` 0 it is only read
into the engine's cache. Knows nothing of the model's infill layout.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field
from tokenizers import Tokenizer

from pipeline.model.engine import Engine, Full, Piece, Sampling
from serve import events
from serve.calls import Calls, full, whole
from serve.fitting import Fitted, fit
from serve.generating import Stop, begin, can_infill, checked, strings, too_long
from serve.guard import Refusal
from serve.schemas import Body, Part, Text, name_unknown
from serve.seeds import Scope
from serve.state import State

NAMES = {"max_tokens": "n_predict", "seconds": "t_max_predict_ms"}
"""What llama.cpp calls some of a Sampling's fields."""
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty")
SETTINGS = (*SAMPLING, "n_predict", "seed", "stop", "stream")
"""What an answer says of the request."""


class Extra(Part):
    """Text of another file."""

    filename: Text = ""
    text: Text


class InfillRequest(Body):
    """`POST /infill`; defaults as llama.cpp's."""

    input_prefix: Text = ""
    """The text before the cursor's line."""
    input_suffix: Text = ""
    """The text after the cursor."""
    input_extra: Annotated[list[Extra], Field(max_length=256)] = Field(default=[])
    """Other files of the repository; what does not fit is left out, the first before the last."""
    prompt: Text = ""
    """The cursor's line so far; it stands where the answer begins."""
    n_predict: int = -1
    """Most new tokens; -1 is as many as there is room for, 0 only reads the rest into the cache."""
    t_max_prompt_ms: Annotated[float, Field(gt=0)] | None = None
    """Most time to the first token; after that the answer is empty."""
    t_max_predict_ms: Annotated[float, Field(gt=0)] | None = None
    """Most time from the first token on; after that the answer is what there is."""
    temperature: float = 0.8
    """0 takes the likeliest token."""
    top_k: int = 40
    """Draw from this many of the likeliest tokens; 0 is all."""
    top_p: float = 0.95
    """Draw from the likeliest tokens of this probability together."""
    min_p: float = 0.05
    """Draw from tokens at least this share as likely as the likeliest."""
    presence_penalty: float = 0.0
    """As in OpenAI's completions."""
    frequency_penalty: float = 0.0
    """As in OpenAI's completions."""
    stop: Stop = Field(default=[])
    """Strings that end the text; they are not part of it."""
    seed: int = -1
    """-1 draws one from the operating system."""
    seed_scope: Scope | None = None
    """As in `/v1/completions`."""
    stream: bool = False
    """Server-sent events; the last one has `stop`."""
    response_fields: list[str] = Field(default=[])
    """Only these fields of the answer; `timings/prompt_n` names one within another."""


def routes(state: State) -> APIRouter:
    """The route of `/infill`."""
    router = APIRouter()

    @router.post("/infill")
    async def infill(body: InfillRequest, request: Request, response: Response) -> Any:
        name, engine = state.engine(body.model)
        name_unknown(body, response)
        can_infill(engine, name, "request to /infill")
        how = _sampling(body, engine)
        fitted = await asyncio.to_thread(_fit, body, engine)
        teller = _Teller(name, body, engine, fitted)
        if body.n_predict == 0:
            _warm(engine, fitted.ids)
            return events.answer(teller.end(Piece(finish_reason="length")), response)
        calls = begin(state, request, name, [fitted.ids], how, scope=body.seed_scope)
        chunks = _chunks(teller, calls, body.t_max_prompt_ms)
        if body.stream:
            return events.stream(chunks, response, end="")
        *_, last = [chunk async for chunk in chunks]
        return events.answer(last, response)

    return router


def _sampling(body: InfillRequest, engine: Engine) -> Sampling:
    most = body.t_max_predict_ms
    try:
        return checked(
            max_tokens=engine.context if body.n_predict == -1 else body.n_predict,
            seed=None if body.seed == -1 else body.seed,
            seconds=None if most is None else most / 1000,
            stop=strings(body.stop),
            **{k: getattr(body, k) for k in SAMPLING},
        )
    except Refusal as e:
        name = NAMES.get(e.param or "", e.param)
        raise Refusal(400, str(e.detail).replace(e.param or "", name or "", 1), name) from None


def _fit(body: InfillRequest, engine: Engine) -> Fitted:
    extra = [(x.filename, x.text) for x in body.input_extra]
    around = body.input_prefix, body.input_suffix
    try:
        return fit(engine, *around, extra, body.prompt, body.n_predict)
    except ValueError as e:
        raise too_long(str(e)) from None


def _warm(engine: Engine, ids: Sequence[int]) -> None:
    """Have the prompt read; nobody waits for it."""
    try:
        # One token: an engine need not read what nothing is to follow.
        engine.submit(ids, Sampling(max_tokens=1), lambda _: None)
    except Full:
        raise full() from None
    except ValueError as e:
        raise too_long(str(e)) from None


async def _chunks(
    teller: "_Teller", calls: Calls, prompt_ms: float | None
) -> AsyncIterator[dict[str, Any]]:
    """In a stream a chunk for each piece; then the whole answer."""
    loop = asyncio.get_running_loop()
    until = math.inf if prompt_ms is None else loop.time() + prompt_ms / 1000
    limit = None if prompt_ms is None else loop.call_at(until, calls.cancel)
    pieces: list[Piece] = []
    late = False
    async for _, piece in calls:
        if limit:
            limit.cancel()
        if late := late or (not pieces and loop.time() > until):
            calls.cancel()
            piece = replace(piece, text="", tokens=[], logprobs=[], top=[])
        pieces.append(piece)
        part = teller.part(piece)
        if teller.streams and piece.text:
            yield part
    yield teller.end(whole(pieces))


class _Teller:
    """Says in llama.cpp's words what a call has told, and times it."""

    def __init__(self, name: str, body: InfillRequest, engine: Engine, fitted: Fitted) -> None:
        self._name, self._body, self._tokenizer = name, body, engine.tokenizer
        self._fitted, self.streams = fitted, body.stream
        self._began, self._first, self._predicted = time.monotonic(), 0.0, 0

    def part(self, piece: Piece) -> dict[str, Any]:
        """One event of a stream."""
        self._first = self._first or time.monotonic()
        self._predicted += len(piece.tokens)
        return {
            "index": 0,
            "content": piece.text,
            "tokens": piece.tokens,
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": self._predicted,
            "tokens_evaluated": len(self._fitted.ids),
        }

    def end(self, done: Piece) -> dict[str, Any]:
        """The answer, or the last event: of `done`, the whole completion."""
        kind, word = _stop(done, strings(self._body.stop), self._tokenizer)
        said = {
            "index": 0,
            "content": "" if self.streams else done.text,
            "tokens": [],
            "id_slot": -1,
            "stop": True,
            "model": self._name,
            "tokens_predicted": len(done.tokens),
            "tokens_evaluated": len(self._fitted.ids),
            "generation_settings": {k: getattr(self._body, k) for k in SETTINGS},
            "has_new_line": "\n" in done.text,
            "truncated": self._fitted.truncated,
            "stop_type": kind,
            "stopping_word": word,
            "tokens_cached": done.cached_tokens,
            "timings": self._timings(done),
        }
        return _chosen(said, self._body.response_fields)

    def _timings(self, done: Piece) -> dict[str, float]:
        now, read = time.monotonic(), len(self._fitted.ids) - done.cached_tokens
        first = self._first or now
        spans = ("prompt", read, first - self._began), ("predicted", len(done.tokens), now - first)
        timings: dict[str, float] = {"cache_n": done.cached_tokens}
        for name, count, seconds in spans:
            timings |= {
                f"{name}_n": count,
                f"{name}_ms": 1000 * seconds,
                f"{name}_per_token_ms": 1000 * seconds / count if count else 0.0,
                f"{name}_per_second": count / seconds if seconds else 0.0,
            }
        return timings


def _stop(done: Piece, stop: Sequence[str], tokenizer: Tokenizer) -> tuple[str, str]:
    """Why it ended ("limit", "word" or "eos"), and the stop string that did it or ""."""
    if done.finish_reason != "stop":
        return "limit", ""
    text = str(tokenizer.decode(done.tokens))
    found = [s for s in stop if text.startswith(s, len(done.text))]
    return ("word", found[0]) if found else ("eos", "")


def _chosen(answer: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Only `fields`, each under the name it was asked by; all where none is named."""
    if not fields:
        return dict(answer)
    return {
        path: value for path in fields if (value := _within(answer, path.split("/"))) is not None
    }


def _within(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
