"""Training speed: ours, HF Trainer (stock) and a bare eager PyTorch loop, on the same model and tokens.

Each runs in a process of its own, in turn, for some rounds; the median of the rounds counts. A run's
first steps warm up and are not timed. Optimizer, clipping and reading batches are in the time.
HF Trainer needs `pip install accelerate`. Needs no Ray and no pydantic: runs on torch 2.11 and
transformers 5.17 with pyarrow, numba and rich.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from pipeline.model import architectures
from pipeline.model.batches import Batches
from pipeline.model.fit import fit
from pipeline.model.flops import peak, per_token
from pipeline.model.schedules import Schedule
from pipeline.model.settings import FitConfig
from pipeline.model.world import World
from tests.bench import loops
from tests.bench.corpus import heading, versions
from tests.bench.loops import Setting
from tests.packed import plain

NAMES = ("ours", "hf_trainer", "bare")
SHAPE = {"layers": 8, "width": 512, "ffn": 1408, "heads": 8}
"""42 million parameters with 32,000 ids: where matrix products take most of a CPU's time."""


PRESETS = {
    "cpu": Setting("llama-42m", 32000, 1024, 2, 2, 2, 2, 4, 3, "cpu", "float32", "always"),
    "tiny": Setting("snowcoder-tiny", 4096, 256, 8, 8, 8, 2, 4, 1, "cpu", "float32", "never"),
    "h200": Setting("snowcoder-1.3b", 64000, 8192, 8, 4, 1, 4, 16, 1, "cuda", "bfloat16", "always"),
}
"""H200: a micro-batch of four sequences keeps 75 kB a token and layer for the backward pass (counted
on a CPU): 60 of 139 GB. Stock HF Trainer takes one. A GPU is steady: one round, about six minutes."""


def main() -> None:
    args = _arguments()
    setting = replace(PRESETS[args.preset], **_given(args))
    if args.only:
        print(json.dumps(_alone(args.only, setting)))
        return
    if setting.device == "cuda" and not torch.cuda.is_available():
        sys.exit("this preset needs a GPU, and there is none; --preset cpu runs here")
    skipped = [] if find_spec("accelerate") else ["hf_trainer"]
    names = [n for n in NAMES if n not in skipped]
    found: dict[str, list[dict[str, Any]]] = {n: [] for n in names}
    for _ in range(setting.rounds):
        for name in names:
            found[name].append(_spawned(name, sys.argv[1:]))
    told = _summary(found, setting) | {"skipped": skipped}
    report = "\n".join([heading(), "", *_shown(told)])
    print(report)
    if args.out:
        Path(args.out).write_text(report + "\n")
    if args.json:
        print(json.dumps(told))


def _arguments() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--preset", choices=PRESETS, default="cpu")
    made.add_argument("--model", help="an architecture's name, or llama-42m")
    made.add_argument("--compile", choices=("auto", "always", "never"), help="ours alone")
    for name in ("length", "batch", "rows", "rival-rows", "warm", "steps", "rounds"):
        made.add_argument(f"--{name}", type=int)
    made.add_argument("--only", choices=NAMES, help="one contender, in this process, as JSON")
    made.add_argument("--json", action="store_true", help="end with one line of JSON")
    made.add_argument("--out", help="also write the table to this Markdown file")
    return made.parse_args()


def _given(args: argparse.Namespace) -> dict[str, Any]:
    fields = Setting.__dataclass_fields__
    return {n: v for n, v in vars(args).items() if n in fields and v is not None}


