"""A model folder as a function of packed tokens, in transformers alone: `Network.run`.

Any causal language model whose attention is plain: keys and values of all places, in transformers'
own attention interface. Sliding windows shorten the context; state that is recurrent is refused. Whether a
model is one of these is tried out when it is loaded. Knows nothing of requests, sampling or threads.
"""

import inspect
import logging
import os
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils.logging import disable_progress_bar

from pipeline.model import lighter
from pipeline.model.store import ATTENTION, Part, Plan, Store

log = logging.getLogger(__name__)
SHARE = 0.5
"""Of the memory there is, keys and values may take so much (ours)."""
_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""What a container may use (cgroup v2)."""


class Network:
    """`model` on `device`; `context` the most places of a text, `size` the vocabulary's."""

    def __init__(
        self, folder: str | Path, device: str, precision: Literal["exact", "int8"]
    ) -> None:
        path = Path(folder)
        if not (path / "config.json").is_file():
            raise ValueError(f"{path} is no model folder: no config.json")
        self.device = torch.device(device)
        on_cpu = self.device.type == "cpu"
        if precision == "int8" and not on_cpu:
            raise ValueError(f"precision int8 is for a CPU, not for {device}; use precision exact")
        disable_progress_bar()
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32 if on_cpu else torch.bfloat16,
        )
        self.model.to(self.device).eval()
        self.config = self.model.config.get_text_config()
        self.context, self.size = _context(self.config), int(self.config.vocab_size)
        accepts = inspect.signature(self.model.forward).parameters
        self._keeps = "logits_to_keep" in accepts
        self._place_bytes = self._try()
        if on_cpu:
            (lighter.eight_bit if precision == "int8" else lighter.packed)(self.model, whole=True)

    def store(self, slots: int, places: int) -> Store:
        """Room for `slots` texts of `places` tokens; fewer where the memory is too small for them."""
        most = int(SHARE * _memory(self.device)) // max(self._place_bytes * places, 1)
        if most < slots:
            log.warning("memory for %d texts of %d tokens at a time, not %d", most, places, slots)
        return Store(self.config, max(1, min(slots, most)), places)

    @torch.inference_mode()
    def run(self, store: Store, parts: list[Part]) -> torch.Tensor:
        """float32 logits (tokens kept, V) after these new tokens, which `store` then holds too."""
        plan = store.plan = Plan(parts, self.device)
        kept = plan.kept()
        more = {"past_key_values": store, "use_cache": True}
        if not len(kept):
            self.model.base_model(**plan.inputs(), **more)
            return torch.empty(0, self.size)
        if self._keeps:
            logits = self.model(**plan.inputs(), **more, logits_to_keep=kept).logits[0]
        else:
            logits = self.model(**plan.inputs(), **more).logits[0, kept]
        out: torch.Tensor = logits.float()
        return out

    @torch.inference_mode()
    def _try(self) -> int:
        """Bytes of a place, after a trial: ValueError unless packed tokens of two texts, in pieces, give
        what the model says to each of them alone."""
        ids = [i % self.size for i in range(7, 15)]
        want = self.model(input_ids=torch.tensor([ids], device=self.device)).logits[0, -1].float()
        store = Store(self.config, 2, len(ids))
        try:
            self.model.set_attn_implementation(ATTENTION)
            self.run(store, [Part(0, 0, ids[:5], 0), Part(1, 0, ids[:7], 1)])
            got = self.run(store, [Part(1, 7, ids[7:]), Part(0, 5, ids[5:])])
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as e:
            raise ValueError(f"{_name(self.config)} cannot be batched here: {e}") from e
        far = float((got - want).abs().max() / want.abs().max().clamp_min(1e-6))
        if not far < _FAR[want.dtype if self.device.type == "cpu" else torch.bfloat16]:
            raise ValueError(
                f"{_name(self.config)} cannot be batched here: its answers are off by {far:.2g}"
            )
        return store.place_bytes


_FAR = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""How far the trial's logits may be off, as a share of the largest (ours: rounding alone is 1e-6)."""


def _context(config: Any) -> int:
    """The most places of a text that the model sees whole. ValueError where its state is recurrent,
    or where its positions depend on a text's length."""
    rotary = getattr(config, "rope_parameters", None) or {}
    if rotary.get("rope_type") in ("dynamic", "longrope"):
        raise ValueError(f"{_name(config)} has positions that change with a text's length")
    layers = DynamicCache(config=config).layers
    sliding = [int(x.sliding_window) for x in layers if getattr(x, "is_sliding", False)]
    for layer in layers:
        if not hasattr(layer, "get_mask_sizes") or hasattr(layer, "update_recurrent_state"):
            raise ValueError(f"{_name(config)} has layers with a state of their own")
    most = getattr(config, "max_position_embeddings", None)
    if most is None:
        raise ValueError(f"{_name(config)} does not say how long a text may be")
    return min([int(most), *sliding])


def _name(config: Any) -> str:
    return f"a model of type {config.model_type!r}"


def _memory(device: torch.device) -> int:
    """Bytes of memory that there are: free ones of a GPU, the machine's or the container's of a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limit = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole if limit == "max" else min(whole, int(limit))
