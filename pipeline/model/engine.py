"""What an engine is to those who ask it: the questions, the answers, and `load`.

`Batching` (batching.py) is ours, over transformers alone; `Vllm` (vllm_engine.py) is the one for GPUs.
Imports neither torch nor transformers. Knows nothing of HTTP, Ray or benchmarks.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

Finish = Literal["stop", "length", "cancelled"]
"""Why a completion ended: the model or a stop string; no room, tokens or time left; the caller."""

SLOTS = 16
"""Completions written at the same time, unless told otherwise (ours)."""
QUEUE = 64
"""Completions that may wait for a slot, unless told otherwise (ours)."""


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt; the defaults are those of OpenAI's completions. ValueError if off."""

    max_tokens: int = 16
    """Most new tokens (OpenAI)."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token (OpenAI)."""
    top_p: float = 1.0
    """Keeps the fewest likeliest tokens that have together this much probability; 1 keeps all (OpenAI)."""
    top_k: int = 0
    """Keeps so many of the likeliest tokens; 0 keeps all (transformers, vLLM)."""
    min_p: float = 0.0
    """Keeps tokens at least this share as likely as the likeliest; 0 keeps all (arXiv 2407.01082)."""
    presence_penalty: float = 0.0
    """Taken off the logit of each token already generated, -2 to 2 (OpenAI)."""
    frequency_penalty: float = 0.0
    """The same for each time it was generated, -2 to 2 (OpenAI)."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens, -100 to 100 (OpenAI)."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these strings (OpenAI)."""
    seed: int | None = None
    """None draws one from the operating system (ours)."""
    top_logprobs: int | None = None
    """So many of the likeliest alternatives of each token, 0 to 20; None: not asked for (OpenAI)."""
    prompt_logprobs: bool = False
    """Score the prompt's tokens too (vLLM: what OpenAI's `echo` with `logprobs` needs)."""
    seconds: float | None = None
    """Most time from the first new token on, then it ends with "length" (llama.cpp's t_max_predict_ms)."""

    def __post_init__(self) -> None:
        _within("max_tokens", self.max_tokens, 0, inf)
        _within("temperature", self.temperature, 0, 1e6)
        _within("top_p", self.top_p, 0, 1)
        _require(self.top_p > 0, f"top_p is {self.top_p}: above 0, at most 1")
        _within("top_k", self.top_k, 0, inf)
        _within("min_p", self.min_p, 0, 1)
        _within("presence_penalty", self.presence_penalty, -2, 2)
        _within("frequency_penalty", self.frequency_penalty, -2, 2)
        for token, bias in self.logit_bias.items():
            _require(token >= 0, f"logit_bias is for token {token}: token ids are 0 or more")
            _within("logit_bias", bias, -100, 100)
        _require(all(self.stop), "stop has an empty string, which would stop everything")
        _within("seed", self.seed or 0, 0, inf)
        _within("top_logprobs", self.top_logprobs or 0, 0, 20)
        _within("seconds", self.seconds or 0, 0, inf)


class PromptScores(NamedTuple):
    """The model on the prompt itself, a value a token; the first token has none."""

    logprobs: list[float | None]
    top: list[dict[int, float] | None]


class Sentinel(NamedTuple):
    """The special token that ended a completion, scored as the others are."""

    token: int
    logprob: float
    top: dict[int, float] | None


@dataclass(frozen=True)
class Piece:
    """What a call tells as it goes; the last one has a `finish_reason`."""

    text: str = ""
    """Never ends within a character or within what may become a stop string."""
    tokens: list[int] = field(default_factory=list)
    """Ids generated since the last piece, without a sentinel that ended it."""
    logprobs: list[float] = field(default_factory=list)
    """One a token, natural, under the model itself: before bias, penalties and temperature."""
    top: list[dict[int, float]] = field(default_factory=list)
    """Where asked for, one a token: id -> log-probability of the likeliest, likeliest first."""
    finish_reason: Finish | None = None
    prompt: PromptScores | None = None
    """In the first piece, where asked for."""
    cached_tokens: int = 0
    """In the first piece: places of the prompt known from an earlier call."""
    sentinel: Sentinel | None = None
    """In the last piece, where a special token ended it (harnesses count on its log-probability)."""