def _spawned(name: str, given: list[str]) -> dict[str, Any]:
    """One contender's run in a fresh process, so that its memory and settings are its own."""
    call = [sys.executable, "-m", "tests.bench.fit", *given, "--only", name]
    done = subprocess.run(call, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{name} failed, see above: {' '.join(call)}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _alone(name: str, setting: Setting) -> dict[str, Any]:
    """Run one contender; tokens_per_s, memory_gb and the loss: the last, of HF Trainer the mean."""
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    runs: dict[str, Callable[..., tuple[float, float]]] = {
        "ours": _ours,
        "hf_trainer": loops.hf_trainer,
        "bare": loops.bare,
    }
    with tempfile.TemporaryDirectory() as folder:
        fed = _batches(Path(folder), setting)
        model = _model(setting)
        rate, loss = runs[name](model, fed, setting, Path(folder))
    gpu = setting.device == "cuda"
    memory = torch.cuda.max_memory_allocated() if gpu else _resident()
    return {"tokens_per_s": rate, "loss": loss, "memory_gb": memory / 1e9}


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _model(setting: Setting) -> Any:
    if setting.model != "llama-42m":
        return architectures.build(setting.model, setting.vocabulary, setting.length, 0)
    shape = (SHAPE["layers"], SHAPE["width"], SHAPE["ffn"], SHAPE["heads"])
    config = architectures._llama(*shape, setting.vocabulary, setting.length, tied=True)
    torch.manual_seed(0)
    return architectures.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def _batches(folder: Path, setting: Setting) -> Batches:
    """Random tokens in a file, a sequence a document: enough for all steps."""
    count = setting.batch * (setting.warm + setting.steps)
    index, file = plain(folder, count, setting.length, setting.vocabulary)
    return Batches(index, [file], setting.length, setting.batch, 0, 0.5)


def _ours(model: Any, fed: Batches, setting: Setting, folder: Path) -> tuple[float, float]:
    """The loop itself, until its last step; the checkpoint after it, which is not timed, is left out."""
    cfg = FitConfig(
        batch=setting.batch,
        micro=setting.rows * setting.length,
        schedule=Schedule(warmup=0, peak=1e-4, shape="constant", end=1e-4),
        checkpoint_every=10**9,
        log_every=setting.warm,
        compile=setting.compile,  # type: ignore[arg-type]
        threads=os.cpu_count() or 1,
    )
    lines: list[dict[str, Any]] = []

    def note(line: dict[str, Any]) -> None:
        lines.append(line)
        if len(lines) == fed.steps:
            raise _LastStep

    world = World(device=torch.device(setting.device))
    with suppress(_LastStep):
        fit(model, fed, cfg, folder=folder / "out", world=world, on_step=note)
    rest = lines[setting.warm :]
    rates = [line["tokens_per_s"] for line in rest]
    return len(rates) / sum(1 / r for r in rates), rest[-1]["loss"]


class _LastStep(Exception):
    pass


def _summary(found: dict[str, list[dict[str, Any]]], setting: Setting) -> dict[str, Any]:
    rates = {n: statistics.median(r["tokens_per_s"] for r in runs) for n, runs in found.items()}
    most = peak(torch.device(setting.device))
    with torch.device("meta"):
        cost = per_token(_model(setting), setting.length)
    ratios = {f"ours/{n}": rates["ours"] / r for n, r in rates.items() if n != "ours"}
    memory = {n: max(r["memory_gb"] for r in runs) for n, runs in found.items()}
    return {
        "tokens_per_s": rates,
        "ratio": ratios | {"ours/best": min(ratios.values())},
        "mfu_full": most and rates["ours"] * cost.full / most,
        "mfu_causal": most and rates["ours"] * cost.causal / most,
        "peak_memory_gb": memory,
        "loss": {n: runs[-1]["loss"] for n, runs in found.items()},
        "gflop_per_token": {"full": cost.full / 1e9, "causal": cost.causal / 1e9},
        "setting": vars(setting),
        "rounds": {n: [r["tokens_per_s"] for r in runs] for n, runs in found.items()},
        "versions": versions("torch", "transformers", "accelerate"),
    }


def _shown(told: dict[str, Any]) -> Iterator[str]:
    yield ", ".join(f"{k} {v}" for k, v in told["setting"].items()) + "."
    yield ", ".join(f"{k} {v}" for k, v in told["versions"].items()) + "."
    yield ""
    yield "| | tokens/s | ours is | rounds | peak memory, GB |"
    yield "|---|---|---|---|---|"
    for name, rate in told["tokens_per_s"].items():
        ratio = told["ratio"].get(f"ours/{name}")
        rounds = " ".join(f"{r:,.0f}" for r in told["rounds"][name])
        yield (
            f"| {name} | {rate:,.0f} | {f'{ratio:.2f} x' if ratio else ''} | {rounds} | "
            f"{told['peak_memory_gb'][name]:.2f} |"
        )
    if told["mfu_full"]:
        full, causal = told["mfu_full"], told["mfu_causal"]
        yield f"\nOurs: {full:.1%} of the peak with attention full, {causal:.1%} causal."
    for name in told["skipped"]:
        yield f"\n{name} was not run: `pip install accelerate`."


if __name__ == "__main__":
    main()
