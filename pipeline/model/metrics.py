"""What a step leaves behind: its line in metrics.jsonl, or an error that names its documents.

Losses are read from the device for several steps at once (a read makes a GPU wait).
"""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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
    """A step just taken: its number from 0, when it began (`perf_counter`), seconds it waited for
    its batch; this process's part of the mean loss, the gradient's norm and whether the step was
    left out (0 or 1), still on the device."""

    number: int
    began: float
    waited: float
    loss: torch.Tensor
    norm: torch.Tensor
    skipped: torch.Tensor
    lr: float


@dataclass(frozen=True)
class Book:
    """Where the records of a phase go: `folder`/metrics.jsonl, and `on_step` in every process.
    used: the model's flop utilisation at a rate of tokens."""

    name: str
    folder: Path
    batches: Batches
    world: World
    on_step: Callable[[dict[str, Any]], None]
    used: Utilisation


def ignore(record: dict[str, Any]) -> None:
    """The `on_step` of a call that needs none."""


def cut(path: Path, steps: int) -> None:
    """Leave only the lines of the first `steps` steps, in one move; a torn last line goes too."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    half = path.with_name(f".half-{path.name}")
    half.write_bytes(b"".join(lines[:steps]))
    os.replace(half, path)


def before_step(path: Path, steps: int) -> list[tuple[float, float]]:
    """(loss, gradient norm) of the first `steps` steps, bit for bit as they were."""
    lines = path.read_bytes().splitlines()[:steps] if path.exists() else []
    return [(line["loss"], line["grad_norm"]) for line in map(json.loads, lines)]


def record(
    taken: Sequence[Step],
    meta: dict[str, Any],
    book: Book,
    heldout: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Read the losses of some steps, write their lines; the record with these steps added.

    heldout: bits per byte by language after the last of them, where they were measured.
    """
    seconds = time.perf_counter() - taken[0].began
    read = _read(taken, book.world)
    lines = _lines(taken, read, meta["tokens"], seconds, book)
    last = {} if heldout is None else {"heldout": dict(heldout)}
    lines[-1] |= last
    if book.world.rank == 0:
        _append(book.folder / "metrics.jsonl", lines)
    for line in lines:
        book.on_step(line)
    return (
        meta
        | last
        | {
            "steps": meta["steps"] + len(taken),
            "tokens": lines[-1]["tokens"],
            "loss_first": meta["loss_first"] if meta["steps"] else lines[0]["loss"],
            "loss_last": lines[-1]["loss"],
            "lr_last": lines[-1]["lr"],
            "skipped": meta["skipped"] + sum(line["skipped"] for line in lines),
            "seconds": meta["seconds"] + seconds,
        }
    )


def _read(taken: Sequence[Step], world: World) -> list[list[float]]:
    """Loss, norm and whether it was left out, of each step."""
    losses = torch.stack([s.loss for s in taken])
    if world.size > 1:
        distributed.all_reduce(losses)
    norms, skipped = (torch.stack([getattr(s, k) for s in taken]) for k in ("norm", "skipped"))
    return torch.stack([losses, norms, skipped]).T.tolist()


def _lines(
    taken: Sequence[Step], read: list[list[float]], tokens: int, seconds: float, book: Book
) -> list[dict[str, Any]]:
    counts = [book.batches.tokens(s.number) for s in taken]
    rate = sum(counts) / seconds
    shared = {
        "tokens_per_s": round(rate),
        **book.used(rate),
        "wait": round(sum(s.waited for s in taken) / seconds, 4),
        "memory": peak(book.world.device),
    }
    lines: list[dict[str, Any]] = []
    for step, (loss, norm, skipped), count in zip(taken, read, counts, strict=True):
        if not math.isfinite(loss + norm):
            raise _broken(step.number, loss, norm, book)
        tokens += count
        line = {"step": step.number, "loss": loss, "lr": step.lr, "grad_norm": norm}
        lines.append(line | {"tokens": tokens, "skipped": int(skipped), **shared})
    return lines


def peak(device: torch.device) -> int:
    """Most bytes held so far: of the accelerator's memory by this process, or of the CPU's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _append(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    with guard(path), open(path, "a") as f:
        f.writelines(json.dumps(line) + "\n" for line in lines)
        f.flush()
        os.fsync(f.fileno())


def _broken(number: int, loss: float, norm: float, book: Book) -> StageError:
    uids = list(dict.fromkeys(book.batches.pieces(number)["uid"].to_pylist()))
    more = f" and {len(uids) - SHOWN} more" if len(uids) > SHOWN else ""
    return StageError(
        f"{book.name}, step {number}: loss is {loss}, gradient norm {norm}; lower schedule.peak or "
        f"clip, or look at the batch (`icefloe show {book.name} --batch {number}`, or `icefloe "
        f"explain UID` for one of its documents): {', '.join(uids[:SHOWN])}{more}"
    )