@dataclass(frozen=True)
class Completion:
    """What one prompt was continued with.

    `text` has neither sentinels nor stop strings. `tokens` are all generated ids without the
    sentinel that ended them (so they may reach past `text` into a stop string); `logprobs`, one
    per token, are natural logarithms under the model itself, before temperature and truncation.
    """

    text: str
    tokens: list[int]
    finish_reason: Finish
    logprobs: list[float]
    prompt_tokens: int


class Load(NamedTuple):
    """How busy an engine is: calls with a slot and without one, and how many there may be of each."""

    running: int
    waiting: int
    slots: int
    queue: int


class Full(Exception):
    """No place is left in an engine's queue."""


Tell = Callable[["Piece | Exception"], None]
"""Called from the engine's thread: pieces until one has a finish_reason, or one exception. Must not
block."""


class Call(Protocol):
    """A completion under way."""

    def cancel(self) -> None:
        """Free its slot before the next token; the last piece says "cancelled". From any thread,
        any number of times; after the end it does nothing."""


class Engine(Protocol):
    """One loaded model; may be asked from several threads.

    `folder` is the model's, `info` is icefloe.json ({} if there is none), `context` the most tokens
    of prompt and completion together, `tokenizer` the folder's tokenizer.
    """

    folder: Path
    info: dict[str, Any]
    context: int
    tokenizer: "Tokenizer"

    def prompt(
        self, prefix: str, suffix: str | None = None, extra: Sequence[tuple[str, str]] = ()
    ) -> list[int]:
        """The ids to complete: `prefix` as it is, or the infill layout around the gap, after the
        files of `extra` (name, text) as the repository's. See `prompts.Prompts`."""

    def submit(self, ids: Sequence[int], sampling: Sampling, tell: Tell, sample: int = 0) -> Call:
        """Continue `ids`, drawing from (seed, sample); returns at once.

        ValueError for ids that do not fit, Full when the queue is.
        """

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        cancel: Callable[[], bool] = ...,
    ) -> list[Completion]:
        """One completion per prompt, in order; prompt i draws from its own generator (seed, i).

        A greedy row does not depend on its batch mates (up to float rounding). Once `cancel()` is
        true, what there is comes back with finish_reason "cancelled".
        """

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> "list[np.ndarray]":
        """log p(token t | tokens before t), natural, float32, length n - 1 for n tokens.

        ValueError for a sequence longer than the context or with an unknown id.
        """

    def load(self) -> Load:
        """How busy it is now. RuntimeError once it answers no more."""

    def close(self) -> None:
        """End all calls and give the memory back; what is asked afterwards is a RuntimeError."""


def never() -> bool:
    """The `cancel` of a call that nobody cancels."""
    return False


def load(
    folder: str | Path,
    *,
    kind: Literal["auto", "icefloe", "vllm"] = "auto",
    threads: int | None = None,
    device: str = "cpu",
    precision: Literal["exact", "int8"] = "exact",
    slots: int = SLOTS,
    queue: int = QUEUE,
) -> Engine:
    """The model of a folder (local, safetensors) behind an engine; "auto" is vLLM where it is
    installed and there is a GPU.

    threads: torch's count, for the whole process. slots, queue: most completions at a time, and most
    that wait for one. precision "int8": weights of 8 bits, on a CPU. ValueError if the folder is no
    model, or where the engine cannot do what is asked.
    """
    if kind == "vllm" or (kind == "auto" and device != "cpu" and _has_vllm()):
        from pipeline.model.vllm_engine import Vllm

        return Vllm(folder, device=device, precision=precision, slots=slots, queue=queue)
    from pipeline.model.batching import Batching

    return Batching(
        folder, threads=threads, device=device, precision=precision, slots=slots, queue=queue
    )


def _has_vllm() -> bool:
    return importlib.util.find_spec("vllm") is not None


def _within(name: str, value: float, low: float, high: float) -> None:
    """ValueError unless low <= value <= high (so for NaN too)."""
    upper = "or more" if high in (inf, 1e6) else f"to {high:g}"
    _require(low <= value <= high, f"{name} is {value}: {low:g} {upper}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
