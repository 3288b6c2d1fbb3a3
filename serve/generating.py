"""What every generating route takes, and how it is asked of an engine.

Knows nothing of the shapes in which the routes answer.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from fastapi import Request
from pydantic import BaseModel, Field
from tokenizers import Tokenizer

from pipeline.model.engine import Engine, Sampling
from serve.calls import Calls, Row
from serve.guard import Refusal
from serve.schemas import Body, Part, Text
from serve.seeds import Scope
from serve.state import State

MAX_CHOICES = 16
"""Most completions of one prompt (ours)."""
MAX_STOPS = 64
"""Most stop strings (ours; Continue sends some twenty)."""

Stop = Text | Annotated[list[Text], Field(max_length=MAX_STOPS)]


class StreamOptions(Part):
    """How to stream."""

    include_usage: bool = False
    """Send the token counts in one more chunk at the end."""


class Generating(Body):
    """The fields that the OpenAI-shaped routes share; defaults as OpenAI's."""

    max_tokens: int | None = None
    """Most new tokens; the model's context also ends an answer. Left out, it is the route's default."""
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Draw from the likeliest tokens of this probability together."""
    top_k: int = 0
    """Draw from this many of the likeliest tokens; 0 is all."""
    min_p: float = 0.0
    """Draw from tokens at least this share as likely as the likeliest; 0 is all."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token that the answer has already, -2 to 2."""
    frequency_penalty: float = 0.0
    """The same, as often as the answer has it."""
    logit_bias: dict[int, float] = Field(default={})
    """Token ids and what is added to their logits, -100 to 100."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    """Completions of each prompt."""
    stop: Stop = Field(default=[])
    """Strings that end the text; they are not part of it."""
    seed: int | None = None
    """Choice i draws from (seed, i): the same request has the same answer."""
    seed_scope: Scope | None = None
    """"sequence" numbers the samples of a prompt and seed on from request to request; else the server's."""
    stream: bool = False
    """Server-sent events, text as it comes, `data: [DONE]` at the end."""
    stream_options: StreamOptions = StreamOptions()
    """Only with `stream`."""


class CachedTokens(BaseModel):
    """Of the prompts' tokens, those known from an earlier call."""

    cached_tokens: int


class Usage(BaseModel):
    """Token counts; a prompt counts once however many completions it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


def sampling(body: Generating, engine: Engine, **more: Any) -> Sampling:
    """The engine's words for a request; `more` are those that only one route has, or overrides."""
    if odd := no_token(engine.tokenizer, body.logit_bias):
        raise Refusal(400, f"logit_bias: {odd}", "logit_bias")
    names = ("temperature", "top_p", "top_k", "min_p", "seed", "logit_bias")
    fields = {k: getattr(body, k) for k in (*names, "presence_penalty", "frequency_penalty")}
    return checked(stop=strings(body.stop), **fields | more)


def no_token(tokenizer: Tokenizer, ids: Iterable[int]) -> str | None:
    """What is wrong with the first of `ids` that is no token's; None where all are."""
    size = tokenizer.get_vocab_size()
    bad = next((i for i in ids if not 0 <= i < size), None)
    return None if bad is None else f"{bad} is no token id: the model has {size}"


def checked(**fields: Any) -> Sampling:
    """A Sampling; Refusal 400 that names the field which is off."""
    try:
        return Sampling(**fields)
    except ValueError as e:
        raise Refusal(400, str(e), str(e).split()[0]) from None


def strings(stop: str | list[str]) -> tuple[str, ...]:
    """`stop` in either of its forms."""
    return (stop,) if isinstance(stop, str) else tuple(stop)


def text_ids(engine: Engine, text: str, suffix: str | None, name: str) -> list[int]:
    """The ids to complete. Refusal 400 for a suffix the model cannot use, and for too long a text."""
    if suffix is not None:
        can_infill(engine, name)
    try:
        return engine.prompt(text, suffix)
    except ValueError as e:
        raise too_long(str(e)) from None


def can_infill(engine: Engine, name: str, param: str = "suffix") -> None:
    """Refusal 400 unless the model was trained to infill."""
    if not engine.info.get("infill"):
        raise Refusal(400, f"model {name!r} was not trained to infill: send no {param}", param)


def too_long(message: str) -> Refusal:
    """A prompt that leaves no room for an answer; `message` has the counts."""
    return Refusal(400, message, "prompt", "context_length_exceeded")


def begin(
    state: State,
    request: Request,
    model: str,
    prompts: Sequence[list[int]],
    how: Sampling,
    n: int = 1,
    scope: Scope | None = None,
) -> Calls:
    """`n` completions of each prompt, already under way, prompt by prompt. Refusals as `Calls`.

    scope: the request's own; None is the settings'.
    """
    state.check_ready()
    scope = scope or state.settings.seed_scope
    samples = state.numbering.samples(model, prompts, n, how.seed, scope)
    rows = [Row(prompts[k // n], sample) for k, sample in enumerate(samples)]
    return Calls(state.engines[model], rows, how, request, state.meters.watch(request, model))
