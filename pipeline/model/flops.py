"""Floating-point operations of a training token, and the share of a machine's peak they make.

Two conventions: attention over the whole square (PaLM 2204.02311 appendix B, as torchtitan, nanochat
and llm-foundry count) and over the causal half that is computed. Knows nothing of steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

PEAKS = {
    "H200": 989.5e12,
    "GH200": 989.5e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.5e12,
    "A100": 312e12,
}
"""Dense bfloat16 operations a second by a part of the GPU's name, the first that fits (NVIDIA's data
sheets, half of what they state for sparse matrices)."""


class PerToken(NamedTuple):
    """Operations for a token's forward and backward pass, by convention."""

    full: float
    causal: float


def per_token(model: Any, length: int) -> PerToken:
    """Of a transformers causal language model at sequences of `length`; recomputing does not count.

    Six for each weight that multiplies (no norms, biases or look-ups; a tied head once), and the two
    products of attention: 12 a layer for each channel of the heads and place.
    """
    cfg = model.config
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings().weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in tables]
    dense = 6 * (sum(p.numel() for p in matrices) + (head.numel() if id(head) in tables else 0))
    width = getattr(cfg, "head_dim", None) or cfg.hidden_size // cfg.num_attention_heads
    attention = 12 * cfg.num_hidden_layers * cfg.num_attention_heads * width * length
    return PerToken(dense + attention, dense + attention / 2)


def peak(device: torch.device) -> float | None:
    """Operations a second in bfloat16; None for a CPU or a GPU that is not in PEAKS."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((value for part, value in PEAKS.items() if part in name), None)


Utilisation = Callable[[float], dict[str, float]]
"""Tokens a second -> mfu_full and mfu_causal, or nothing where the peak is not known."""


def utilisation(model: Any, length: int, device: torch.device, devices: int = 1) -> Utilisation:
    """The model's flop utilisation on `devices` of these, for lines of metrics."""
    most = peak(device)
    if most is None:
        return lambda rate: {}
    full, causal = (x / (most * devices) for x in per_token(model, length))
    return lambda rate: {"mfu_full": round(rate * full, 4), "mfu_causal": round(rate * causal, 4)}
