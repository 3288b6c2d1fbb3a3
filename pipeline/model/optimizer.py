"""AdamW and the norm of a gradient, for models whose weights may be stored at another scale (muP).

Sources: Llama 2 2307.09288 §2.2, Crystal 2411.04156; storing scaled weights is ours. torch only.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from pipeline.model.architectures import Scale
from pipeline.model.settings import FitConfig

PLAIN: Mapping[str, Scale] = {}


def adamw(
    model: nn.Module, cfg: FitConfig, scales: Mapping[str, Scale] = PLAIN
) -> torch.optim.AdamW:
    """Fused AdamW; matrices decay, vectors (norms, biases) do not.

    A weight stored c times as large takes steps c times as large and gets gradients 1 / c of the
    paper's: its group's rate, decay and epsilon make it move as the paper's would (muP, ours).
    """
    groups: dict[tuple[bool, Scale], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            scale = scales.get(name, Scale())._replace(init=None)
            groups.setdefault((weight.ndim > 1, scale), []).append(weight)
    settings: list[dict[str, Any]] = [
        {
            "params": weights,
            "weight_decay": cfg.weight_decay / scale.stored if decays else 0.0,
            "eps": cfg.eps / scale.stored,
            "scale": scale,
        }
        for (decays, scale), weights in groups.items()
    ]
    return torch.optim.AdamW(settings, betas=cfg.betas, eps=cfg.eps, fused=True)


def clip(optimizer: torch.optim.Optimizer, most: float) -> torch.Tensor:
    """Scale all gradients so that their norm is at most `most`; the norm they had, of the paper's
    values."""
    pairs = [(p, g["scale"].stored) for g in optimizer.param_groups for p in g["params"]]
    given = [(p, p.grad, stored) for p, stored in pairs if p.grad is not None]
    norm = nn.utils.get_total_norm([g if c == 1 else g * c for _, g, c in given])
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    nn.utils.clip_grads_with_norm_([p for p, _, _ in given], most, norm)
    return norm
