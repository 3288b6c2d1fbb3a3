"""Which sample of a seed a completion draws from.

"request": sample i is the request's i-th choice, so the same request has the same answer.
"sequence": sample i is the i-th with this prompt and seed since the start, so that a harness which
sends one constant seed still gets different samples. Ours. Knows nothing of engines.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

Scope = Literal["request", "sequence"]
KEPT = 100_000
"""Prompts whose count is remembered, the latest ones (ours: some 20 MB)."""


class Numbering:
    """Counts the samples of each model, prompt and seed; one event loop's."""

    def __init__(self, kept: int = KEPT) -> None:
        self._counts: OrderedDict[tuple[str, bytes, int], int] = OrderedDict()
        self._kept = kept

    def samples(
        self, model: str, prompts: Sequence[Sequence[int]], n: int, seed: int | None, scope: Scope
    ) -> list[int]:
        """The samples of `n` completions of each prompt, prompt by prompt."""
        if scope == "request" or seed is None:
            return list(range(len(prompts) * n))
        return [i for ids in prompts for i in self._next(model, ids, n, seed)]

    def _next(self, model: str, ids: Sequence[int], n: int, seed: int) -> range:
        key = model, blake2b(array("q", ids).tobytes(), digest_size=16).digest(), seed
        first = self._counts.pop(key, 0)
        self._counts[key] = first + n
        if len(self._counts) > self._kept:
            self._counts.popitem(last=False)
        return range(first, first + n)
