"""Who writes in which slot, and what a slot still knows of the text before: prompts that begin alike are
read once.

Editors send nearly the same prompt at each keystroke, and `n` completions have one prompt. Decides
places alone; the keys and values are `store`'s. Knows nothing of models or threads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from pipeline.model.calls import Running

LEAST = 16
"""Fewer equal tokens than this are not worth a copy (ours)."""


@dataclass
class Slot:
    """`tokens` are those whose keys and values it holds; `ids` all of its call's, which has yet to
    end; `used` grows with each use."""

    number: int
    tokens: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    call: Running | None = None
    used: int = 0


class Slots:
    """`size` slots. copy(source, to, places): has a slot begin as another does."""

    def __init__(self, size: int, copy: Callable[[int, int, int], None]) -> None:
        self.all = [Slot(i) for i in range(size)]
        self._copy, self._clock = copy, count(1)

    @property
    def active(self) -> list[Slot]:
        """Slots with a call, the longest there first."""
        return sorted((s for s in self.all if s.call), key=lambda s: s.used)

    def take(self, call: Running) -> Slot | None:
        """A slot for a call, holding as much of its prompt as any slot does, but never all of it.

        None while there is no free one, or while a slot is about to read what the call needs too.
        """
        free = [s for s in self.all if not s.call]
        if not free:
            return None
        known, best = 0, free[0]
        if not call.sampling.prompt_logprobs:  # those need the logits of every place
            known, best = max(
                ((common(s.tokens, call.ids), s) for s in self.all), key=lambda found: found[0]
            )
            soon = max((common(s.ids, call.ids) for s in self.all if s.call), default=0)
            if soon >= known + LEAST:
                return None
        known = min(known, len(call.ids) - 1) if known >= LEAST else 0
        slot = self._room(free, best, known)
        if known and slot is not best:
            slot.tokens = []  # a copy that fails leaves a part of both
            self._copy(best.number, slot.number, known)
        slot.tokens, slot.ids, slot.call = call.ids[:known], list(call.ids), call
        slot.used, call.cached_tokens = next(self._clock), known
        return slot

    def leave(self, slot: Slot) -> None:
        """The call of a slot has ended; its tokens stay known."""
        slot.call, slot.ids = None, []
        slot.used = next(self._clock)

    def _room(self, free: Sequence[Slot], best: Slot, known: int) -> Slot:
        """The slot to write in: the one that knows most, unless more of it would be lost than kept."""
        if best in free and 2 * known >= len(best.tokens):
            return best
        return min(free, key=lambda s: s.used)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    if a[:LEAST] != b[:LEAST]:
        return 0
    return next(
        (k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
