"""Held-out bits per byte by language, measured inside the training loop.

Every process measures its share of the windows, in as many forward passes as the others, so that
sharded weights can be gathered together. Draws nothing: training goes on as if it had not been.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import distributed, nn

from pipeline.model.bits import IGNORED, Slice, bits
from pipeline.model.settings import FitConfig
from pipeline.model.world import World

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""ids, labels (B, T) -> their summed loss in nats."""


def due(steps: int, cfg: FitConfig, slices: Mapping[str, Slice]) -> frozenset[int]:
    """The numbers of steps done after which is measured; never where there is nothing to."""
    every = cfg.heldout_every
    return frozenset({*range(every, steps, every), steps}) if slices else frozenset()


def measure(
    net: nn.Module, forward: Forward, slices: Mapping[str, Slice], cfg: FitConfig, world: World
) -> dict[str, float]:
    """Bits per byte of each slice (a language). `net` is in training mode before and after."""
    net.eval()
    nats = torch.zeros(len(slices), dtype=torch.float64)
    with torch.no_grad():
        for at, found in enumerate(slices.values()):
            nats[at] = sum(forward(*pair).double() for pair in _pairs(found, cfg, world))
    net.train()
    if world.size > 1:
        nats = nats.to(world.device)
        distributed.all_reduce(nats)
    told = zip(slices.items(), nats.tolist(), strict=True)
    return {name: bits(total, found.size) for (name, found), total in told}


def _pairs(found: Slice, cfg: FitConfig, world: World) -> list[Any]:
    """This process's windows in portions of `micro` tokens; the last one filled up with nothing."""
    count, length = found.ids.shape
    rows = max(1, cfg.micro // length)
    portions = math.ceil(count / (rows * world.size))
    fill = portions * rows * world.size - count
    ids = np.pad(found.ids, ((0, fill), (0, 0)))[world.rank :: world.size]
    labels = np.pad(found.labels, ((0, fill), (0, 0)), constant_values=IGNORED)
    mine = (torch.from_numpy(x.astype(np.int64)) for x in (ids, labels[world.rank :: world.size]))
    return list(zip(*(torch.split(x, rows) for x in mine), strict=True))
