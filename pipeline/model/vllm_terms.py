"""What we ask of vLLM in its terms, for an engine and for a request, and what it answers in ours.

Knows nothing of calls, queues or threads.
"""

import importlib.util
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.model.engine import PromptScores, Sampling
from pipeline.model.sampling import Picked

_BIASES = 1024
"""Most tokens that vLLM 0.32 can bias in one request; on a GPU one more would end its engine."""
_HOTTEST = 2.0
"""vLLM 0.32 refuses more."""
_CPU_CACHE = 1 << 30
"""Bytes of cache on a CPU, where vLLM would take nearly all of the memory (ours)."""
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
"""Unless the environment says otherwise: no reports to vLLM's makers; no fork of a process that has
threads."""


def possible(path: Path, device: str, precision: str) -> None:
    """Make ready to import vLLM. ValueError for a folder that is no model, or what vLLM cannot do here."""
    if importlib.util.find_spec("vllm") is None:
        raise ValueError("vLLM is not installed here: pip install vllm, or take the engine icefloe")
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} is no model folder: no config.json")
    if precision != "exact":
        raise ValueError(
            f"precision is {precision!r}: with vLLM exact; int8 is Icefloe's own engine's"
        )
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from vllm.platforms import current_platform

    if device != current_platform.device_type:
        raise ValueError(
            f"device is {device!r}: this vLLM computes on {current_platform.device_type!r}, "
            "on those that CUDA_VISIBLE_DEVICES names"
        )


def arguments(path: Path, device: str, slots: int) -> dict[str, Any]:
    """Fields of vLLM's AsyncEngineArgs."""
    settings: dict[str, Any] = {
        "model": str(path),
        "load_format": "safetensors",
        "skip_tokenizer_init": True,
        "dtype": "float32" if device == "cpu" else "bfloat16",
        "max_num_seqs": slots,
        "seed": secrets.randbits(31),  # of draws without a seed: vLLM's own is 0 at every start
        "disable_log_stats": True,
    }
    on_cpu = {"enforce_eager": True, "kv_cache_memory_bytes": _CPU_CACHE}
    return settings | (on_cpu if device == "cpu" else {})


async def started(settings: Mapping[str, Any]) -> Any:
    """vLLM's engine, on the loop that runs this; takes a minute."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**settings))


def ends(config: Any) -> list[int]:
    """The ids that end a text by the model's own settings."""
    ends = config.try_get_generation_config().get("eos_token_id", config.hf_config.eos_token_id)
    return [] if ends is None else np.atleast_1d(ends).tolist()


def asked(sampling: Sampling, sample: int, room: int, size: int, stops: frozenset[int]) -> Any:
    """vLLM's settings of one request; it wants a token at least, and small numbers. ValueError for
    what it does not take."""
    if len(sampling.logit_bias) > _BIASES:
        raise ValueError(f"logit_bias has {len(sampling.logit_bias)} tokens: at most {_BIASES}")
    if sampling.temperature > _HOTTEST:
        raise ValueError(f"temperature is {sampling.temperature}: 0 to {_HOTTEST:g} with vLLM")
    return _delta(
        max_tokens=max(min(sampling.max_tokens, room), 1),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=min(sampling.top_k, size),
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias) or None,
        seed=_seed(sampling.seed, sample),
        stop_token_ids=sorted(stops),
        logprobs=sampling.top_logprobs or 0,
        prompt_logprobs=(sampling.top_logprobs or 0) if sampling.prompt_logprobs else None,
    )


def scoring(last: int) -> Any:
    """vLLM's settings to score a prompt and `last` after it."""
    scored = {"prompt_logprobs": 0, "logprobs": 0, "allowed_token_ids": [last]}
    return _delta(max_tokens=1, temperature=0.0, **scored)


def _delta(**settings: Any) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        output_kind=RequestOutputKind.DELTA, detokenize=False, ignore_eos=True, **settings
    )


def _seed(seed: int | None, sample: int) -> int | None:
    """(seed, sample) as one number of 63 bits."""
    if seed is None:
        return None
    return int(
        np.random.SeedSequence([seed, sample]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )


def picked(answer: Any, sampling: Sampling) -> list[Picked]:
    """The tokens of one output."""
    rows = zip(answer.token_ids, answer.logprobs or (), strict=True)
    return [Picked(t, row[t].logprob, _likeliest(row, sampling)) for t, row in rows]


def prompt_scores(ids: Sequence[int], rows: Sequence[Any], sampling: Sampling) -> PromptScores:
    """A prompt's tokens; vLLM's first row is None."""
    rest = list(zip(ids[1:], rows[1:], strict=True))
    tops = [_likeliest(row, sampling) for _, row in rest]
    return PromptScores([None, *(row[t].logprob for t, row in rest)], [None, *tops])


def sequence_scores(ids: Sequence[int], output: Any) -> np.ndarray:
    """Of a sequence that was asked for by `scoring`: float32, one less than its tokens."""
    rows = [*output.prompt_logprobs[1:], output.outputs[0].logprobs[0]]
    of = [row[token].logprob for token, row in zip(ids[1:], rows, strict=True)]
    return np.array(of, dtype=np.float32)


def _likeliest(row: Mapping[int, Any], sampling: Sampling) -> dict[int, float] | None:
    """vLLM puts the token itself among the likeliest, or after them."""
    if sampling.top_logprobs is None:
        return None
    ranked = sorted(((i, x.logprob) for i, x in row.items()), key=lambda pair: -pair[1])
    return dict(ranked[: sampling.top_logprobs])
