"""What a step leaves behind: its line in metrics.jsonl, or an error that names its documents.

Losses are read from the device for several steps at once (a read makes a GPU wait).
"""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from pipeline.core.errors import StageError
from pipeline.core.store import guard
from pipeline.model.batches import Batches
from pipeline.model.flops import Utilisation
from pipeline.model.world import World

SHOWN = 20
"""Documents named in the error about a broken loss (ours)."""


@dataclass(frozen=True)
class Step:
    """A step just taken: its number from 0, when it began (`perf_counter`); this process's part of
    the mean loss and the gradient's norm, still on the device."""

    number: int
    began: float
    loss: torch.Tensor
    norm: torch.Tensor
    lr: float


def ignore(record: dict[str, Any]) -> None:
    """The `on_step` of a call that needs none."""


def cut(path: Path, steps: int) -> None:
    """Leave only the lines of the first `steps` steps, in one move; a torn last line goes too."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    half = path.with_name(f".half-{path.name}")
    half.write_bytes(b"".join(lines[:steps]))
    os.replace(half, path)


def record(
    taken: Sequence[Step],
    meta: dict[str, Any],
    batches: Batches,
    folder: Path,
    world: World,
    on_step: Callable[[dict[str, Any]], None],
    used: Utilisation,
) -> dict[str, Any]:
    """Read the losses of some steps, write their lines; the record with these steps added."""
    losses = torch.stack([s.loss for s in taken])
    if world.size > 1:
        distributed.all_reduce(losses)
    read = torch.stack([losses, torch.stack([s.norm for s in taken])]).T.tolist()
    seconds = time.perf_counter() - taken[0].began
    counts = [batches.tokens(s.number) for s in taken]
    rate = sum(counts) / seconds
    lines, total = [], meta["tokens"]
    for step, (loss, norm), tokens in zip(taken, read, counts, strict=True):
        if not math.isfinite(loss + norm):
            raise _broken(step.number, loss, norm, batches)
        total += tokens
        line = {"step": step.number, "loss": loss, "lr": step.lr, "grad_norm": norm}
        lines.append(line | {"tokens": total, "tokens_per_s": round(rate), **used(rate)})
    if world.rank == 0:
        _append(folder / "metrics.jsonl", lines)
    for line in lines:
        on_step(line)
    first = meta["loss_first"] if meta["steps"] else lines[0]["loss"]
    return {
        "steps": meta["steps"] + len(taken),
        "tokens": total,
        "loss_first": first,
        "loss_last": lines[-1]["loss"],
        "lr_last": lines[-1]["lr"],
        "seconds": meta["seconds"] + seconds,
    }


def _append(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    with guard(path), open(path, "a") as f:
        f.writelines(json.dumps(line) + "\n" for line in lines)
        f.flush()
        os.fsync(f.fileno())


def _broken(number: int, loss: float, norm: float, batches: Batches) -> StageError:
    uids = list(dict.fromkeys(batches.pieces(number)["uid"].to_pylist()))
    more = f" and {len(uids) - SHOWN} more" if len(uids) > SHOWN else ""
    return StageError(
        f"step {number}: loss is {loss}, gradient norm {norm}; lower schedule.peak or clip, or "
        f"look at the batch's documents: {', '.join(uids[:SHOWN])}{more}"
    )
