"""Many completions asked for at once and waited for: `Engine.complete` over calls.

Every engine uses it. Knows nothing of models, slots or where the calls run.
"""

import threading
from collections.abc import Callable, Sequence

from pipeline.model.engine import Call, Completion, Piece, Tell

_ASK_S = 0.05
"""Seconds between two questions whether the caller still wants them (ours)."""


def together(
    begin: Callable[[Sequence[Tell]], Sequence[Call]],
    lengths: Sequence[int],
    cancel: Callable[[], bool],
) -> list[Completion]:
    """The completions of prompts of so many tokens, in order; raises what the first to fail did.

    `begin` starts a call for each of the tellers that it is given. Once `cancel()` is true, all that
    have not ended are cancelled.
    """
    told: list[list[Piece | Exception]] = [[] for _ in lengths]
    ended = threading.Semaphore(0)
    calls = begin([_hearing(heard, ended) for heard in told])
    for _ in lengths:
        while not ended.acquire(timeout=_ASK_S):
            if cancel():
                for call in calls:
                    call.cancel()
    return [_joined(heard, n) for heard, n in zip(told, lengths, strict=True)]


def _hearing(heard: list[Piece | Exception], ended: threading.Semaphore) -> Tell:
    def tell(what: Piece | Exception) -> None:
        heard.append(what)
        if isinstance(what, Exception) or what.finish_reason:
            ended.release()

    return tell


def _joined(heard: Sequence[Piece | Exception], prompt_tokens: int) -> Completion:
    """All that a call told, as one completion."""
    pieces = []
    for what in heard:
        if isinstance(what, Exception):
            raise what
        pieces.append(what)
    return Completion(
        "".join(p.text for p in pieces),
        [t for p in pieces for t in p.tokens],
        pieces[-1].finish_reason or "length",
        [x for p in pieces for x in p.logprobs],
        prompt_tokens,
    )
