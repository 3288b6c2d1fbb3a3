"""The training loop: batches in, a trained model and a line per step out (torch only).

AdamW, gradients averaged over the processes of a `World`, exact resume: after kill -9 the same call
goes on from the newest checkpoint to bit-equal weights on the same CPU and thread count. Plain
causal attention over the whole sequence, as in SnowCoder. Knows nothing of Ray or recipes.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.core.errors import RecipeError
from pipeline.core.log import progress
from pipeline.model import checkpoint, heldout, kept, loggers, speed
from pipeline.model.architectures import Scale
from pipeline.model.batches import Batches
from pipeline.model.bits import Slice
from pipeline.model.feed import Part, ahead, parts
from pipeline.model.flops import utilisation
from pipeline.model.machine import borrowed
from pipeline.model.metrics import Book, Step, before_step, cut, ignore, record
from pipeline.model.objective import Objective
from pipeline.model.optimizer import PLAIN, adamw, clip
from pipeline.model.saver import saver
from pipeline.model.schedules import rate
from pipeline.model.settings import FitConfig
from pipeline.model.spikes import Spikes
from pipeline.model.world import Group, World, host_group, quiet, spread

log = logging.getLogger(__name__)
NOTHING: Mapping[str, Slice] = {}
NEW = {"steps": 0, "tokens": 0, "skipped": 0, "loss_first": None, "loss_last": None, "seconds": 0.0}
"""The record of a phase before its first step."""


@dataclass(frozen=True)
class Run:
    """What every step of a phase works with."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    spikes: Spikes
    batches: Batches
    cfg: FitConfig
    world: World


def fit(
    model: Any,
    batches: Batches,
    cfg: FitConfig,
    *,
    folder: Path,
    world: World | None = None,
    before: Path | None = None,
    scales: Mapping[str, Scale] = PLAIN,
    slices: Mapping[str, Slice] = NOTHING,
    name: str = "train",
    on_step: Callable[[dict[str, Any]], None] = ignore,
) -> dict[str, Any]:
    """Train `model` in place on every step of `batches`, or on those left after a kill.

    folder: gets metrics.jsonl (step from 0, loss in nats, lr, grad_norm, tokens so far, skipped,
    tokens_per_s, on a GPU mfu_full and mfu_causal, wait: the share of the time without data, memory:
    bytes at most, heldout where it was measured), checkpoints/ and their table; logs/ where `log_to`
    asks for it. Of a sharded model the weights are in the last checkpoint alone
    (`checkpoint.weights`). before: the folder of the phase whose optimizer goes on (`optimizer:
    carry`). scales: of the weights, by name, that are not plain (`architectures.scales`). slices:
    held-out text by language. name: the phase's, for people. on_step sees each line's record, in
    every process.
    Returns steps, tokens, loss_first, loss_last, lr_last, skipped, seconds of the steps that count,
    and heldout. RecipeError for settings that cannot work; StageError when the loss is not finite.
    """
    world = world or World()
    _check(batches, cfg, world)
    marks, stops = kept.due(batches, cfg), heldout.due(batches.steps, cfg, slices)
    used = utilisation(model, batches.length, world.device, world.size)
    with borrowed(cfg.threads, world.device):
        net = spread(Objective(model.train()), world, cfg.sharding)
        optimizer, among = adamw(model, cfg, scales), host_group(world)
        meta = _resume(model, optimizer, cfg, folder, world, among, before, name)
        spikes = Spikes(cfg, world, before_step(folder / "metrics.jsonl", meta["steps"]))
        run = Run(net, optimizer, spikes, batches, cfg, world)
        told = loggers.logged(cfg, folder / "logs", name, meta["steps"], world, on_step)
        tidy = partial(kept.leave, folder, name, cfg)
        with (
            saver(folder / "checkpoints", world, among, tidy) as behind,
            _quick(model, run),
            progress(name, batches.steps) as advance,
            told as tell,
        ):
            book = Book(name, folder, batches, world, tell, used)
            advance(meta["steps"])
            for taken in _rounds(run, meta["steps"], marks | stops):
                done = taken[-1].number + 1
                held = _measure(run, slices) if done in stops else None
                meta = record(taken, meta, book, held)
                advance(len(taken))
                behind.check()
                if done in marks:
                    behind.save(done, model, optimizer, meta)
        model.eval()
    return meta


