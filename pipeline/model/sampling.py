"""Draws the next token of every row from logits and one uniform number a row.

Temperature, then the `top_k` likeliest, then the smallest set of at least `top_p` of what is left:
the order of transformers and vLLM. Knows nothing of models, prompts or seeds.
"""

import numpy as np
import torch

_HEAD = 256
"""Nucleus sampling looks at this many of the likeliest tokens before it sorts them all (ours)."""


def pick(
    logits: torch.Tensor, uniform: np.ndarray, temperature: float, top_k: int, top_p: float
) -> list[tuple[int, float]]:
    """(token, natural log-probability under `logits` as they are) for each row of (rows, V).

    `uniform` (rows,) is in [0, 1); `temperature` 0 takes the likeliest; `top_k` 0 keeps all.
    """
    logprobs = logits.log_softmax(-1)
    if temperature == 0:
        chosen = logits.argmax(-1, keepdim=True)
    else:
        probs = (logits.double() / temperature).softmax(-1)
        chosen = _draw(*_candidates(probs, top_k, top_p), torch.from_numpy(uniform))
    return list(zip(chosen[:, 0].tolist(), logprobs.gather(-1, chosen)[:, 0].tolist(), strict=True))


def _candidates(
    probs: torch.Tensor, top_k: int, top_p: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weights (rows, C) and token ids, likeliest first; (probs, None) when nothing is cut off."""
    size = probs.shape[-1]
    if top_k == 0 and top_p == 1:
        return probs, None
    weights, tokens = probs.topk(min(top_k or _HEAD, size))
    if top_k == 0 and float(weights.sum(-1).min()) < top_p:
        weights, tokens = probs.topk(size)
    within = weights.sum(-1, keepdim=True) if top_k else 1.0
    before = weights.cumsum(-1) - weights
    return weights * (before < top_p * within), tokens


def _draw(
    weights: torch.Tensor, tokens: torch.Tensor | None, uniform: torch.Tensor
) -> torch.Tensor:
    """One token id a row (rows, 1): where `uniform` falls in the cumulated weights."""
    cumulated = weights.cumsum(-1)
    level = uniform.to(weights.device)[:, None] * cumulated[:, -1:]
    # right=True: a draw of exactly 0 must not take a token of weight 0.
    place = torch.searchsorted(cumulated, level, right=True).clamp(max=weights.shape[-1] - 1)
    return place if tokens is None else tokens.gather(-1, place)
