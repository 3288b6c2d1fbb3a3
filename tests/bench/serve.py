"""How fast completions are served: 8 clients that stream at once, ours against other servers.

    python -m tests.bench.serve --json --rivals VENV/bin/python --llama-cpp BINARY

One Llama of 100 million random weights (`llama`), 256-token prompts that no server has seen, 64 new
tokens each, greedy, never ended early. The servers take turns, the others stopped; a round is one
request of each client. Seconds to the first text are over all rounds, rates are the median round's.
Then what Ray Serve adds to a request (`serve_overhead`), and files a second of the annotator's
endpoint against the scorer itself (`serve_annotate`).
"""

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.bench import corpus, llama, serve_annotate, servers
from tests.bench.servers import Running, Server
from tests.bench.unserved import Asked, LlamaCpp, Round, Sequential, Way

CLIENTS, PROMPT, NEW = 8, 256, 64


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended too
    given.cache.mkdir(parents=True, exist_ok=True)
    model = llama.folder(given.cache / "llama-100m")
    annotator = serve_annotate.folder(given.cache, given.encoder)
    result: dict[str, Any] = {"clients": CLIENTS, "prompt_tokens": PROMPT, "new_tokens": NEW}
    with ExitStack() as stack:
        chosen, missing = contenders(model, annotator, given)
        running = [stack.enter_context(servers.started(s, given.cache)) for s in chosen]
        running += [_in_8_bits(r) for r in running if r.server.name == "ours"]
        result |= measured(running, model, given) | {"missing": missing}
        if "annotate" in given.parts:
            url = next(r.url for r in running if r.server.name == "ours")
            result |= serve_annotate.measured(url, annotator, given)
    if "overhead" in given.parts:
        result |= _overhead()
    result["versions"] = corpus.versions("torch", "transformers", "tokenizers", "ray", "uvicorn")
    corpus.tell(result, shown(result), given)


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument(
        "--rivals", type=Path, help="a Python that has transformers[serving] and gguf"
    )
    made.add_argument("--llama-cpp", type=Path, help="its llama-batched-bench, where it is built")
    made.add_argument("--batching", default="", help="further options of its continuous batching")
    made.add_argument("--only", nargs="*", help="the systems to measure; all if left out")
    made.add_argument("--parts", nargs="*", default=["annotate", "overhead"])
    made.add_argument("--encoder", type=Path, help="a folder with a BERT and its tokenizer.json")
    made.add_argument("--files", type=int, default=16, help="files to annotate in a round")
    made.add_argument("--seed", type=int, default=1, help="of the prompts")
    made.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "icefloe-serve"))
    made.add_argument("--json", action="store_true", help="end with one line of JSON")
    made.add_argument("--out", help="also write the table to this Markdown file")
    return made


def contenders(
    model: Path, annotator: Path, given: argparse.Namespace
) -> tuple[list[Server], dict[str, str]]:
    """The servers that can be started here, and why each of the others cannot."""
    found = [servers.ours("--model", str(model), "--int8", "--annotator", str(annotator))]
    missing = dict[str, str]()
    if given.rivals and servers.has_serving(given.rivals):
        batching = ["--continuous-batching", *given.batching.split()]
        found.append(servers.transformers_serve(given.rivals, model))
        found.append(
            servers.transformers_serve(
                given.rivals, model, *batching, name="transformers serve, continuous batching"
            )
        )
    else:
        missing["transformers serve"] = "no --rivals with transformers[serving]"
    if not given.llama_cpp:
        missing["llama.cpp"] = "no --llama-cpp"
    return [s for s in found if not given.only or s.name in given.only], missing


def _in_8_bits(running: Running) -> Running:
    """Our server's other model, which is not the same and stands apart."""
    return replace(
        running, server=replace(running.server, name="ours, int8", more={"model": "int8"})
    )


