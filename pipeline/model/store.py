"""Keys and values of several texts at once, a slot each, and attention of packed tokens over them.

The tokens of a step lie one after the other in a batch of one, whatever text they belong to: no padding
in any product, and a prompt is read beside rows that are being written. Knows nothing of requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import AttentionInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "icefloe"
"""The name of `attend` among transformers' attention functions."""


class Part(NamedTuple):
    """New tokens of one text: places `start` onwards of a slot that holds what is before them.

    keep: of how many of the last ones logits are wanted.
    """

    slot: int
    start: int
    ids: Sequence[int]
    keep: int = 1


@dataclass(frozen=True)
class Plan:
    """The parts of a step and where they lie among its tokens."""

    parts: Sequence[Part]
    device: torch.device
    masks: dict[tuple[int, int, int], torch.Tensor] = field(default_factory=dict)

    @cached_property
    def starts(self) -> list[int]:
        """The first token of each part among the step's."""
        return [0, *accumulate(len(p.ids) for p in self.parts)][:-1]

    @cached_property
    def long(self) -> list[tuple[int, Part]]:
        """Parts of several tokens, each after its first token's number."""
        return [(at, p) for at, p in zip(self.starts, self.parts, strict=True) if len(p.ids) > 1]

    @cached_property
    def single(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """Parts of one token: their slots, places and numbers."""
        found = [
            (p.slot, p.start, at)
            for at, p in zip(self.starts, self.parts, strict=True)
            if len(p.ids) == 1
        ]
        if not found:
            return None
        slots, places, numbers = torch.tensor(found, device=self.device).unbind(1)
        return slots, places, numbers

    def inputs(self) -> dict[str, torch.Tensor]:
        """Token ids and positions, (1, N) each."""
        ids = [i for p in self.parts for i in p.ids]
        places = [k for p in self.parts for k in range(p.start, p.start + len(p.ids))]
        both = torch.tensor([ids, places], device=self.device)
        return {"input_ids": both[:1], "position_ids": both[1:]}

    def kept(self) -> torch.Tensor:
        """The numbers of the tokens whose logits are wanted."""
        ends = [at + len(p.ids) for at, p in zip(self.starts, self.parts, strict=True)]
        found = [k for e, p in zip(ends, self.parts, strict=True) for k in range(e - p.keep, e)]
        return torch.tensor(found, device=self.device)

    def mask(self, part: Part, heads: int, dtype: torch.dtype) -> torch.Tensor | None:
        """What each of a part's tokens sees, once for each of `heads` that share keys:
        (heads x tokens, places); None for all."""
        size, start = len(part.ids), part.start
        if size == 1:
            return None
        if (heads, size, start) not in self.masks:
            hidden = torch.ones(size, start + size, dtype=torch.bool, device=self.device)
            hidden = hidden.triu(start + 1)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=self.device)
            made = mask.masked_fill(hidden, float("-inf")).repeat(heads, 1)
            self.masks[heads, size, start] = made
        return self.masks[heads, size, start]


class Store(DynamicCache):  # type: ignore[misc]
    """The keys and values of `slots` texts of up to `places` tokens, for a model of `config`.

    Memory is touched as it is written to, on a CPU. `plan` says where the next tokens go.
    """

    def __init__(self, config: Any, slots: int, places: int) -> None:
        super().__init__(config=config)
        self.slots, self.places = slots, places
        self.held: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.plan = Plan((), torch.device("cpu"))

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write keys and values (1, heads, N, D) where the plan says; all there is of the layer, the
        keys with the plan on them: not every model hands other arguments on to its attention."""
        if layer not in self.held:
            self.held[layer] = self._empty(keys), self._empty(values)
        held = self.held[layer]
        for new, all_ in zip((keys[0], values[0]), held, strict=True):
            if self.plan.single:
                slots, places, numbers = self.plan.single
                mine = new[:, numbers] if self.plan.long else new
                all_[slots, :, places] = mine.transpose(0, 1)
            for at, (slot, start, ids, _keep) in self.plan.long:
                all_[slot, :, start : start + len(ids)] = new[:, at : at + len(ids)]
        held[0].plan = self.plan  # type: ignore[attr-defined]
        return held

    @torch.inference_mode()
    def copy(self, source: int, to: int, places: int) -> None:
        """Have the slot `to` begin as `source` does."""
        for held in self.held.values():
            for part in held:
                part[to, :, :places] = part[source, :, :places]

    @property
    def place_bytes(self) -> int:
        """Bytes of one place of one slot."""
        parts = (part for held in self.held.values() for part in held)
        return sum(p.element_size() * p.shape[1] * p.shape[3] for p in parts)

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        # Zeros: what is masked still meets a weight of 0, and 0 x NaN is NaN.
        return like.new_zeros(self.slots, like.shape[1], self.places, like.shape[3])


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Packed queries (1, heads, N, D) over a store's keys and values of one layer -> (1, N, heads, D).

    Keys without a plan are an ordinary call's. Heads that share keys go through as if they were more
    tokens, which needs no copy of the keys. ValueError for attention that is more than a softmax.
    """
    plan: Plan | None = getattr(key, "plan", None)
    if plan is None:
        found: tuple[torch.Tensor, torch.Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return found
    if odd := [k for k in _MORE if more.get(k) is not None]:
        raise ValueError(f"attention with {odd[0]}")
    heads, shared = query.shape[1], key.shape[1]
    out = []
    for at, part in zip(plan.starts, plan.parts, strict=True):
        slot, start, size = part.slot, part.start, len(part.ids)
        seen = slice(slot, slot + 1), slice(None), slice(0, start + size)
        mine = query[:, :, at : at + size].reshape(1, shared, -1, query.shape[3])
        mask = plan.mask(part, heads // shared, query.dtype)
        done = functional.scaled_dot_product_attention(
            mine, key[seen], value[seen], attn_mask=mask, scale=scaling
        )
        out.append(done.view(1, heads, size, -1).transpose(1, 2))
    return torch.cat(out, 1), None


_MORE = ("softcap", "position_bias", "s_aux")
"""What transformers' attention functions may be asked beside a softmax over the keys."""

AttentionInterface.register(ATTENTION, attend)
