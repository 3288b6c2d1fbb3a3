"""What the endpoints take and answer, in the shape of OpenAI's completions API.

A field that is not listed here is accepted, has no effect, and is named in the response header
`x-icefloe-ignored`. A null counts as not sent.
"""

from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_PROMPTS = 32
MAX_CHOICES = 16
MAX_FILES = 64
"""Most prompts, completions of each, and files in one request (ours)."""


def _encodable(text: str) -> str:
    """JSON can spell half a surrogate pair, which no tokenizer takes and no answer can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text has half a surrogate pair: send whole characters") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Ids = Annotated[list[int], Field(min_length=1)]


class Request(BaseModel):
    """A request body."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data


class StreamOptions(Request):
    """How to stream."""

    include_usage: bool = False
    """Send the token counts in one more chunk at the end."""


class CompletionRequest(Request):
    """`POST /v1/completions`; defaults as OpenAI's."""

    prompt: (
        Text
        | Ids
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    """A text, token ids, or a list of one of these; text may spell special tokens."""
    model: Text | None = None
    """The id that `/v1/models` lists; may be left out."""
    suffix: Text | None = None
    """The text after the gap, for a model that was trained to infill."""
    max_tokens: int = 16
    """New tokens at most; the model's context also ends an answer."""
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    """Draw from the likeliest tokens of this probability together."""
    top_k: int = 0
    """Draw from this many of the likeliest tokens; 0 is all."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    """Completions of each prompt."""
    stop: Text | Annotated[list[Text], Field(max_length=16)] = []
    """Strings that end the text; they are not part of it."""
    seed: int | None = None
    """Same request and seed, same answer."""
    echo: bool = False
    """Put the prompt before the completion."""
    stream: bool = False
    """Server-sent events, text as it comes, `data: [DONE]` at the end; one prompt, n 1."""
    stream_options: StreamOptions = StreamOptions()
    """Only with `stream`."""

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts as a list, whichever of the four forms was sent."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return self.prompt  # type: ignore[return-value]

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class Usage(BaseModel):
    """Token counts; a prompt counts once however many completions it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Choice(BaseModel):
    """One completion, or a piece of one in a stream (its last piece has the reason)."""

    index: int = 0
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class CompletionResponse(BaseModel):
    """The answer, or one event of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class File(Request):
    """A source file to judge by its text; `path` and `language` come back as they were sent."""

    text: Text
    path: Text | None = None
    language: Text | None = None


class AnnotateRequest(Request):
    """`POST /v1/annotate`."""

    files: Annotated[list[File], Field(min_length=1, max_length=MAX_FILES)]
    model: Text | None = None
    """The annotator's name; may be left out."""


class Annotation(BaseModel):
    """`score` is the mean of the file's `windows`; `truncated`: some of it lies in no window."""

    index: int
    score: float
    windows: list[float]
    truncated: bool
    path: str | None = None
    language: str | None = None


class AnnotateResponse(BaseModel):
    """One annotation a file, in order."""

    object: Literal["list"] = "list"
    data: list[Annotation]
    model: str


def name_unknown(body: BaseModel, response: Response) -> None:
    """Tell the client which of its fields had no effect."""
    if names := unknown(body):
        response.headers["x-icefloe-ignored"] = ", ".join(quote(n, errors="replace") for n in names)


def unknown(body: BaseModel, prefix: str = "") -> list[str]:
    """The fields of a request that have no effect, dotted, each once."""
    found = {f"{prefix}{name}": None for name in body.model_extra or {}}
    for name in type(body).model_fields:
        value = getattr(body, name)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, BaseModel):
                found |= dict.fromkeys(unknown(part, f"{prefix}{name}."))
    return list(found)
