"""Makes a loaded model cheaper to run on a CPU: no work that a classifier's head never looks at,
weights laid out beforehand, products in 8 bits.

`first_only` and `packed` give the same values up to rounding; `eight_bit` nearly (dynamic
quantisation: weights per output channel, activations per call). Knows nothing of windows, batches
or files.
"""

import warnings
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import BertForSequenceClassification

_ENGINES = ("x86", "fbgemm", "onednn", "qnnpack")
"""torch's engines for 8-bit products, best first (ours: a window of a BERT-base took 0.21, 0.20 and
0.23 s on two cores, with a third of the error by the first two; qnnpack is Arm's)."""
_ROWS = 512
"""Rows of the products that weights are laid out for: a full window (ours)."""


def first_only(model: Any) -> Any:
    """`model`, its last layer giving the first place alone: all that a BERT classifier's head reads.

    Exact, and a twelfth of a BERT-base's work less. A model that is no BERT stays as it is.
    """
    if isinstance(model, BertForSequenceClassification):
        last = model.bert.encoder.layer[-1]
        last.forward = MethodType(_first_place, last)
    return model


def _first_place(
    layer: Any, hidden: torch.Tensor, mask: torch.Tensor | None = None, *_: Any, **__: Any
) -> torch.Tensor:
    """A BERT layer's forward, (B, T, H) -> (B, 1, H): keys and values are of every place, all
    behind them of one."""
    mine, first = layer.attention.self, hidden[:, :1]
    q, k, v = (
        part(x).view(len(x), x.shape[1], -1, mine.attention_head_size).transpose(1, 2)
        for part, x in ((mine.query, first), (mine.key, hidden), (mine.value, hidden))
    )
    seen = None if mask is None else mask[:, :, :1]
    found = functional.scaled_dot_product_attention(q, k, v, seen)
    out = layer.attention.output(found.transpose(1, 2).flatten(2), first)
    done: torch.Tensor = layer.feed_forward_chunk(out)
    return done


class Packed(nn.Module):
    """A linear map whose weights lie as oneDNN reads them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weights = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weights, self.bias, "none", [], ""
        )
        return out


def packed(model: Any, whole: bool = False) -> Any:
    """`model`, its layers (or the `whole` of it) multiplying through oneDNN with weights laid out once.

    A full window of a BERT-base: 0.45 s of two cores instead of 0.57; eight rows by a matrix of
    4096 x 768: 0.6 ms instead of 1.4. Where torch has no oneDNN the model stays as it is.
    """
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        for name, linear in _linears(model, whole).items():
            model.set_submodule(name, Packed(linear))
    return model


def eight_bit(model: Any, whole: bool = False) -> Any:
    """`model`, whose layers (or the `whole` of it) multiply in 8 bits on the CPU; embeddings do not.

    Sets torch's engine for the whole process. ValueError where this torch has none.
    """
    engine = next((e for e in _ENGINES if e in torch.backends.quantized.supported_engines), None)
    if engine is None:
        raise ValueError(
            "precision int8: this machine's torch has no engine for 8-bit products; "
            "use precision: exact"
        )
    torch.backends.quantized.engine = engine
    for name, linear in _linears(model, whole).items():
        model.set_submodule(name, EightBit(linear))
    return model


class EightBit(nn.Module):
    """A linear map with weights of 8 bits an output channel, and activations of 8 bits a call.

    Activations have 7 bits where the CPU's sums of 8-bit products could overflow: with 8 they are
    half as far off (a MiniLM's windows by 0.012 instead of 0.021 on average).
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = (weight.abs().amax(1) / 127).double().clamp_min(1e-12)
        zero = torch.zeros(len(scale), dtype=torch.long)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # quantised tensors are to leave torch after 2.13
            small = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
        bias = None if linear.bias is None else linear.bias.detach()
        self.weights = torch.ops.quantized.linear_prepack(small, bias)
        self.seven = not torch.cpu._is_vnni_supported()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.quantized.linear_dynamic(x, self.weights, self.seven)
        return out


def _linears(model: Any, whole: bool) -> dict[str, nn.Linear]:
    """The linear maps by name: all, or those in an encoder's layers, not its pooler, not the head."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (whole or ".layer" in name)
    }