def _quick(model: Any, run: Run) -> AbstractContextManager[None]:
    length, batches = run.batches.length, run.batches
    tokens = batches.steps * batches.size * length // run.world.size
    return speed.quick(model, run.cfg, tokens, length, run.world.device)


def _measure(run: Run, slices: Mapping[str, Slice]) -> dict[str, float]:
    def forward(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return _forward(run, Part(ids, labels, None))

    return heldout.measure(run.net, forward, slices, run.cfg, run.world)


def _check(batches: Batches, cfg: FitConfig, world: World) -> None:
    if batches.size != cfg.batch:
        raise ValueError(f"batches of {batches.size} sequences, but batch is {cfg.batch}")
    if batches.documents != cfg.mask_documents:
        raise ValueError(f"batches.documents is {batches.documents}, but mask_documents is not")
    if batches.steps == 0:
        raise RecipeError(
            f"batch is {cfg.batch}, more sequences than were packed; lower it or pack more tokens"
        )
    if cfg.batch % world.size:
        raise RecipeError(f"batch is {cfg.batch}: not a multiple of {world.size} processes")
    rate(cfg.schedule, 0, batches.steps)
    loggers.check(cfg)


def _resume(
    model: Any,
    optimizer: torch.optim.Optimizer,
    cfg: FitConfig,
    folder: Path,
    world: World,
    among: Group,
    before: Path | None,
    name: str,
) -> dict[str, Any]:
    """The newest checkpoint's weights, moments and record, or a new record."""
    meta = checkpoint.load_latest(folder / "checkpoints", model, optimizer, among)
    if meta is not None:
        log.info("%-10s goes on from step %d", name, meta["steps"])
    elif cfg.optimizer == "carry":
        if before is None:
            raise RecipeError("optimizer is carry, but there is no phase before; use reset")
        checkpoint.carry(before / "checkpoints", model, optimizer, among)
    start = meta or dict(NEW)
    if world.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        cut(folder / "metrics.jsonl", start["steps"])
        if meta:
            kept.note(folder, name, meta)
    return start


def _rounds(run: Run, start: int, ends: frozenset[int]) -> Iterator[list[Step]]:
    """Take the steps from `start` on, and give them in the portions that are read together; each of
    `ends` (steps done) ends one."""
    taken: list[Step] = []
    load = partial(parts, run.batches, run.cfg.micro, run.world)
    with closing(ahead(load, range(start, run.batches.steps))) as fed:
        for number, given, waited in fed:
            taken.append(_step(run, number, given, waited))
            speed.collect(number)
            if len(taken) >= run.cfg.log_every or number + 1 in ends:
                yield taken
                taken = []


def _step(run: Run, number: int, given: Sequence[Part], waited: float) -> Step:
    """One optimizer step; its loss is the mean over every predicted token of the global batch."""
    began = time.perf_counter() - waited
    batches, world = run.batches, run.world
    torch.manual_seed((run.cfg.seed * batches.steps + number) * world.size + world.rank)
    lr = rate(run.cfg.schedule, number, batches.steps)
    for group in run.optimizer.param_groups:
        group["lr"] = lr * group["scale"].lr * group["scale"].stored
    loss = torch.zeros((), device=world.device)
    for at, part in enumerate(given):
        with quiet(run.net, at + 1 < len(given)):
            share = _forward(run, part) / batches.targets(number)
            (share * world.size).backward()  # type: ignore[no-untyped-call]
        loss += share.detach()
    norm = clip(run.optimizer, run.cfg.clip)
    skipped = run.spikes.check(run.optimizer, loss, norm)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return Step(number, began, waited, loss, norm, skipped, lr)


def _forward(run: Run, part: Part) -> torch.Tensor:
    """The summed loss; bfloat16 on an accelerator, float32 on a CPU."""
    device = run.world.device
    given = [None if x is None else x.to(device, non_blocking=True) for x in part]
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
        return run.net(*given)  # type: ignore[no-any-return]
