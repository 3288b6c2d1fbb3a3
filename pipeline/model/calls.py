"""One completion under way: from picked tokens to the pieces that its caller is told.

Knows when it has ended and why; knows nothing of models, slots or the order of steps.
"""

import logging
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from pipeline.model.engine import Finish, Piece, PromptScores, Sampling, Sentinel, Tell
from pipeline.model.sampling import Picked
from pipeline.model.text import Text

log = logging.getLogger(__name__)


class Voice(NamedTuple):
    """What all calls of a model share: how its tokens are said, which of them end a text, how long
    one may be."""

    tokenizer: Tokenizer
    stops: frozenset[int]
    context: int


class Running:
    """A call from `submit` to its last piece. `done` once that was told, or the call has failed."""

    def __init__(
        self, ids: Sequence[int], sampling: Sampling, tell: Tell, sample: int, voice: Voice
    ) -> None:
        self.ids, self.sampling, self._tell, self._stops = list(ids), sampling, tell, voice.stops
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._draws = np.random.default_rng([seed, sample])
        self._room = min(sampling.max_tokens, voice.context - len(self.ids))
        self._text = Text(voice.tokenizer, sampling.stop)
        self.counts: Counter[int] = Counter()
        self.cancelled = self.done = False
        self.cached_tokens = 0
        self.prompt: PromptScores | None = None
        self._first = True
        self._deadline: float | None = None
        self._new: list[Picked] = []
        self._sentinel: Sentinel | None = None

    @property
    def wants(self) -> bool:
        """Whether there is room for a token."""
        return self._room > 0

    def cancel(self) -> None:
        """See `engine.Call`."""
        self.cancelled = True

    def draw(self) -> float:
        """The number that decides the next token."""
        return float(self._draws.random())

    def score(self, logprobs: list[float], top: list[dict[int, float] | None]) -> None:
        """The next tokens of the prompt, as the model sees them."""
        before = self.prompt or PromptScores([None], [None])
        self.prompt = PromptScores(before.logprobs + logprobs, before.top + top)

    def take(self, picked: Picked) -> None:
        """The next token: tell what it makes certain, and end where it ends the call."""
        if picked.token in self._stops:
            self._sentinel = Sentinel(picked.token, picked.logprob, picked.top)
            return self.end("stop")
        self.counts[picked.token] += 1
        self._new.append(picked)
        text = self._text.add(picked.token)
        if self._text.stopped:
            return self.end("stop", text)
        if self.counts.total() >= self._room or self._late():
            return self.end("length", text)
        if text:
            self._say(self._piece(text))
        return None

    def end(self, reason: Finish, text: str = "") -> None:
        """Tell the last piece."""
        if reason != "stop" or not self._text.stopped:
            text += self._text.end()
        self.done = True
        self._say(self._piece(text, "stop" if self._text.stopped else reason))

    def fail(self, error: Exception) -> None:
        """Tell what went wrong, as the last there is to tell."""
        self.done = True
        self._say(error)

    def _late(self) -> bool:
        if self.sampling.seconds is None:
            return False
        now = time.monotonic()
        self._deadline = self._deadline or now + self.sampling.seconds
        return now >= self._deadline

    def _piece(self, text: str, reason: Finish | None = None) -> Piece:
        new, self._new = self._new, []
        first, self._first = self._first, False
        return Piece(
            text=text,
            tokens=[p.token for p in new],
            logprobs=[p.logprob for p in new],
            top=[p.top for p in new if p.top is not None],
            finish_reason=reason,
            prompt=self.prompt if first else None,
            cached_tokens=self.cached_tokens if first else 0,
            sentinel=self._sentinel,
        )

    def _say(self, what: Piece | Exception) -> None:
        """A caller that fails on what it is told is not told more, and harms nobody else."""
        try:
            self._tell(what)
        except Exception:
            log.exception("a caller failed on a piece")
            self.done = True
