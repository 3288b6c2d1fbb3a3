"""Batched generation and log-probabilities from a model folder, in transformers alone.

The same engine serves requests, writes synthetic files and runs the code benchmarks. Left padding,
one KV cache per portion of prompts, equal prompts read once, finished rows leave the batch.
Decoding rules are ours; the infill layout is PSM, or CodeGen2's for a model that learnt that one alone.
Knows nothing of HTTP, Ray or benchmarks.
"""

import inspect
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import AutoModelForCausalLM, DynamicCache

from pipeline.core.schema import END, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, MASK, SEP, specials
from pipeline.model.sampling import pick

_LOGITS = 1 << 26
"""Most logits held at once when scoring text: 256 MiB of float32 (ours)."""
_MASKS = 1000
"""Mask sentinels that may be a tokenizer's (CodeGen2's has 899)."""

Event = tuple[int, int | None, float, Literal["stop", "length"] | None]
"""One step of one row: (row, token or None for a sentinel, its log-probability, why it ended)."""


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt; the defaults are those of OpenAI's completions. ValueError if off.

    `max_tokens` new tokens at most. `temperature` 0 is greedy. `top_p` and `top_k` (0 = all) keep
    the likeliest tokens. Text ends before the first of the `stop` strings. `seed` None draws one
    from the operating system.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        _require(self.max_tokens >= 0, f"max_tokens is {self.max_tokens}: 0 or more")
        _require(0 <= self.temperature < 1e6, f"temperature is {self.temperature}: 0 or more")
        _require(0 < self.top_p <= 1, f"top_p is {self.top_p}: above 0, at most 1")
        _require(self.top_k >= 0, f"top_k is {self.top_k}: 0 (all tokens) or more")
        _require(self.seed is None or self.seed >= 0, f"seed is {self.seed}: 0 or more")
        _require(all(self.stop), "stop has an empty string, which would stop everything")


@dataclass(frozen=True)
class Completion:
    """What one prompt was continued with.

    `text` has neither sentinels nor stop strings. `tokens` are all generated ids without the
    sentinel that ended them (so they may reach past `text` into a stop string); `logprobs`, one
    per token, are natural logarithms under the model itself, before temperature and truncation.
    """

    text: str
    tokens: list[int]
    finish_reason: Literal["stop", "length"]
    logprobs: list[float]
    prompt_tokens: int


def never() -> bool:
    """The `cancel` of a call that nobody cancels."""
    return False


