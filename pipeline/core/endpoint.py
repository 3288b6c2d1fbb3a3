"""An OpenAI-compatible endpoint in a recipe: its settings, what an answer is, and what it may cost.

Knows nothing of HTTP (`line`) or of how many are asked (`chat`).
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pipeline.core.config import Tokens, canonical, config
from pipeline.core.schema import digest

Body = dict[str, Any]
"""A request: `model`, `messages` and what else it takes."""

_ASIDE = {"identity": False}


@config
class Endpoint:
    endpoint: str | None = field(default=None, metadata=_ASIDE)
    """Base URL of the API, `http://127.0.0.1:8000/v1`; `/chat/completions` below it is asked. Where a
    model runs is no part of what it answered."""
    model: str | None = None
    """Name of the model there."""
    key_env: str | None = field(default=None, metadata=_ASIDE)
    """Name of the environment variable that holds the API key; none sends no key. The key itself is
    never stored or shown."""
    answer_tokens: int = 300
    """Most tokens of an answer (ours: a number and a sentence; a model that thinks aloud needs more)."""
    body: dict[str, Any] = field(default_factory=dict)
    """More of the request, or null to leave something out: `{max_tokens: null,
    max_completion_tokens: 300}`. Temperature is 0 unless it says otherwise."""
    max_requests: int | None = field(default=None, metadata=_ASIDE)
    """Answers to pay for at most, those of earlier attempts included."""
    max_tokens: Tokens | None = field(default=None, metadata=_ASIDE)
    """Tokens to pay for at most, read and written together."""
    max_cost: float | None = field(default=None, metadata=_ASIDE)
    """Money to spend at most, in the unit of the prices."""
    price_in: float = field(default=0.0, metadata=_ASIDE)
    """Price of a million tokens read."""
    price_out: float = field(default=0.0, metadata=_ASIDE)
    """Price of a million tokens written."""
    concurrency: int = field(default=8, metadata=_ASIDE)
    """Requests under way at a time (ours)."""
    timeout: float = field(default=120.0, metadata=_ASIDE)
    """Seconds from a request to the end of its answer (ours)."""
    retries: int = field(default=5, metadata=_ASIDE)
    """Times a failed request is sent again (ours); being turned away (429) does not count."""
    backoff: float = field(default=1.0, metadata=_ASIDE)
    """Seconds before the first of them, doubled each time up to a minute; a server's Retry-After
    goes before (ours)."""

    def __post_init__(self) -> None:
        for name in ("answer_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: 1 or more")
        for name in ("retries", "price_in", "price_out", "backoff", "max_cost", "max_requests"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: 0 or more")
        if self.timeout <= 0:
            raise ValueError(f"timeout is {self.timeout}: above 0")
        if self.max_cost is not None and not self.price_in + self.price_out:
            raise ValueError(f"max_cost is {self.max_cost}, but price_in and price_out are 0")
        if own := {"model", "messages", "stream", "n"} & self.body.keys():
            raise ValueError(f"body has {min(own)!r}, which is not for settings to say")
        if self.endpoint is not None:
            _check_url(self.endpoint)


def _check_url(url: str) -> None:
    """ValueError unless `url` is http(s) with a host, and with nothing in it that may be a secret."""
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            "endpoint has a user, a query or a fragment, which may be secrets; name the variable "
            "that holds the key with `key_env`"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"endpoint is {url!r}: a URL that begins with http:// or https://")


@dataclass(frozen=True)
class Spent:
    """What answers cost: how many, tokens read, tokens written."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.requests + other.requests,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
        )

    def cost(self, cfg: Endpoint) -> float:
        """Money, in the unit of the prices."""
        return (self.tokens_in * cfg.price_in + self.tokens_out * cfg.price_out) / 1e6


@dataclass(frozen=True)
class Answer:
    """What the model said, and what it cost; `estimated` where the server did not say how much."""

    text: str
    spent: Spent
    estimated: bool
    finish: str | None


@dataclass(frozen=True)
class Failure:
    """A request without an answer: nothing was recorded, and nothing is known to be paid."""

    why: str


Reply = Answer | Failure
Record = dict[str, Any]
"""An answer on disk: `text`, `finish`, `tokens_in`, `tokens_out`, `estimated`."""


def answer(found: Record) -> Answer:
    """The answer that a record holds."""
    spent = Spent(1, found["tokens_in"], found["tokens_out"])
    return Answer(found["text"], spent, found["estimated"], found["finish"])


def request(cfg: Endpoint, text: str) -> Body:
    """One message to the model: all that its answer depends on."""
    settings = {"temperature": 0, "max_tokens": cfg.answer_tokens} | cfg.body
    kept = {name: value for name, value in settings.items() if value is not None}
    return {"model": cfg.model, "messages": [{"role": "user", "content": text}], **kept}


def name(body: Body) -> str:
    """The request's name: 128 bits over all of it."""
    return digest(canonical(body))


def bound(body: Body, cfg: Endpoint) -> Spent:
    """The most that a request can cost: a byte-level tokenizer has no more tokens than bytes."""
    written = sum(len(m["content"].encode()) + 16 for m in body["messages"])
    return Spent(1, written, cfg.answer_tokens)


def holds(spent: Spent, cfg: Endpoint) -> bool:
    """Whether the budget holds all of it."""
    tokens = spent.tokens_in + spent.tokens_out
    return (
        (cfg.max_requests is None or spent.requests <= cfg.max_requests)
        and (cfg.max_tokens is None or tokens <= cfg.max_tokens)
        and (cfg.max_cost is None or spent.cost(cfg) <= cfg.max_cost)
    )
