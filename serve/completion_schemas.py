"""What `/v1/completions` takes and answers, in the shape of OpenAI's completions API."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from serve.generating import Generating, Usage
from serve.schemas import Ids, Text

MAX_PROMPTS = 32
"""Most prompts of one request (ours)."""


class CompletionRequest(Generating):
    """`POST /v1/completions`."""

    prompt: (
        Text
        | Ids
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    """A text, token ids, or a list of one of these; text may spell special tokens."""
    suffix: Text | None = None
    """The text after the gap, for a model that was trained to infill."""
    echo: bool = False
    """Put the prompt before the completion, with `logprobs` its tokens too."""
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    """The log-probability of each token and of so many of the likeliest."""
    best_of: int | None = None
    """Only as many as `n`: every completion made is an answer."""
    truncate_prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    """Keep so many of the prompt's last tokens."""

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts as a list, whichever of the four forms was sent."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return self.prompt  # type: ignore[return-value]


class LogProbs(BaseModel):
    """A column each: tokens, their natural log-probabilities, the likeliest, where each begins in
    `text`. A prompt's first token has no log-probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(BaseModel):
    """One completion, or a piece of one in a stream (its last piece has the reason)."""

    index: int
    text: str
    logprobs: LogProbs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionResponse(BaseModel):
    """The answer, or one event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None
