"""What Ray Train costs: a step of the same `fit` with and without it, and the start of a phase.

Rounds of bare training in this process, with no Ray anywhere, alternate with rounds under Ray Train
in one worker of a fresh group. A step is the time between two records; the first two of each round
are left out. A phase's fixed cost is from asking for a job until the job begins.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.start import connect, cores
from cluster.train import _Group
from pipeline.model.settings import FitConfig
from tests.bench.corpus import tell, versions

LENGTH, VOCABULARY, WARM = 256, 4096, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=14, help="of a round")
    parser.add_argument("--batch", type=int, default=40, help="sequences of 256 tokens a step")
    parser.add_argument("--threads", type=int, default=cores(), help="of the training")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--out", help="also write the table to this Markdown file")
    args = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does
    cfg = FitConfig(batch=args.batch, micro=4096, log_every=1, threads=args.threads)
    cfg = replace(cfg, schedule=replace(cfg.schedule, warmup=2))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        told = measured(args, cfg, Path(folder))
    told["versions"] = versions("ray", "torch", "transformers")
    tell(told, shown(told), args)


def measured(args: argparse.Namespace, cfg: FitConfig, folder: Path) -> dict[str, Any]:
    import ray

    from pipeline.model.world import World

    index, file = corpus(folder, args.steps * args.batch)
    bare: list[float] = []
    under: list[float] = []
    costs: list[list[float]] = []
    for number in range(args.rounds):
        job = partial(round_of, cfg=cfg, index=index, file=file)
        bare += job(World(), folder=folder / f"bare-{number}")["steps"]
        connect()
        group = _Group(1, "CPU")
        costs.append([asked(group) for _ in range(3)])
        under += group.ask(partial(job, folder=folder / f"ray-{number}"))["steps"]
        group.end()
        ray.shutdown()
    one, two = statistics.median(bare), statistics.median(under)
    return {
        "bare_s": round(one, 4),
        "ray_train_s": round(two, 4),
        "overhead": round(two / one - 1, 4),
        "steps": len(under),
        "first_phase_s": round(statistics.median(c[0] for c in costs), 2),
        "later_phase_s": round(statistics.median(x for c in costs for x in c[1:]), 3),
        "threads": cfg.threads,
    }


def corpus(folder: Path, sequences: int) -> tuple[pa.Table, Path]:
    """Random tokens, a document a sequence."""
    file = folder / "tokens.u16"
    rng = np.random.default_rng(0)
    rng.integers(8, VOCABULARY, sequences * LENGTH).astype("<u2").tofile(file)
    of = np.arange(sequences)
    index = {
        "sequence": of,
        "uid": [f"{n:032x}" for n in of],
        "shard": pa.array(np.zeros(sequences), pa.int32()),
        "start": of * LENGTH,
        "length": pa.array(np.full(sequences, LENGTH), pa.int32()),
        "infill": np.zeros(sequences, bool),
        "masked": pa.array(np.zeros(sequences), pa.int32()),
        "spans": pa.array(np.zeros(sequences), pa.int16()),
        "end": pa.array(np.full(sequences, -1), pa.int32()),
    }
    return pa.table(index), file


def round_of(
    world: Any, *, cfg: FitConfig, index: pa.Table, file: Path, folder: Path
) -> dict[str, Any]:
    """Train; the seconds of each step but the first ones."""
    from pipeline.model import architectures, batches
    from pipeline.model.fit import fit

    times: list[float] = []
    model = architectures.build("snowcoder-tiny", VOCABULARY, LENGTH, seed=0)
    fed = batches.Batches(index, [file], LENGTH, cfg.batch, 0, 0.5)

    def note(record: dict[str, Any]) -> None:
        times.append(time.perf_counter())

    fit(model, fed, cfg, folder=folder, world=world, on_step=note)
    return {"steps": np.diff(times)[WARM - 1 :].tolist()}


def asked(group: _Group) -> float:
    """Seconds from asking for a job until it begins, libraries loaded."""
    began = time.time()
    return float(group.ask(now)["now"]) - began


def now(world: Any) -> dict[str, Any]:
    import pipeline.model.fit  # noqa: F401 (what a phase begins with)

    return {"now": time.time()}


def shown(told: dict[str, Any]) -> list[str]:
    return [
        f"Medians of {told['steps']} steps each, {told['threads']} threads.",
        "",
        "| | seconds |",
        "|---|---|",
        f"| step, no Ray | {told['bare_s']:.3f} |",
        f"| step, Ray Train, one worker | {told['ray_train_s']:.3f} ({told['overhead']:+.1%}) |",
        f"| fixed cost of a run's first phase | {told['first_phase_s']:.1f} |",
        f"| of each later one | {told['later_phase_s']:.2f} |",
        "",
        ", ".join(f"{k} {v}" for k, v in told["versions"].items()),
    ]


if __name__ == "__main__":
    main()
