"""Generation on a CPU: our engine against transformers' own ways, on one model and one set of prompts.

    python -m tests.bench.engine --rounds 3 --json

A random Llama of 100 million parameters, `--clients` prompts of `--prompt` random tokens that come at once,
`--new` greedy tokens each, no end token. Ways take turns in one process; medians of the rounds.
Also what a prompt costs that a slot knows but for its last tokens.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation import ContinuousBatchingConfig

from pipeline.model.batching import Batching
from pipeline.model.engine import Piece, Sampling
from tests.tiny import tiny_tokenizer

Prompts = Sequence[list[int]]
Way = Callable[[Prompts], list[float]]
"""Completes all prompts; seconds until the first new token of each, where it is known."""


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = made(Path(folder))
        exact = Batching(folder, threads=args.threads)
        small = Batching(folder, threads=args.threads, precision="int8")
    every: dict[str, Way] = {
        "ours": lambda prompts: ours(exact, prompts, args.new),
        "ours, int8": lambda prompts: ours(small, prompts, args.new),
        "generate, one after the other": lambda prompts: one_by_one(model, prompts, args.new),
        "generate, one batch": lambda prompts: together(model, prompts, args.new),
        "generate_batch": lambda prompts: continuous(model, prompts, args.new),
    }
    ways = {k: v for k, v in every.items() if not args.only or k in args.only}
    found = measured(ways, args)
    again = {"prompt known but for 8 tokens": known(exact, args.prompt)} if "ours" in ways else {}
    print("\n".join(table(found)))
    if args.json:
        print(json.dumps(found | again))


def made(folder: Path) -> Any:
    """The model, written to `folder` with a tokenizer, and loaded as transformers does."""
    tiny_tokenizer(folder / "tokenizer.json")
    torch.manual_seed(0)
    cfg = LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
    )
    model: Any = LlamaForCausalLM(cfg).eval()
    model.save_pretrained(folder)
    return model


def ours(engine: Batching, prompts: Prompts, new: int) -> list[float]:
    """As many clients as prompts, each of which submits at once."""
    start, first, ended = time.perf_counter(), dict[int, float](), threading.Semaphore(0)

    def hear(row: int, what: Piece | Exception) -> None:
        first.setdefault(row, time.perf_counter() - start)
        if isinstance(what, Exception) or what.finish_reason:
            ended.release()

    # Sentinels would end a text early; the rivals have no end token.
    sampling = Sampling(max_tokens=new, temperature=0, logit_bias=dict.fromkeys(range(7), -100.0))
    for i, ids in enumerate(prompts):
        engine.submit(ids, sampling, lambda what, i=i: hear(i, what))  # type: ignore[misc]
    for _ in prompts:
        ended.acquire()
    return list(first.values())


def one_by_one(model: Any, prompts: Prompts, new: int) -> list[float]:
    for ids in prompts:
        together(model, [ids], new)
    return []


def together(model: Any, prompts: Prompts, new: int) -> list[float]:
    """One padded batch; here all prompts are as long as one another."""
    ids = torch.tensor(prompts)
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
    )
    return []


def continuous(model: Any, prompts: Prompts, new: int) -> list[float]:
    """transformers' continuous batching, with room for all prompts at once."""
    places = sum(len(p) + new for p in prompts)
    model.generate_batch(
        inputs=list(prompts),
        generation_config=GenerationConfig(
            max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=2 * places // 32 + 32, max_batch_tokens=512
        ),
        progress_bar=False,
    )
    model.set_attn_implementation("sdpa")
    return []


def known(engine: Batching, size: int) -> dict[str, float]:
    """Seconds to the first token of a new prompt, and of one that differs in its last 8 tokens."""
    rng = np.random.default_rng(9)
    ids = rng.integers(7, 32000, size).tolist()
    (cold,) = ours(engine, [ids], 1)
    warm = [ours(engine, [ids[:-8] + rng.integers(7, 32000, 8).tolist()], 1)[0] for _ in range(5)]
    return {"cold_s": round(cold, 4), "warm_s": round(median(warm), 4)}


def measured(ways: dict[str, Way], args: argparse.Namespace) -> dict[str, Any]:
    """Tokens by second and by CPU second, rounds in turn after one that is not counted."""
    rng = np.random.default_rng(0)
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for number in range(args.rounds + 1):
        for name, way in ways.items():
            prompts = rng.integers(7, 32000, (args.clients, args.prompt)).tolist()
            if number == 0:
                way(prompts[:2])
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            first = way(prompts)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            taken[name].append((wall, cpu, median(first) if first else float("nan")))
            print(f"{name}: {wall:.2f} s, {cpu:.2f} s of CPU", flush=True)
    tokens = args.clients * args.new
    return {
        name: {
            "tokens_per_s": round(tokens / median(w for w, _, _ in rounds), 1),
            "tokens_per_cpu_s": round(tokens / median(c for _, c, _ in rounds), 1),
            "first_token_s": round(median(f for *_, f in rounds), 2),
            "rounds_s": [round(w, 2) for w, _, _ in rounds],
        }
        for name, rounds in taken.items()
    }


def table(found: dict[str, Any]) -> list[str]:
    head = (
        "| | tokens/s | tokens/s of CPU time | first token, s | rounds, s |\n|---|---|---|---|---|"
    )
    return [head] + [
        f"| {name} | {r['tokens_per_s']} | {r['tokens_per_cpu_s']} | {r['first_token_s']} | "
        f"{' '.join(map(str, r['rounds_s']))} |"
        for name, r in found.items()
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="names of ways; all if left out")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
