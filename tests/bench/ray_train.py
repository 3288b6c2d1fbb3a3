"""What Ray Train costs: a step of the same `fit` with and without it, and the start of a phase.

Two trainings run at once, one under Ray Train with one worker, one without any Ray, and take turns:
while one has its window the other and all its processes are stopped (Ray's servers and idle actors too),
so that a machine whose speed drifts is asked of both within seconds. A window's steps are those that begin
and end in it; the overhead is the median of the ratios of neighbouring windows, its interval by bootstrap
over the pairs. A phase's fixed cost is from asking for a job until the job begins.

With --idle: what a local cluster costs that has shuffled some rows and stands idle, beside a training
without Ray; the cluster is stopped in every other window.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.start import connect, cores
from cluster.train import _Group
from pipeline.model.settings import FitConfig, Schedule
from tests.bench.corpus import tell, versions
from tests.packed import plain

LENGTH, VOCABULARY, WARM, STEPS = 256, 4096, 3, 4000
SETTLE = 75.0
"""Seconds until a phase runs as it goes on running: by then a local cluster has ended its idle workers."""
UNCOUNTED = 1.0
"""Seconds of a window that are not counted: what was stopped catches up with its timers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=80, help="pairs of windows")
    parser.add_argument("--window", type=float, default=4, help="seconds")
    parser.add_argument(
        "--settle", type=float, default=SETTLE, help="seconds before the first window"
    )
    parser.add_argument("--batch", type=int, default=16, help="sequences of 256 tokens a step")
    parser.add_argument("--threads", type=int, default=cores(), help="of the training")
    parser.add_argument("--idle", action="store_true", help="of an idle cluster instead")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--out", help="also write the table to this Markdown file")
    parser.add_argument("--train", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        return train(*args.train, args)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        told = measured(args, Path(folder)) | {"threads": args.threads}
    told["versions"] = versions("ray", "torch", "transformers")
    tell(told, shown(told), args)


def measured(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    ways = ("alone", "idle") if args.idle else ("bare", "ray")
    of = {"alone": "bare", "idle": "bare"}
    running = {way: started(way, folder) for way in (("bare", "idle") if args.idle else ways)}
    try:
        while not all((folder / f"{way}.begun").exists() for way in running):
            assert all(p.poll() is None for p in running.values()), "a training ended"
            time.sleep(0.5)
        time.sleep(args.settle)
        for way in ways:
            send(running.get(way), signal.SIGSTOP)
        windows = [
            (way, window(of.get(way, way), running.get(way), folder, args.window))
            for k in range(args.rounds)
            for way in (ways, ways[::-1])[k % 2]  # what drifts steadily favours neither
        ]
    finally:
        for process in running.values():
            send(process, signal.SIGCONT)
            process.terminate()
            process.wait()
    fixed = folder / "fixed.json"
    return summed(windows, *ways) | (json.loads(fixed.read_text()) if fixed.exists() else {})


def started(way: str, folder: Path) -> "subprocess.Popen[bytes]":
    """This module again, training until it is ended."""
    command = [sys.executable, "-m", "tests.bench.ray_train", *sys.argv[1:]]
    spin = os.environ.get("GOMP_SPINCOUNT", "1000")  # as the command line has it
    env = {**os.environ, "GOMP_SPINCOUNT": spin}
    return subprocess.Popen([*command, "--train", way, str(folder)], env=env)


def window(
    of: str, process: "subprocess.Popen[bytes] | None", folder: Path, seconds: float
) -> float:
    """The mean seconds of a training's steps that begin and end while this process has its turn."""
    begin = time.monotonic()
    send(process, signal.SIGCONT)
    time.sleep(seconds)
    send(process, signal.SIGSTOP)
    ends = [at for at in steps(folder, of) if at > begin + UNCOUNTED]
    if len(ends) < 3:
        raise SystemExit(f"{len(ends)} steps in a window of {seconds:g} s: give a longer --window")
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def send(process: "subprocess.Popen[bytes] | None", number: int) -> None:
    """A signal to the process, if there is one, and all that descend from it."""
    for pid in [process.pid, *descendants(process.pid)] if process else []:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def descendants(root: int) -> Iterator[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
    known = {root}
    while new := {pid for pid, parent in parents.items() if parent in known} - known:
        known |= new
        yield from new


def steps(folder: Path, way: str) -> list[float]:
    """When each step of a training ended, by the machine's clock."""
    file = folder / f"{way}.steps"
    return [float(line) for line in file.read_text().split()] if file.exists() else []


def summed(windows: list[tuple[str, float]], one: str, other: str) -> dict[str, Any]:
    by = {way: [seconds for name, seconds in windows if name == way] for way in (one, other)}
    ratios = sorted(b / a for a, b in zip(by[one], by[other], strict=True))
    middle = statistics.median(ratios)
    draw = random.Random(0).choices
    drawn = [statistics.median(draw(ratios, k=len(ratios))) for _ in range(2000)]
    low, *_, high = statistics.quantiles(drawn, n=40)
    return {
        "bare_s": round(statistics.median(by[one]), 4),
        "ray_s": round(statistics.median(by[other]), 4),
        "overhead": round(middle - 1, 4),
        "overhead_95": [round(low - 1, 4), round(high - 1, 4)],
        "pairs": len(ratios),
    }


def train(way: str, where: str, args: argparse.Namespace) -> None:
    """Train until ended, telling the end of each step; first, under Ray, what a phase's start costs.
    Or keep an idle cluster."""
    folder = Path(where)
    if way == "idle":
        return idle(folder / "idle.begun")
    cfg = FitConfig(
        batch=args.batch, micro=4096, log_every=1, threads=args.threads, schedule=Schedule(warmup=2)
    )
    made = folder / way
    made.mkdir()
    index, file = plain(made, STEPS * args.batch, LENGTH, VOCABULARY)
    job = partial(run, cfg=cfg, index=index, file=file, folder=made, told=folder / f"{way}.steps")
    if way == "bare":
        from pipeline.model.world import World

        return job(World())
    connect()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # Ray's own prints a stack
    group = _Group(1, "CPU")
    first, *later = [asked(group) for _ in range(3)]
    fixed = {"first_phase_s": round(first, 2), "later_phase_s": round(statistics.median(later), 3)}
    (folder / "fixed.json").write_text(json.dumps(fixed))
    group.ask(job)


def idle(begun: Path) -> None:
    """A local cluster as curation leaves it, with Ray Data's actors."""
    import ray.data

    connect()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    ray.data.range(20_000).groupby("id").count().materialize()
    begun.touch()
    while True:  # not `pause`: a process that was stopped may take the signal in another thread
        time.sleep(1)


def run(
    world: Any, *, cfg: FitConfig, index: pa.Table, file: Path, folder: Path, told: Path
) -> None:
    """Train, writing down when each step ended."""
    from pipeline.model import architectures, batches
    from pipeline.model.fit import fit

    model = architectures.build("snowcoder-tiny", VOCABULARY, LENGTH, seed=0)
    fed = batches.Batches(index, [file], LENGTH, cfg.batch, 0, 0.5)
    with told.open("w", buffering=1) as out:

        def note(record: dict[str, Any]) -> None:
            out.write(f"{time.monotonic()}\n")
            if record["step"] == WARM:
                told.with_suffix(".begun").touch()

        fit(model, fed, cfg, folder=folder, world=world, on_step=note)


def asked(group: _Group) -> float:
    """Seconds from asking for a job until it begins, libraries loaded."""
    began = time.time()
    return float(group.ask(now)["now"]) - began


def now(world: Any) -> dict[str, Any]:
    import pipeline.model.fit  # noqa: F401 (what a phase begins with)

    return {"now": time.time()}


def shown(told: dict[str, Any]) -> list[str]:
    interval = " to ".join(f"{q:+.1%}" for q in told["overhead_95"])
    lines = [
        f"{told['pairs']} pairs of windows, {told['threads']} threads.",
        "",
        "| | seconds |",
        "|---|---|",
        f"| step, no Ray | {told['bare_s']:.3f} |",
        f"| step with Ray | {told['ray_s']:.3f} |",
        f"| overhead, median of the pairs | {told['overhead']:+.1%} (95 %: {interval}) |",
    ]
    if "first_phase_s" in told:
        lines.append(f"| fixed cost of a run's first phase | {told['first_phase_s']:.1f} |")
        lines.append(f"| of each later one | {told['later_phase_s']:.3f} |")
    return [*lines, "", ", ".join(f"{k} {v}" for k, v in told["versions"].items())]


if __name__ == "__main__":
    main()