def measured(running: list[Running], model: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Rounds in turn, each system on the same new prompts; one round before them is not counted."""
    needed = CLIENTS * (given.rounds + 1)
    prompts = iter(llama.prompts(model, needed, PROMPT, given.seed))
    ways: dict[str, Way] = {r.server.name: _way(r) for r in running}
    ways |= _unserved(model, given)
    rounds: dict[str, list[Round]] = {name: [] for name in ways}
    for r in running:
        servers.pause(r)
    for k in range(given.rounds + 1):
        batch = [next(prompts) for _ in range(CLIENTS)]
        for name, way in ways.items():
            found = way(batch[: 1 if k == 0 else CLIENTS])
            print(f"round {k} of {given.rounds}: {name} {found[1]:.1f} s", file=sys.stderr)
            rounds[name] += [found] if k else []
    for r in running:
        servers.go_on(r)
    return _told(rounds)


def _unserved(model: Path, given: argparse.Namespace) -> dict[str, Way]:
    """Those that are no server, or are measured without theirs."""
    found: dict[str, Way] = {"generate": Sequential(model, NEW)}
    if given.llama_cpp and given.rivals:
        gguf = given.cache / "llama-100m.gguf"
        if not gguf.exists():
            command = [given.rivals, "-m", "tests.bench.llama", model, gguf]
            subprocess.run([str(part) for part in command], check=True)
        found["llama.cpp, its own benchmark"] = LlamaCpp(given.llama_cpp, gguf, PROMPT, NEW)
    return {name: way for name, way in found.items() if not given.only or name in given.only}


def _way(running: Running) -> Way:
    def ask(prompts: list[str]) -> Round:
        servers.go_on(running)
        start = time.perf_counter()
        found = asyncio.run(all_at_once(running, prompts))
        took = time.perf_counter() - start
        servers.pause(running)
        return found, took

    return ask


async def all_at_once(running: Running, prompts: list[str]) -> list[Asked]:
    """Every prompt's completion as a stream, all asked for together."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:
        return await asyncio.gather(*(streamed(client, running, p) for p in prompts))


async def streamed(client: httpx.AsyncClient, running: Running, prompt: str) -> Asked:
    """One completion; SystemExit if it is not as long as was asked."""
    body = {"prompt": prompt, "max_tokens": NEW, "temperature": 0, "stream": True}
    body |= {"stream_options": {"include_usage": True}, **running.server.more}
    start, first, tokens = time.perf_counter(), 0.0, 0
    async with client.stream("POST", running.url + running.server.path, json=body) as answer:
        if answer.status_code != 200:
            raise SystemExit(f"{running.server.name}: {(await answer.aread()).decode()}")
        async for event in _events(answer):
            if not first and any(c.get("text") for c in event.get("choices", ())):
                first = time.perf_counter() - start
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    if tokens != NEW:
        raise SystemExit(f"{running.server.name} gave {tokens} tokens of {NEW}")
    whole = time.perf_counter() - start
    return Asked(first or whole, whole, tokens)


async def _events(answer: httpx.Response) -> Any:
    async for line in answer.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])


def _told(rounds: dict[str, list[Round]]) -> dict[str, Any]:
    rates = {n: [sum(a.tokens for a in asked) / s for asked, s in r] for n, r in rounds.items()}
    firsts = {n: [1e3 * a.first for asked, _ in r for a in asked] for n, r in rounds.items()}
    return {
        "tokens_per_s": {n: round(statistics.median(r), 1) for n, r in rates.items()},
        "rounds": {n: [round(x, 1) for x in r] for n, r in rates.items()},
        "ttft_p50_ms": {n: round(float(np.percentile(f, 50))) for n, f in firsts.items()},
        "ttft_p99_ms": {n: round(float(np.percentile(f, 99))) for n, f in firsts.items()},
    }


def _overhead() -> dict[str, Any]:
    """What Serve adds to a request, as `serve_overhead` finds it in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.serve_overhead", "--json", "--ways", "direct"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return {"overhead_ms": found["overhead_ms"], "overhead": found}


def shown(result: dict[str, Any]) -> Iterator[str]:
    """The table's lines."""
    yield "| | tokens/s | ours is | rounds | TTFT p50, ms | p99, ms |"
    yield "|---|---|---|---|---|---|"
    rates = result["tokens_per_s"]
    for name, rate in rates.items():
        times = f"{rates['ours'] / rate:.2f} x" if "ours" in rates and name != "ours" else ""
        turns = " ".join(map(str, result["rounds"][name]))
        firsts = f"{result['ttft_p50_ms'][name]} | {result['ttft_p99_ms'][name]}"
        yield f"| {name} | {rate} | {times} | {turns} | {firsts} |"
    yield ""
    yield from (f"{name}: not measured, {why}." for name, why in result["missing"].items())
    for name in ("overhead_ms", "annotate_ratio", "annotate_difference"):
        if name in result:
            yield f"`{name}`: {result[name]}."


if __name__ == "__main__":
    main()