class Engine:
    """One loaded model; calls from several threads must take turns.

    `info` is icefloe.json ({} if there is none), `context` the most tokens of prompt and
    completion together, `tokenizer` the folder's tokenizer.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int | None = None,
        device: str = "cpu",
        budget: int = 1 << 15,
    ) -> None:
        """Load `folder` (local, safetensors); float32 on a CPU, bfloat16 elsewhere.

        `threads` sets torch's count for the whole process. `budget` is the most cache places
        (rows x (prompt + new tokens)) decoded at once. ValueError if the folder is no model.
        """
        path = Path(folder)
        _require((path / "config.json").is_file(), f"{path} is no model folder: no config.json")
        if threads is not None:
            torch.set_num_threads(threads)
        self.device, self.budget = torch.device(device), budget
        self.tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._literal = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._literal.encode_special_tokens = True
        self.info: dict[str, Any] = _card(path / "icefloe.json")
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            path,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32 if self.device.type == "cpu" else torch.bfloat16,
        )
        self.model.to(self.device).eval()
        self.context = int(self.model.config.max_position_embeddings)
        self._stops = self._sentinels()
        accepts = inspect.signature(self.model.forward).parameters
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in accepts else {}

    def prompt(self, prefix: str, suffix: str | None = None) -> list[int]:
        """The ids to complete: `prefix` as it is, or the infill layout around the gap.

        Alone, `prefix` may name sentinels (editors send their own infill templates) and an empty
        one starts a new document; beside a suffix both are plain text. ValueError if the model
        was not trained to infill, or if no place is left for an answer.
        """
        if suffix is None:
            ids = self.tokenizer.encode(prefix, add_special_tokens=False).ids
            return self._fits(ids or [self._id(END)])
        _require(
            bool(self.info.get("infill")),
            f"model {self.info.get('model', '?')!r} was not trained to infill: send no suffix",
        )
        before, after = self._literal.encode_batch([prefix, suffix], add_special_tokens=False)
        if self.info.get("spans"):  # CodeGen2: <mask_1> for the gap, and asked for at the end
            end, ask, mask = map(self._id, (END, SEP, MASK))
            return self._fits([*before.ids, mask, *after.ids, end, ask, mask])
        head, gap, tail = map(self._id, (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE))
        return self._fits([head, *before.ids, gap, *after.ids, tail])

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        cancel: Callable[[], bool] = never,
    ) -> list[Completion]:
        """One completion per prompt, in order; prompt i draws from its own generator (seed, i).

        A greedy row does not depend on its batch mates (up to float rounding). Once `cancel()` is
        true, asked before each step, what there is comes back with finish_reason "length".
        """
        for ids in prompts:
            self._fits(ids)
        draws = _generators(sampling.seed, len(prompts))
        done: dict[int, Completion] = {}
        for rows in self._portions([len(p) for p in prompts], sampling.max_tokens):
            part = [prompts[r] for r in rows], [draws[r] for r in rows]
            done |= zip(rows, self._collect(*part, sampling, cancel), strict=True)
        return [done[i] for i in range(len(prompts))]

    def stream(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        cancel: Callable[[], bool] = never,
    ) -> Iterator[str]:
        """The text of `complete([prompt], sampling)` piece by piece.

        No piece ends within a character or within what may become a stop string.
        """
        self._fits(prompt)
        draws = _generators(sampling.seed, 1)
        tokens: list[int] = []
        sent = 0
        for _, token, _, reason in self._decode([prompt], draws, sampling, cancel):
            tokens += [] if token is None else [token]
            safe = "" if reason else _safe(self.tokenizer.decode(tokens), sampling.stop)
            if len(safe) > sent:
                yield safe[sent:]
                sent = len(safe)
        if rest := self._text(tokens, sampling.stop)[sent:]:
            yield rest

    @torch.inference_mode()
    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """log p(token t | tokens before t), natural, float32, length n - 1 for n tokens.

        ValueError for a sequence longer than the context or with an unknown id.
        """
        for ids in sequences:
            _require(
                len(ids) <= self.context,
                f"a sequence has {len(ids)} tokens, the model's context is {self.context}",
            )
            self._known(ids)
        out: dict[int, np.ndarray] = {}
        for rows in self._portions([len(s) for s in sequences], 0):
            scores = self._score([sequences[r] for r in rows])
            out |= {r: scores[k, : max(len(sequences[r]) - 1, 0)] for k, r in enumerate(rows)}
        return [out[i] for i in range(len(sequences))]

    def _id(self, special: int) -> int:
        """The id of a special token in this model's tokenizer (ours has them first)."""
        found = self.tokenizer.token_to_id(specials(1)[special])
        if found is None:
            raise ValueError(f"the tokenizer has no {specials(1)[special]}")
        return found

    def _sentinels(self) -> frozenset[int]:
        """The ids that end a completion: every special there is, and the model's own end."""
        end = self.model.generation_config.eos_token_id
        named = [self.tokenizer.token_to_id(s) for s in specials(_MASKS)]
        return frozenset(i for i in [*named, *np.atleast_1d(end).tolist()] if i is not None)

    def _fits(self, ids: Sequence[int]) -> list[int]:
        _require(len(ids) > 0, "a prompt needs at least one token; Engine.prompt('') gives one")
        _require(
            len(ids) < self.context,
            f"the prompt has {len(ids)} tokens, the model's context is {self.context}: "
            f"send at most {self.context - 1}",
        )
        self._known(ids)
        return list(ids)

    def _known(self, ids: Sequence[int]) -> None:
        size = self.model.config.vocab_size
        off = [i for i in ids if not 0 <= i < size]
        _require(not off, f"token ids {off[:5]} are not in the vocabulary: 0 to {size - 1}")

    def _portions(self, lengths: Sequence[int], extra: int) -> Iterator[list[int]]:
        """Row numbers, shortest first, in portions of at most `budget` padded places."""
        part: list[int] = []
        for row in sorted(range(len(lengths)), key=lambda r: lengths[r]):
            places = min(lengths[row] + extra, self.context)
            if part and (len(part) + 1) * places > self.budget:
                yield part
                part = []
            part.append(row)
        if part:
            yield part

    def _collect(
        self,
        prompts: Sequence[Sequence[int]],
        draws: Sequence[np.random.Generator],
        sampling: Sampling,
        cancel: Callable[[], bool],
    ) -> list[Completion]:
        tokens: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        reasons: list[Literal["stop", "length"]] = ["length" for _ in prompts]
        for row, token, logprob, reason in self._decode(prompts, draws, sampling, cancel):
            reasons[row] = reason or "length"
            if token is not None:
                tokens[row].append(token)
                logprobs[row].append(logprob)
        return [
            Completion(self._text(t, sampling.stop), t, reason, lp, len(prompt))
            for t, lp, reason, prompt in zip(tokens, logprobs, reasons, prompts, strict=True)
        ]

    @torch.inference_mode()
    def _decode(
        self,
        prompts: Sequence[Sequence[int]],
        draws: Sequence[np.random.Generator],
        sampling: Sampling,
        cancel: Callable[[], bool],
    ) -> Iterator[Event]:
        """Every row's tokens, step by step; a row ends with the event that has a reason."""
        rooms = [min(sampling.max_tokens, self.context - len(p)) for p in prompts]
        rows = [r for r, room in enumerate(rooms) if room > 0]
        tokens: list[list[int]] = [[] for _ in prompts]
        if not rows or cancel():
            return
        logits, cache, mask = self._prefill([prompts[r] for r in rows])
        while True:
            uniform = np.array([draws[r].random() for r in rows])
            picked = pick(logits, uniform, sampling.temperature, sampling.top_k, sampling.top_p)
            alive = []
            for k, (row, (token, logprob)) in enumerate(zip(rows, picked, strict=True)):
                tokens[row].append(token)
                reason = self._reason(tokens[row], rooms[row], sampling.stop)
                yield row, None if token in self._stops else token, logprob, reason
                alive += [] if reason else [k]
            if not alive or cancel():
                return
            if len(alive) < len(rows):
                cache.batch_select_indices(torch.tensor(alive, device=self.device))
                rows, mask = [rows[k] for k in alive], mask[alive]
            mask = functional.pad(mask, (0, 1), value=1)
            logits = self._forward([tokens[r][-1:] for r in rows], cache, mask)

    def _prefill(
        self, prompts: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, DynamicCache, torch.Tensor]:
        """Next-token logits (rows, V), cache and mask (rows, T); equal prompts are read once."""
        unique = {ids: k for k, ids in enumerate(dict.fromkeys(map(tuple, prompts)))}
        width = max(map(len, unique))
        padded = [[0] * (width - len(ids)) + list(ids) for ids in unique]
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in unique])
        mask = mask.to(self.device)
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(padded, cache, mask)
        if len(unique) == len(prompts):
            return logits, cache, mask
        copies = torch.tensor([unique[tuple(p)] for p in prompts], device=self.device)
        cache.batch_select_indices(copies)
        return logits[copies], cache, mask[copies]

    def _forward(
        self, ids: Sequence[Sequence[int]], cache: DynamicCache, mask: torch.Tensor
    ) -> torch.Tensor:
        """Logits (rows, V) after the newest tokens `ids`; `mask` covers the cache and them."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -len(ids[0]) :]
        logits: torch.Tensor = self.model(
            input_ids=torch.tensor(ids, device=self.device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **self._last,
        ).logits
        return logits[:, -1].float()

    def _reason(
        self, tokens: Sequence[int], room: int, stop: Sequence[str]
    ) -> Literal["stop", "length"] | None:
        if tokens[-1] in self._stops:
            return "stop"
        # A token is a byte or more, so a stop string that ends in the newest token begins here.
        recent = tokens[-max((len(s.encode()) for s in stop), default=0) - 1 :] if stop else ()
        if stop and any(s in self.tokenizer.decode(recent) for s in stop):
            return "stop"
        return "length" if len(tokens) >= room else None

    def _text(self, tokens: Sequence[int], stop: Sequence[str]) -> str:
        """The tokens as text, cut before the first stop string."""
        text = self.tokenizer.decode(tokens)
        return text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))]

    def _score(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """Log-probabilities (rows, T - 1), right padded; past its end a row holds noise."""
        width = max(map(len, sequences))
        padded = torch.tensor([[*s, *[0] * (width - len(s))] for s in sequences], dtype=torch.long)
        ids = padded.to(self.device)
        columns = max(1, _LOGITS // (len(sequences) * self.model.config.vocab_size))
        cache = DynamicCache(config=self.model.config)
        out = [np.zeros((len(sequences), 0), dtype=np.float32)]
        for start in range(0, width - 1, columns):
            part = ids[:, start : min(start + columns, width - 1)]
            logits = self.model(input_ids=part, past_key_values=cache, use_cache=True).logits
            target = ids[:, start + 1 : start + 1 + part.shape[1]]
            flat = logits.flatten(0, 1).float(), target.flatten()
            loss = functional.cross_entropy(*flat, reduction="none").view(target.shape)
            out.append(-loss.cpu().numpy())
        return np.concatenate(out, axis=1)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _card(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _generators(seed: int | None, count: int) -> list[np.random.Generator]:
    seed = secrets.randbits(63) if seed is None else seed
    return [np.random.default_rng([seed, i]) for i in range(count)]


def _safe(text: str, stop: Sequence[str]) -> str:
    """`text` without an unfinished last character and without a begun stop string."""
    text = text.rstrip("\ufffd")
    held = (k for s in stop for k in range(len(s) - 1, 0, -1) if text.endswith(s[:k]))
    return text[: len(text) - max(held, default=0)]
