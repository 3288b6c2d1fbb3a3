"""The line to one OpenAI-compatible server: a request goes out until an answer or a reason is there.

Failing and stalling servers are asked again after growing pauses, rate limits are waited out by all
threads, what no request can mend ends the step. Knows nothing of budgets, or of where answers are kept.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline.core.endpoint import Body, Endpoint, Failure, Record
from pipeline.core.errors import StageError

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)
_HERE = ("localhost", "127.0.0.1", "::1")
_LARGEST = 4_000_000
"""Bytes of a response that are read at most (ours)."""
_LONGEST = 600.0
"""Seconds of a Retry-After that are waited out; more ends the step, which can be run again (ours)."""
_TURNS = 50
"""Times one request lets a server turn it away (429) before it counts as failed (ours)."""
_LATER = (408, 409, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)
"""HTTP statuses of a server that may do better in a moment."""
_HOPELESS = {
    401: "it refuses the key",
    402: "its account has no money left",
    403: "it refuses the key",
    404: "it has no such address or model",
    405: "it has no such address",
}
"""HTTP statuses after which no other request can do better."""


@dataclass
class Line:
    """A line to one server, shared by the threads that ask: until when nobody may, and to stop."""

    cfg: Endpoint
    http: "httpx.Client"
    secret: str
    stop: threading.Event = field(default_factory=threading.Event)
    quiet_until: float = 0.0

    def hide(self, text: str) -> str:
        """`text` without the API key: servers repeat it in their errors."""
        return text.replace(self.secret, "<KEY>") if self.secret else text


@contextmanager
def connected(cfg: Endpoint) -> Iterator[Line]:
    """A line to the endpoint. StageError where its key is not set."""
    import httpx

    assert cfg.endpoint
    base = cfg.endpoint.rstrip("/").removesuffix("/chat/completions")
    secret = _secret(cfg)
    if secret and base.startswith("http://") and urlsplit(base).hostname not in _HERE:
        log.warning("%s is not encrypted: the API key can be read on its way", base)
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    with httpx.Client(
        headers=headers,
        timeout=cfg.timeout,
        follow_redirects=False,  # another host must not get the key
        limits=httpx.Limits(max_connections=cfg.concurrency),
        base_url=base,
    ) as http:
        yield Line(cfg, http, secret)


def _secret(cfg: Endpoint) -> str:
    if cfg.key_env is None:
        return ""
    secret = os.environ.get(cfg.key_env, "").strip()
    if not secret or not (secret.isascii() and secret.isprintable()):
        raise StageError(
            f"environment variable {cfg.key_env} {'holds no API key' if secret else 'is not set'}; "
            "set it to the key of the endpoint, or name another with key_env"
        )
    return secret


@dataclass(frozen=True)
class _Again:
    """A try that failed, and may not next time."""

    why: str
    after: float | None = None
    turned_away: bool = False


def reply(one: str, body: Body, line: Line) -> Record | Failure:
    """What the server answered to the request named `one`, or why there is none after all tries.

    StageError where no other request can do better.
    """
    failed = turned = 0
    while True:
        line.stop.wait(max(0.0, line.quiet_until - time.monotonic()))
        if line.stop.is_set():
            return Failure("stopped before it was asked")
        outcome = _once(one, body, line)
        if not isinstance(outcome, _Again):
            return outcome
        failed, turned = failed + (not outcome.turned_away), turned + outcome.turned_away
        if failed > line.cfg.retries or turned > _TURNS:
            return Failure(f"{outcome.why} ({failed + turned} times)")
        pause = min(60.0, line.cfg.backoff * 2.0 ** min(16, failed + turned - 1))
        if outcome.after is not None:
            pause = outcome.after
            line.quiet_until = max(line.quiet_until, time.monotonic() + pause)
        line.stop.wait(pause * (1 + _spread(one, failed + turned) / 4))


def _spread(one: str, tries: int) -> float:
    """0..1: keeps waiting threads from asking all at once; nothing that is made depends on it."""
    return hashlib.blake2b(f"{one} {tries}".encode(), digest_size=1).digest()[0] / 255


def _once(one: str, body: Body, line: Line) -> Record | Failure | _Again:
    import httpx

    try:
        status, headers, raw = _sent(one, body, line)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as e:
        return _Again(line.hide(f"{type(e).__name__}: {e}"[:300]))
    text = line.hide(raw.decode(errors="replace"))
    told = f"HTTP {status}: {text[:300]}"
    if status == 200:
        found = _read(text, body)
        if isinstance(found, str):
            return _Again(f"no chat completion ({found}): {text[:200]}")
        return found | {"text": line.hide(found["text"])}  # a key with escapes shows up only now
    if 300 <= status < 400:
        to = line.hide(headers.get("location", "nowhere"))
        raise StageError(
            f"{line.cfg.endpoint} sends on to {to}; the key is not sent there: name the right `endpoint`"
        )
    broke = status == 429 and "insufficient_quota" in text
    if why := _HOPELESS.get(402 if broke else status):
        raise StageError(
            f"{line.cfg.endpoint}: {why} ({told}). Set it right and run again: all answers are kept"
        )
    if status == 429 or status in _LATER:
        return _Again(told, _after(headers.get("retry-after"), line.cfg), status == 429)
    return Failure(told)


def _sent(one: str, body: Body, line: Line) -> "tuple[int, httpx.Headers, bytes]":
    """(status, headers, body) of one request; ValueError for what is too slow or too large.

    The Idempotency-Key tells servers that know it not to charge twice for an answer that got lost.
    """
    until, raw = time.monotonic() + line.cfg.timeout, b""
    key = {"idempotency-key": one}
    with line.http.stream("POST", "/chat/completions", json=body, headers=key) as response:
        for piece in response.iter_bytes():
            raw += piece
            if time.monotonic() > until:
                raise ValueError(f"no whole answer within timeout {line.cfg.timeout} s")
            if len(raw) > _LARGEST:
                raise ValueError(f"an answer of more than {_LARGEST} bytes")
    return response.status_code, response.headers, raw


def _after(told: str | None, cfg: Endpoint) -> float | None:
    """Seconds of a Retry-After, in either form; StageError where it is longer than _LONGEST."""
    if told is None:
        return None
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    if seconds > _LONGEST:
        raise StageError(
            f"{cfg.endpoint} asks to come back in {seconds:.0f} s; run again then: all answers are kept"
        )
    return max(0.0, seconds) if seconds == seconds else None


def _read(text: str, body: Body) -> Record | str:
    """The record of a response, or what it lacks. A message without text is an answer, and paid."""
    try:
        response = json.loads(text)
        choice = response["choices"][0]
        said = choice["message"].get("content")
        usage = dict(response.get("usage") or {})
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as e:
        return type(e).__name__
    said = said.encode(errors="replace").decode() if isinstance(said, str) else ""
    told = [usage.get(k) for k in ("prompt_tokens", "completion_tokens")]
    known = all(type(n) is int and 0 <= n < 1 << 53 for n in told)
    written = sum(len(m["content"].encode()) for m in body["messages"])
    guess = [-(-written // 4), -(-len(said.encode()) // 4)]
    tokens_in, tokens_out = told if known else guess
    finish = choice.get("finish_reason")
    return {
        "text": said,
        "finish": finish if isinstance(finish, str) else None,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "estimated": not known,
    }
