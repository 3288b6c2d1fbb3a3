"""What may change while a replica serves: limits, times, rates. Replaced as a whole, never in part.

It comes as a Serve config's `user_config`; Serve hands every change to the running replicas.
Knows nothing of how it is enforced.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from serve.seeds import Scope

Seconds = Annotated[float, Field(gt=0, le=3600)]


class Settings(BaseModel):
    """Limits of one replica. Every default holds until `user_config` names another value."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    timeout_s: Seconds = 300
    """Most seconds from a request's arrival to its answer's end, then 504 (ours)."""
    body_timeout_s: Seconds = 10
    """Most seconds until a request's body is there, then 408 (ours)."""
    max_body: Annotated[int, Field(ge=1_000, le=1 << 30)] = 2_000_000
    """Most bytes of a body, then 413 (Text Embeddings Inference's limit)."""
    max_header: Annotated[int, Field(ge=1_000, le=1 << 20)] = 32_768
    """Most bytes of all header names and values, then 431 (ours; h11 reads no more than 16 KiB at once)."""
    rate_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Most requests of one key (or of all who have none) in a minute, then 429; None is no limit (ours)."""
    max_tokens_default: Annotated[int, Field(ge=0)] = 16
    """New tokens of a completion that asks for no number (OpenAI's)."""
    seed_scope: Scope = "request"
    """Whether a seed's samples are numbered anew by each request, or on (ours; `seeds`)."""
    draining: bool = False
    """Refuse what is new with 503 and finish what runs (ours)."""
