"""Summed cross-entropy of a linear layer's logits, some rows at a time: all logits never exist.

The gradient is taken in the forward pass, the weight's summed up in float32 (ours, after torchtitan's
chunked loss; a sum in bfloat16 hurts, Liger issue 512). torch only; knows nothing of models.
"""

from functools import cache
from typing import Any

import torch

from pipeline.model.bits import IGNORED
from pipeline.model.products import rows_by_matrix

LOGITS = {"cpu": 1 << 25, "cuda": 1 << 28}
"""Logits at a time, by device (ours: 1,048 rows of 32,000 take two CPU cores no longer than all at
once, 128 rows a sixth more; on a GPU 1 GB in float32)."""


def summed(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """hidden (N, D), weight (V, D), bias (V), targets (N) -> scalar in nats, at least float32.

    Rows whose target is IGNORED count for nothing. Computes in autocast's type where that is on.
    """
    total: torch.Tensor = _Summed.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, torch.is_grad_enabled()
    )
    return total


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        wanted: bool,
    ) -> torch.Tensor:
        device = hidden.device.type
        low = (
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        )
        with torch.autocast(device, enabled=False):
            total, grads = _walk(hidden, weight, bias, targets, low, wanted)
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found = [None if x is None else x.mul_(grads[0]) for x in ctx.saved_tensors]
        return (*found, None, None)


def _walk(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    low: torch.dtype,
    wanted: bool,
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """The loss and, where wanted, its gradients by hidden, weight and bias; products in `low`."""
    full = torch.promote_types(weight.dtype, torch.float32)
    total = torch.zeros((), dtype=full, device=hidden.device)
    by_hidden = torch.empty_like(hidden) if wanted else None
    by_weight = torch.zeros_like(weight, dtype=full) if wanted else None
    by_bias = torch.zeros_like(bias, dtype=full) if wanted and bias is not None else None
    matrix, pull = weight.to(low), _pull(hidden.device.type)
    most = max(1, LOGITS.get(hidden.device.type, LOGITS["cuda"]) // len(weight))
    size = -(-len(hidden) // -(-len(hidden) // most))  # equal chunks, as far as they go
    for start in range(0, len(hidden), size):
        here = slice(start, start + size)
        x, kept = hidden[here].to(low), targets[here] != IGNORED
        logits = rows_by_matrix(x, matrix)
        loss, slope = pull(logits if bias is None else logits + bias.to(low), targets[here], full)
        total += loss
        if by_hidden is not None and by_weight is not None:
            by_hidden[here] = rows_by_matrix(slope, matrix.t()) * kept[:, None]
            _add_outer(by_weight, slope, x * kept[:, None])
        if by_bias is not None:
            by_bias += (slope * kept[:, None]).sum(0, dtype=full)
    grads = [by_hidden, by_weight, by_bias]
    return total, [
        None if x is None else x.to(weight.dtype) if i else x for i, x in enumerate(grads)
    ]


@cache
def _pull(device: str) -> Any:
    return _slope if device == "cpu" else torch.compile(_slope, dynamic=False)


def _slope(
    logits: torch.Tensor, targets: torch.Tensor, full: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows' summed loss, and by each row's logits its gradient, ignored rows' included."""
    kept, at = targets != IGNORED, targets.clamp_min(0)[:, None]
    log_p = torch.log_softmax(logits, 1, dtype=full)
    loss = -(log_p.gather(1, at)[:, 0] * kept).sum()
    slope = log_p.exp_().scatter_add_(1, at, log_p.new_full(at.shape, -1.0))
    return loss, slope.to(logits.dtype)


def _add_outer(total: torch.Tensor, slope: torch.Tensor, x: torch.Tensor) -> None:
    """total (V, D) += slope (N, V) by x (N, D), each product summed in the type of `total`."""
    if x.dtype == total.dtype:
        total.addmm_(slope.t(), x)
    elif x.device.type == "cuda":
        total += torch.mm(slope.t(), x, out_dtype=total.dtype)
    else:  # the CPU's bfloat16 products come in no other type
        total += slope.t() @ x
