"""The training loop: batches in, a trained model and a line per step out (torch only).

AdamW, gradients averaged over the processes of a `World`, exact resume: after kill -9 the same call
goes on from the newest checkpoint to bit-equal weights on the same CPU and thread count. Plain
causal attention over the whole sequence, as in SnowCoder. Knows nothing of Ray or recipes.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional

from pipeline.core.errors import RecipeError, StageError
from pipeline.core.log import progress
from pipeline.core.store import guard
from pipeline.model import checkpoint
from pipeline.model.architectures import Scale
from pipeline.model.batches import IGNORED, Batches
from pipeline.model.machine import borrowed
from pipeline.model.schedules import rate
from pipeline.model.settings import FitConfig

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
PLAIN: Mapping[str, Scale] = {}
SHOWN = 20
"""Documents named in the error about a broken loss (ours)."""


def alone(module: nn.Module) -> nn.Module:
    """The `wrap` of a world of one."""
    return module


@dataclass(frozen=True)
class World:
    """This process's place among those that train one model.

    `wrap` averages gradients over the `size` processes in the backward pass (DDP); they share the
    training folder, and a torch process group that all-reduces.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    wrap: Callable[[nn.Module], nn.Module] = alone


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


def fit(
    model: Any,
    batches: Batches,
    cfg: FitConfig,
    *,
    folder: Path,
    world: World | None = None,
    before: Path | None = None,
    scales: Mapping[str, Scale] = PLAIN,
    on_step: Callable[[dict[str, Any]], None] = ignore,
) -> dict[str, Any]:
    """Train `model` in place on every step of `batches`, or on those left after a kill.

    folder: gets metrics.jsonl (step from 0, loss in nats, lr, grad_norm, tokens so far,
    tokens_per_s) and checkpoints/; nothing else is written. before: the folder of the phase whose
    optimizer goes on (`optimizer: carry`). scales: of the weights, by name, that are not plain
    (`architectures.scales`). on_step sees each line's record, in every process.
    Returns steps, tokens, loss_first, loss_last and seconds of the steps that count.
    RecipeError for settings that cannot work; StageError when the loss is not finite.
    """
    world = world or World()
    _check(batches, cfg, world)
    with borrowed(cfg.threads, world.device):
        model.to(world.device).train()
        optimizer = adamw(model, cfg, scales)
        meta = _resume(model, optimizer, cfg, folder, world, before)
        net = world.wrap(Objective(model))
        with progress("train", batches.steps) as advance:
            advance(meta["steps"])
            for taken in _rounds(net, optimizer, batches, cfg, world, meta["steps"]):
                meta = _record(taken, meta, batches, folder, world, on_step)
                advance(len(taken))
                if world.rank == 0 and _due(meta["steps"], batches.steps, cfg):
                    checkpoint.save(folder / "checkpoints", meta["steps"], model, optimizer, meta)
                    checkpoint.keep(folder / "checkpoints", cfg.keep)
        model.eval()
    return meta


class Objective(nn.Module):
    """The summed next-token loss of a model, as one module that a process group can wrap."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """ids, labels (B, T) -> scalar, in nats: place t predicts label t + 1."""
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        logits = self.model.get_output_embeddings()(hidden)
        targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        return functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )


def adamw(
    model: nn.Module, cfg: FitConfig, scales: Mapping[str, Scale] = PLAIN
) -> torch.optim.AdamW:
    """Fused AdamW; matrices decay, vectors (norms, biases) do not.

    A weight stored c times as large takes steps c times as large and gets gradients 1 / c of the
    paper's: its group's rate, decay and epsilon make it move as the paper's would (muP, ours).
    """
    groups: dict[tuple[bool, Scale], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            scale = scales.get(name, Scale())._replace(init=None)
            groups.setdefault((weight.ndim > 1, scale), []).append(weight)
    settings: list[dict[str, Any]] = [
        {
            "params": weights,
            "weight_decay": cfg.weight_decay / scale.stored if decays else 0.0,
            "eps": cfg.eps / scale.stored,
            "scale": scale,
        }
        for (decays, scale), weights in groups.items()
    ]
    return torch.optim.AdamW(settings, betas=cfg.betas, eps=cfg.eps, fused=True)


def clip(optimizer: torch.optim.Optimizer, most: float) -> torch.Tensor:
    """Scale all gradients so that their norm is at most `most`; the norm they had, of the paper's
    values."""
    pairs = [(p, g["scale"].stored) for g in optimizer.param_groups for p in g["params"]]
    given = [(p, p.grad, stored) for p, stored in pairs if p.grad is not None]
    norm = nn.utils.get_total_norm([g if c == 1 else g * c for _, g, c in given])
    nn.utils.clip_grads_with_norm_([p for p, _, _ in given], most, norm)
    return norm


def _check(batches: Batches, cfg: FitConfig, world: World) -> None:
    if batches.size != cfg.batch:
        raise ValueError(f"batches of {batches.size} sequences, but batch is {cfg.batch}")
    if batches.steps == 0:
        raise RecipeError(
            f"batch is {cfg.batch}, more sequences than were packed; lower it or pack more tokens"
        )
    if cfg.batch % world.size:
        raise RecipeError(f"batch is {cfg.batch}: not a multiple of {world.size} processes")
    rate(cfg.schedule, 0, batches.steps)


def _resume(
    model: Any,
    optimizer: torch.optim.Optimizer,
    cfg: FitConfig,
    folder: Path,
    world: World,
    before: Path | None,
) -> dict[str, Any]:
    """The newest checkpoint's weights, moments and record, or a new record."""
    meta = checkpoint.load_latest(folder / "checkpoints", model, optimizer)
    if meta is not None:
        log.info("train      goes on from step %d", meta["steps"])
    elif cfg.optimizer == "carry":
        if before is None:
            raise RecipeError("optimizer is carry, but there is no phase before; use reset")
        checkpoint.carry(before / "checkpoints", model, optimizer)
    start = meta or {"steps": 0, "tokens": 0, "loss_first": None, "loss_last": None, "seconds": 0.0}
    if world.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        cut(folder / "metrics.jsonl", start["steps"])
    return start


