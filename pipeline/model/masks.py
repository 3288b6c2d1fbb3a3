"""Attention that stays inside documents: no place sees another's, positions restart in each.

Dense masks work everywhere; on a GPU FlexAttention skips the blocks between documents, for models
without attention dropout, which it cannot do, that transformers has it for (not Crystal's). A CPU's
has no backward pass. torch only; knows nothing of packing.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipeline.model.bits import IGNORED

log = logging.getLogger(__name__)

FLEX = "flex_attention"


def inside(documents: torch.Tensor, model: Any) -> dict[str, Any]:
    """documents (B, T), the number of the document at each place -> `attention_mask` and
    `position_ids` of a transformers model. Padding counts as one more document."""
    if model.config._attn_implementation == FLEX:
        return {"attention_mask": _blocks(documents), "position_ids": positions(documents)}
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return {"attention_mask": same.tril(), "position_ids": positions(documents)}


def positions(documents: torch.Tensor) -> torch.Tensor:
    """Places since each document's first one, int64 (B, T)."""
    at = torch.arange(documents.shape[1], device=documents.device)
    return at - torch.where(_first(documents), at, 0).cummax(1).values


def spared(labels: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """labels (B, T) with IGNORED at each document's first place: no document foretells the next."""
    return labels.masked_fill(_first(documents), IGNORED)


@contextmanager
def flexible(model: Any, wanted: bool) -> Iterator[None]:
    """Have `model` use FlexAttention where that is wanted and the model can; else dense masks stay."""
    before = model.config._attn_implementation
    if not (wanted and _flexes(model)):
        yield
        return
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _flexes(model: Any) -> bool:
    """Set the model to FlexAttention; False where it drops attention out or has no such way."""
    if getattr(model.config, "attention_dropout", 0):
        return False
    try:
        model.set_attn_implementation(FLEX)
    except ValueError as e:
        log.info("%s keeps dense masks: %s", type(model).__name__, str(e).split(". ")[0])
        return False
    return True


def _first(documents: torch.Tensor) -> torch.Tensor:
    """Whether each place is its document's first; bool (B, T)."""
    before = torch.nn.functional.pad(documents[:, :-1], (1, 0), value=-2)
    return documents != before


def _blocks(documents: torch.Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def allowed(b: Any, h: Any, q: Any, k: Any) -> Any:
        return (q >= k) & (documents[b, q] == documents[b, k])

    rows, length = documents.shape
    return create_block_mask(allowed, rows, None, length, length, device=str(documents.device))
