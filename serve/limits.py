"""How much one client may send: requests in a minute, and the bytes of a body in time.

Knows nothing of keys or of errors' shape.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope


class Allowance(NamedTuple):
    """What is left of a rate: `wait` is 0 where the request may pass."""

    limit: int
    remaining: int
    reset: float
    """Seconds until all of it is there again."""
    wait: float
    """Seconds until one request may pass."""

    @property
    def headers(self) -> dict[str, str]:
        """As OpenAI's: `x-ratelimit-*-requests`, and `retry-after` with a refusal."""
        told = {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": _duration(self.reset),
        }
        return told | ({"retry-after": str(math.ceil(self.wait))} if self.wait else {})


class Rates:
    """A token bucket a client: a minute's requests at once, then one each time one has refilled."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._left = clock, dict[str, tuple[float, float]]()

    def take(self, client: str, per_minute: int) -> Allowance:
        """Count one request of `client`, unless it must wait."""
        now = self._clock()
        left, since = self._left.get(client, (float(per_minute), now))
        left = min(per_minute, left + (now - since) * per_minute / 60)
        passed = left >= 1 - 1e-9  # sixty steps of a sixtieth make a little less than one
        left -= passed
        self._left[client] = (left, now)
        wait = 0.0 if passed else (1 - left) * 60 / per_minute
        return Allowance(per_minute, max(0, int(left)), (per_minute - left) * 60 / per_minute, wait)


def _duration(seconds: float) -> str:
    """Go's form, as in OpenAI's headers: 250ms, 12s, 1m30s."""
    if seconds < 1:
        return f"{math.ceil(1000 * seconds)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


class TooLarge(Exception):
    """The body is over the limit."""


class TooSlow(Exception):
    """The body did not come in time."""


def header_bytes(scope: Scope) -> int:
    """Of all names and values."""
    return sum(len(name) + len(value) for name, value in scope["headers"])


def limited(scope: Scope, receive: Receive, size: int, seconds: float) -> Receive:
    """`receive` that raises TooLarge past `size` bytes of body, TooSlow past `seconds` for all of it.

    Once the body is there it waits without an end, for the client to go.
    """
    declared = Headers(scope=scope).get("content-length", "")
    over = declared.isdecimal() and int(declared) > size
    taken, whole, until = 0, False, time.monotonic() + seconds

    async def counted() -> Message:
        nonlocal taken, whole
        if over:
            raise TooLarge
        message = await (receive() if whole else _in_time(receive, until))
        taken += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if taken > size:
            raise TooLarge
        return message

    return counted


async def _in_time(receive: Receive, until: float) -> Message:
    try:
        # Not wait_for: Python 3.11's loses a cancellation, as by the deadline, when the message is there.
        async with asyncio.timeout(until - time.monotonic()):
            return await receive()
    except TimeoutError:
        raise TooSlow from None