def cut(path: Path, steps: int) -> None:
    """Leave only the lines of the first `steps` steps, in one move; a torn last line goes too."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    half = path.with_name(f".half-{path.name}")
    half.write_bytes(b"".join(lines[:steps]))
    os.replace(half, path)


def _due(done: int, steps: int, cfg: FitConfig) -> bool:
    return done == steps or done % cfg.checkpoint_every == 0


def _rounds(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    cfg: FitConfig,
    world: World,
    start: int,
) -> Iterator[list[Step]]:
    """Take the steps from `start` on, and give them in the portions that are read together."""
    taken: list[Step] = []
    for number in range(start, batches.steps):
        taken.append(_step(net, optimizer, batches, cfg, world, number))
        if len(taken) >= cfg.log_every or _due(number + 1, batches.steps, cfg):
            yield taken
            taken = []


def _step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    cfg: FitConfig,
    world: World,
    number: int,
) -> Step:
    """One optimizer step; its loss is the mean over every predicted token of the global batch."""
    began = time.perf_counter()
    torch.manual_seed((cfg.seed * batches.steps + number) * world.size + world.rank)
    lr = rate(cfg.schedule, number, batches.steps)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"].lr * group["scale"].stored
    ids, labels = (torch.from_numpy(x) for x in batches.batch(number, world.rank, world.size))
    rows = max(1, cfg.micro // batches.length)
    pairs = [(ids[i : i + rows], labels[i : i + rows]) for i in range(0, len(ids), rows)]
    loss = torch.zeros((), device=world.device)
    for at, (x, y) in enumerate(pairs):
        with _quiet(net, at + 1 < len(pairs)):
            part = _forward(net, x, y, world.device) / batches.targets(number)
            (part * world.size).backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
    norm = clip(optimizer, cfg.clip)
    optimizer.step()
    optimizer.zero_grad()
    return Step(number, began, loss, norm, lr)


def _forward(
    net: nn.Module, ids: torch.Tensor, labels: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """The summed loss; bfloat16 on an accelerator, float32 on a CPU."""
    x, y = (t.to(device, non_blocking=True) for t in (ids, labels))
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
        return net(x, y)  # type: ignore[no-any-return]


def _quiet(net: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """No averaging between the parts of a batch: only the last one's backward pass talks."""
    if wanted and isinstance(net, nn.parallel.DistributedDataParallel):
        return net.no_sync()  # type: ignore[no-any-return, no-untyped-call]
    return nullcontext()


def _record(
    taken: Sequence[Step],
    meta: dict[str, Any],
    batches: Batches,
    folder: Path,
    world: World,
    on_step: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Read the losses of some steps, write their lines; the record with these steps added."""
    losses = torch.stack([s.loss for s in taken])
    if world.size > 1:
        distributed.all_reduce(losses)
    read = torch.stack([losses, torch.stack([s.norm for s in taken])]).T.tolist()
    seconds = time.perf_counter() - taken[0].began
    counts = [batches.tokens(s.number) for s in taken]
    lines, total = [], meta["tokens"]
    for step, (loss, norm), tokens in zip(taken, read, counts, strict=True):
        if not math.isfinite(loss + norm):
            raise _broken(step.number, loss, norm, batches)
        total += tokens
        line = {"step": step.number, "loss": loss, "lr": step.lr, "grad_norm": norm}
        lines.append(line | {"tokens": total, "tokens_per_s": round(sum(counts) / seconds)})
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
