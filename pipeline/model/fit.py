"""The training loop: batches in, a trained model and a line per step out (torch only).

AdamW, gradients averaged over the processes of a `World`, exact resume: after kill -9 the same call
goes on from the newest checkpoint to bit-equal weights on the same CPU and thread count. Plain
causal attention over the whole sequence, as in SnowCoder. Knows nothing of Ray or recipes.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.core.errors import RecipeError
from pipeline.core.log import progress
from pipeline.model import checkpoint
from pipeline.model.architectures import Scale
from pipeline.model.batches import Batches
from pipeline.model.machine import borrowed
from pipeline.model.metrics import Step, cut, ignore, record
from pipeline.model.objective import Objective
from pipeline.model.optimizer import PLAIN, adamw, clip
from pipeline.model.saver import saver
from pipeline.model.schedules import rate
from pipeline.model.settings import FitConfig
from pipeline.model.world import Group, World, host_group, quiet, spread

log = logging.getLogger(__name__)


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
    tokens_per_s) and checkpoints/; nothing else is written. Of a sharded model the weights are in
    the last checkpoint alone (`checkpoint.weights`). before: the folder of the phase whose
    optimizer goes on (`optimizer: carry`). scales: of the weights, by name, that are not plain
    (`architectures.scales`). on_step sees each line's record, in every process.
    Returns steps, tokens, loss_first, loss_last and seconds of the steps that count.
    RecipeError for settings that cannot work; StageError when the loss is not finite.
    """
    world = world or World()
    _check(batches, cfg, world)
    with borrowed(cfg.threads, world.device):
        net = spread(Objective(model.train()), world, cfg.sharding)
        optimizer, among = adamw(model, cfg, scales), host_group(world)
        meta = _resume(model, optimizer, cfg, folder, world, among, before)
        kept = folder / "checkpoints"
        tidy = partial(checkpoint.keep, kept, cfg.keep)
        with (
            saver(kept, world, among, tidy) as behind,
            progress("train", batches.steps) as advance,
        ):
            advance(meta["steps"])
            for taken in _rounds(net, optimizer, batches, cfg, world, meta["steps"]):
                meta = record(taken, meta, batches, folder, world, on_step)
                advance(len(taken))
                behind.check()
                if _due(meta["steps"], batches.steps, cfg):
                    behind.save(meta["steps"], model, optimizer, meta)
        model.eval()
    return meta


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
    among: Group,
    before: Path | None,
) -> dict[str, Any]:
    """The newest checkpoint's weights, moments and record, or a new record."""
    meta = checkpoint.load_latest(folder / "checkpoints", model, optimizer, among)
    if meta is not None:
        log.info("train      goes on from step %d", meta["steps"])
    elif cfg.optimizer == "carry":
        if before is None:
            raise RecipeError("optimizer is carry, but there is no phase before; use reset")
        checkpoint.carry(before / "checkpoints", model, optimizer, among)
    start = meta or {"steps": 0, "tokens": 0, "loss_first": None, "loss_last": None, "seconds": 0.0}
    if world.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        cut(folder / "metrics.jsonl", start["steps"])
    return start


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
        with quiet(net, at + 1 < len(pairs)):
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
