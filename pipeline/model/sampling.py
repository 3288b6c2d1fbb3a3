"""Draws the next token of every row, each by its own settings, from logits and a number a row.

Bias and penalties, temperature, then the `top_k` likeliest, then the smallest set of at least `top_p` of
what is left, then `min_p`: the order of transformers. A row's token does not depend on the other
rows. Knows nothing of models, prompts or seeds.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from pipeline.model.engine import Sampling

_HEAD = 256
"""Cut distributions look at this many of the likeliest tokens before they sort them all (ours)."""


class Picked(NamedTuple):
    """A token, its natural log-probability under the logits as they were, and the likeliest
    alternatives where asked for."""

    token: int
    logprob: float
    top: dict[int, float] | None


def pick(
    logits: torch.Tensor,
    settings: Sequence[Sampling],
    counts: Sequence[Mapping[int, int]],
    uniform: Sequence[float],
) -> list[Picked]:
    """The next token of each row of float32 `logits` (rows, V).

    counts: how often each row generated which token. uniform: in [0, 1), unused by greedy rows.
    """
    logprobs = logits.log_softmax(-1)
    adjusted = _adjusted(logits, settings, counts)
    chosen = adjusted.argmax(-1)
    if warm := [r for r, s in enumerate(settings) if s.temperature > 0]:
        rows = torch.tensor(warm, device=logits.device)
        mine = [settings[r] for r in warm]
        chosen[rows] = _drawn(adjusted[rows], mine, [uniform[r] for r in warm])
    scores = logprobs.gather(-1, chosen[:, None])[:, 0].tolist()
    tops = likeliest(logprobs, [s.top_logprobs for s in settings])
    return list(map(Picked, chosen.tolist(), scores, tops))


def likeliest(
    logprobs: torch.Tensor, wanted: Sequence[int | None]
) -> list[dict[int, float] | None]:
    """Of each row of (rows, V) the `wanted` likeliest tokens, likeliest first; None where None."""
    most = max((k or 0 for k in wanted), default=0)
    if not most:
        return [None if k is None else {} for k in wanted]
    values, tokens = (t.tolist() for t in logprobs.topk(min(most, logprobs.shape[-1])))
    return [
        None if k is None else dict(zip(tokens[r][:k], values[r][:k], strict=True))
        for r, k in enumerate(wanted)
    ]


def _adjusted(
    logits: torch.Tensor, settings: Sequence[Sampling], counts: Sequence[Mapping[int, int]]
) -> torch.Tensor:
    """`logits` with each row's bias and penalties."""
    changes = [
        (row, token, change)
        for row, (s, seen) in enumerate(zip(settings, counts, strict=True))
        for token, change in _changes(s, seen)
    ]
    if not changes:
        return logits
    rows, tokens, values = (
        torch.tensor(c, device=logits.device) for c in zip(*changes, strict=True)
    )
    return logits.index_put((rows, tokens), values.to(logits.dtype), accumulate=True)


def _changes(s: Sampling, seen: Mapping[int, int]) -> list[tuple[int, float]]:
    changes = [(t, float(b)) for t, b in s.logit_bias.items()]
    if s.presence_penalty or s.frequency_penalty:
        changes += [(t, -s.presence_penalty - n * s.frequency_penalty) for t, n in seen.items()]
    return changes


def _drawn(
    logits: torch.Tensor, settings: Sequence[Sampling], uniform: Sequence[float]
) -> torch.Tensor:
    """One token id a row (rows,): where `uniform` falls in the cumulated probabilities."""
    heat = logits.new_tensor([s.temperature for s in settings], dtype=torch.double)
    # From the likeliest down: next to no heat takes the others to minus infinity, and none to NaN.
    below = logits.double() - logits.max(-1, keepdim=True).values.double()
    probs = (below / heat[:, None]).softmax(-1)
    level = heat.new_tensor(uniform)[:, None]
    out = torch.empty(len(settings), dtype=torch.long, device=logits.device)
    whole = np.array([s.top_k == 0 and s.top_p == 1 and s.min_p == 0 for s in settings])
    for cut in (False, True):
        rows = torch.from_numpy(np.flatnonzero(whole != cut)).to(logits.device)
        if len(rows):
            mine = [settings[r] for r in rows.tolist()]
            weights, tokens = _kept(probs[rows], mine) if cut else (probs[rows], None)
            out[rows] = _at(weights, tokens, level[rows])
    return out


def _kept(probs: torch.Tensor, settings: Sequence[Sampling]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (rows, C), 0 where cut off, and token ids, likeliest first."""
    size = probs.shape[-1]
    k = probs.new_tensor([[min(s.top_k or size, size)] for s in settings])
    p = probs.new_tensor([[s.top_p] for s in settings])
    least = probs.new_tensor([[s.min_p] for s in settings])
    count = min(size, max(_HEAD, *(s.top_k for s in settings)))
    weights, tokens = probs.topk(count)
    # What lies behind the head is cut off anyway where one of the three rules ends within it.
    ends = (k <= count) | (weights.sum(-1, keepdim=True) >= p) & (p < 1)
    if not bool((ends | (weights[:, -1:] < least * weights[:, :1])).all()):
        weights, tokens = probs.topk(size)
    weights = weights * (torch.arange(weights.shape[-1], device=probs.device) < k)
    before = weights.cumsum(-1) - weights
    within = torch.where(k < size, weights.sum(-1, keepdim=True), 1.0)
    weights = weights * ((before < p * within) | (p == 1))
    return weights * (weights >= least * weights[:, :1]), tokens


def _at(weights: torch.Tensor, tokens: torch.Tensor | None, level: torch.Tensor) -> torch.Tensor:
    cumulated = weights.cumsum(-1)
    # right=True: a draw of exactly 0 must not take a token of weight 0.
    place = torch.searchsorted(cumulated, level * cumulated[:, -1:], right=True)
    place = place.clamp(max=weights.shape[-1] - 1)
    return (place if tokens is None else tokens.gather(-1, place))[:, 0]
